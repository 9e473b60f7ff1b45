"""`rmqkit consume` against a real RabbitMQ: printed messages are acknowledged, and no others."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.support.cli import Run, Start, parse_report
from tests.support.proxy import Proxy
from tests.support.queues import consumers, declare, drain, fill
from tests.support.terminal import terminal
from tests.support.wait import wait_for_queue, wait_until

RMQKIT = (sys.executable, "-m", "rmqkit")


def test_20_000_bodies_are_printed_in_order_and_the_queue_is_empty(
    start: Start, channel: BlockingChannel, queue: str
) -> None:
    bodies = fill(channel, queue, 20_000)
    stdout, stderr = start(queue, "-n", 20_000, "--json").communicate(timeout=90)
    assert stdout.splitlines() == bodies
    assert parse_report(stderr)["acknowledged"] == 20_000
    wait_for_queue(channel, queue, ready=0, consumers=0)


def test_bodies_go_to_a_file_byte_for_byte(start: Start, channel: BlockingChannel, queue: str, tmp_path: Path) -> None:
    everything = bytes(range(256))
    for body in (everything, b"", b"\x1b[31m"):
        channel.basic_publish("", queue, body)
    with (tmp_path / "out").open("wb") as file:
        assert start(queue, "-n", 3, stdout=file).wait(90) == 0
    assert (tmp_path / "out").read_bytes() == everything + b"\n\n\x1b[31m\n"


@pytest.mark.parametrize("how", [(), ("--channels", 3), ("--workers", 3), ("--workers", 2, "--channels", 2)])
def test_a_count_is_exact_for_any_number_of_consumers(
    start: Start, channel: BlockingChannel, queue: str, how: tuple[object, ...]
) -> None:
    bodies = fill(channel, queue, 1_000)
    process = start(queue, "-n", 400, "--json", *how)
    stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == 0, stderr
    printed = stdout.splitlines()
    assert len(printed) == len(set(printed)) == 400
    assert sum(parse_report(stderr)["shares"].values()) == 400
    wait_for_queue(channel, queue, ready=600, consumers=0)
    assert sorted(drain(channel, queue) + printed) == sorted(bodies)


def test_one_message_is_consumed_without_the_delivery_of_another(live: Run, vhost_channel: BlockingChannel) -> None:
    """That would return behind those that a quorum queue requeued before."""
    declare(vhost_channel, "orders", x_queue_type="quorum")
    sent = fill(vhost_channel, "orders", 5)
    last = [vhost_channel.basic_get("orders")[0] for _ in sent][-1]
    vhost_channel.basic_nack(last.delivery_tag, multiple=True)
    wait_for_queue(vhost_channel, "orders", ready=5)
    done = live("consume", "orders", "-n", 1)
    assert (done.returncode, done.stdout.encode()) == (0, sent[0] + b"\n")
    wait_for_queue(vhost_channel, "orders", ready=4, consumers=0)
    assert drain(vhost_channel, "orders") == sent[1:]


def test_an_idle_timeout_ends_the_run(start: Start, channel: BlockingChannel, queue: str) -> None:
    fill(channel, queue, 3)
    process = start(queue, "--idle-timeout", 0.3)
    stdout, stderr = process.communicate(timeout=90)
    assert (process.returncode, stdout) == (0, b"0 \n1 \n2 \n")
    assert b"Consumed 3 messages" in stderr


@pytest.mark.parametrize("how", [(), ("--channels", 2), ("--workers", 2)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_consuming_and_unprinted_messages_stay(
    start: Start, channel: BlockingChannel, queue: str, how: tuple[object, ...], number: int
) -> None:
    bodies = fill(channel, queue, 5_000, size=100)
    process = start(queue, "--prefetch", 50, *how)
    assert process.stdout is not None
    first = process.stdout.readline()  # it is at work, and will soon wait for us to read on
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == 128 + number, stderr
    *whole, half = (first + stdout).split(b"\n")
    wait_for_queue(channel, queue, ready=len(bodies) - len(whole), consumers=0)
    left = drain(channel, queue)
    assert sorted(whole + left) == sorted(bodies)
    assert not half or any(body.startswith(half) for body in left)


def test_a_signal_stops_consuming_while_the_reader_is_idle(start: Start, channel: BlockingChannel, queue: str) -> None:
    bodies = fill(channel, queue, 3_000, size=1_000)
    process = start(queue, "--prefetch", 1_000)
    wait_for_queue(channel, queue, consumers=1)
    deadline_s = time.monotonic() + 20
    while channel.queue_declare(queue, passive=True).method.message_count == len(bodies):
        assert time.monotonic() < deadline_s
    process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 143
    assert process.stdout is not None
    *whole, _ = process.stdout.read().split(b"\n")
    wait_for_queue(channel, queue, ready=len(bodies) - len(whole))
    assert sorted(whole + drain(channel, queue)) == sorted(bodies)


def test_two_signals_stop_consuming_immediately(start: Start, channel: BlockingChannel, queue: str) -> None:
    process = start(queue)
    wait_for_queue(channel, queue, consumers=1)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 130


@pytest.mark.parametrize("how", [(), ("--channels", 2), ("--workers", 2)])
def test_a_closed_reader_ends_the_run_and_unwritten_messages_stay(
    start: Start, channel: BlockingChannel, queue: str, how: tuple[object, ...]
) -> None:
    bodies = fill(channel, queue, 5_000, size=100)
    process = start(queue, "--prefetch", 10, "--json", *how)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 3
    assert parse_report(stderr)["error"] == "OutputError"
    written = parse_report(stderr)["acknowledged"]
    assert 0 < written < len(bodies)
    wait_for_queue(channel, queue, ready=len(bodies) - written)


@pytest.mark.parametrize("how", [(), ("--channels", 2), ("--workers", 2)])
@pytest.mark.parametrize("closed", [False, True])
def test_no_ack_prefetches_little_and_counts_lost_messages(
    start: Start, channel: BlockingChannel, queue: str, how: tuple[object, ...], closed: bool
) -> None:
    """With a reader that stops reading, and with one that goes away, as `head -1` does."""
    bodies = fill(channel, queue, 20_000, size=100)
    process = start(queue, "--no-ack", "--json", *how)
    assert process.stdout is not None
    printed = process.stdout.readline().count(b"\n")
    if closed:
        process.stdout.close()
        process.stdout = None
    else:
        process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=90)
    report = parse_report(stderr)
    printed += (stdout or b"").count(b"\n")
    assert report["lost"] <= 200, "each consumer has up to 100 in hand"
    assert process.returncode == (8 if report["lost"] else 3 if closed else 130)
    wait_for_queue(channel, queue, ready=len(bodies) - report["acknowledged"] - report["lost"], consumers=0)
    assert closed or report["acknowledged"] == printed


def test_the_summary_of_no_ack_counts_lost_messages(start: Start, channel: BlockingChannel, queue: str) -> None:
    fill(channel, queue, 2_000, size=2_000)  # a pipe holds some 30 of them
    process = start(queue, "--no-ack")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    _, stderr = process.communicate(timeout=90)
    assert re.search(rb"; \d+ lost \(acknowledged, not handled\)", stderr), stderr
    assert process.returncode == 8


@pytest.mark.parametrize("how", [(), ("--channels", 2), ("--workers", 2)])
def test_a_full_disk_ends_the_run_and_all_messages_stay(
    start: Start, channel: BlockingChannel, queue: str, how: tuple[object, ...]
) -> None:
    bodies = fill(channel, queue, 100)
    with Path("/dev/full").open("wb") as full:
        process = start(queue, *how, stdout=full)
        _, stderr = process.communicate(timeout=90)
    assert process.returncode == 3
    assert stderr.count(b"error: cannot write the output: No space left on device") == 1
    wait_for_queue(channel, queue, ready=100)
    assert sorted(drain(channel, queue)) == sorted(bodies)


@pytest.mark.parametrize("how", [(), ("--workers", 2)])
def test_a_closed_output_is_an_error_and_all_messages_stay(
    channel: BlockingChannel, queue: str, how: tuple[object, ...], environment: dict[str, str]
) -> None:
    fill(channel, queue, 3)
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *RMQKIT, "consume", queue, "-n", "2", *map(str, how)]
    done = subprocess.run(command, stderr=subprocess.PIPE, env=environment, check=False, timeout=90)
    assert (done.returncode, b"closed" in done.stderr) == (3, True)
    wait_for_queue(channel, queue, ready=3, consumers=0)


@pytest.mark.parametrize("how", [(), ("--channels", 2), ("--workers", 2)])
def test_a_missing_queue_is_reported_once(start: Start, how: tuple[object, ...]) -> None:
    process = start("rmqkit.no.such.queue", *how)
    stdout, stderr = process.communicate(timeout=90)
    assert (process.returncode, stdout) == (5, b"")
    assert stderr.count(b"no queue 'rmqkit.no.such.queue'") == 1


@pytest.mark.parametrize("how", [(), ("--channels", 2), ("--workers", 2)])
def test_a_queue_deleted_while_consuming_is_never_a_success(
    start: Start, channel: BlockingChannel, queue: str, how: tuple[object, ...]
) -> None:
    process = start(queue, *how)
    wait_for_queue(channel, queue, consumers=2 if how else 1)
    channel.basic_publish("", queue, b"x")
    assert process.stdout is not None
    assert process.stdout.readline() == b"x\n"
    channel.queue_delete(queue)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 7, stderr
    assert b"cancelled" in stderr


def test_three_processes_take_turns(start: Start, channel: BlockingChannel, queue: str) -> None:
    processes = []
    for number in range(3):
        processes.append(start(queue))  # a prefetch of 1 would pass over one whose acknowledgement is under way
        wait_for_queue(channel, queue, consumers=number + 1)
    for number in range(12):
        channel.basic_publish("", queue, b"%d" % number)
        stdout = processes[number % 3].stdout
        assert stdout is not None
        assert stdout.readline() == b"%d\n" % number


@pytest.mark.parametrize("how", ["--workers", "--channels"])
def test_workers_and_channels_take_turns(start: Start, channel: BlockingChannel, queue: str, how: str) -> None:
    process = start(queue, how, 3, "--json")
    wait_for_queue(channel, queue, consumers=3)
    assert process.stdout is not None
    for number in range(12):
        channel.basic_publish("", queue, b"%d" % number)
        assert process.stdout.readline() == b"%d\n" % number
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=90)
    shares = parse_report(stderr)["shares"]
    assert shares == {f"{how.strip('-s')} {number}": 4 for number in (1, 2, 3)}


def test_a_killed_worker_leaves_the_others_working(start: Start, channel: BlockingChannel, queue: str) -> None:
    process = start(queue, "--workers", 2)
    wait_for_queue(channel, queue, consumers=2)
    victim = _children(process.pid)[0]
    os.kill(victim, signal.SIGKILL)
    wait_for_queue(channel, queue, consumers=1)
    bodies = fill_and_read(channel, queue, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=90)
    assert bodies == [b"%d\n" % number for number in range(10)]
    assert process.returncode == 3
    assert b"worker 1 was killed by SIGKILL" in stderr


def fill_and_read(channel: BlockingChannel, queue: str, process: subprocess.Popen[bytes]) -> list[bytes]:
    assert process.stdout is not None
    bodies = []
    for number in range(10):
        channel.basic_publish("", queue, b"%d" % number)
        bodies.append(process.stdout.readline())
    return bodies


def test_workers_end_when_their_parent_is_killed(start: Start, channel: BlockingChannel, queue: str) -> None:
    process = start(queue, "--workers", 2)
    wait_for_queue(channel, queue, consumers=2)
    process.kill()
    wait_for_queue(channel, queue, consumers=0)


def test_the_arguments_of_a_worker_contain_no_password(start: Start, channel: BlockingChannel, queue: str) -> None:
    process = start(queue, "--workers", 2)
    wait_for_queue(channel, queue, consumers=2)
    lines = [Path(f"/proc/{child}/cmdline").read_bytes() for child in _children(process.pid)]
    assert len(lines) == 2
    assert all(b"rmqkit" in line and b"guest" not in line and b"amqp" not in line for line in lines)


def _children(pid: int) -> list[int]:
    return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.mark.parametrize("how", [(), ("--workers", 2), ("--json",)])
def test_on_a_terminal_consume_says_that_it_waits_and_rates_exclude_the_wait(
    how: tuple[object, ...], environment: dict[str, str], channel: BlockingChannel, queue: str
) -> None:
    waits = f"Waiting for messages in {queue}. Press Ctrl-C to stop."
    with terminal("consume", queue, "-n", 30, *how, env=environment, stdout=subprocess.DEVNULL) as screen:
        wait_until(lambda: consumers(channel, queue), "it does not consume")
        time.sleep(1.2)  # idle
        for _ in range(30):
            channel.basic_publish("", queue, b"x")
        code, shown = screen.end()
    flat = " ".join(shown.split())  # lines are wrapped
    assert code == 0, shown
    assert (waits in flat) == ("--json" not in how), shown
    if not how:
        assert re.search(r"Consumed 30 messages in [\d.]+ s \([\d.]+ s idle\), [\d,]+/s\.", flat), shown


def test_off_a_terminal_consume_does_not_say_that_it_waits(start: Start, queue: str) -> None:
    _, stderr = start(queue, "--idle-timeout", 0.1).communicate(timeout=90)
    assert stderr.startswith(b"Consumed 0 messages in "), stderr


def test_a_consumer_says_that_it_reconnected(
    environment: dict[str, str], broker_url: str, channel: BlockingChannel, queue: str
) -> None:
    with (
        Proxy(broker_url) as proxy,
        terminal("consume", queue, "-n", 1, env=environment | {"RMQKIT_URL": proxy.url}) as screen,
    ):
        screen.read(lambda shown: "Waiting for messages" in shown)
        proxy.reset()
        screen.read(lambda shown: "reconnected: consuming from queue" in shown)
        channel.basic_publish("", queue, b"after")
        code, shown = screen.end()
    assert (code, "after" in shown) == (0, True), shown
