"""The handlers of `rmqkit consume` against a real RabbitMQ: no message is acknowledged before it was handled."""

from __future__ import annotations

import base64
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from rmqkit.node.node import Node
from tests.conftest import Broker, Namespace
from tests.support.cli import Run, Start, parse_report, rmqkit
from tests.support.queues import declare, drain, fill, open_channel, ready
from tests.support.versions import version
from tests.support.wait import wait_for_queue, wait_until

CANARY = "c4nary-p4ssword"
HOSTILE = ("$(touch x)", "`touch x`", "; touch x", "../../x", "-rf", "a\nb", "a\0b", "{}", "%s", "'\"", "é\u2028")
TELL = """
import base64, json, os, sys
ours = {name: value for name, value in os.environ.items() if name.startswith(("RMQKIT", "AMQP", "CLOUDAMQP"))}
print(json.dumps({"environment": ours, "body": base64.b64encode(sys.stdin.buffer.read()).decode()}), flush=True)
"""


@pytest.fixture
def dead(channel: BlockingChannel, namespace: Namespace) -> tuple[str, str]:
    """A queue, and the one its dead letters go to."""
    queue, letters = namespace.queue(), namespace.queue("dead")
    channel.queue_declare(letters, durable=True)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": letters}
    channel.queue_declare(queue, durable=True, arguments=arguments)
    return queue, letters


def python(script: str) -> str:
    return shlex.join([sys.executable, "-S", "-c", script])


def shell(script: str) -> str:
    return shlex.join(["sh", "-c", script])


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z"
    except FileNotFoundError:
        return True


def readline(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def publish_hostile(channel: BlockingChannel, namespace: Namespace) -> str:
    """Publish a message for each hostile text, which is all its fields and its body; return the queue."""
    exchange, queue = namespace.exchange(), namespace.queue()
    channel.exchange_declare(exchange, "fanout")
    channel.queue_declare(queue, durable=True)
    channel.queue_bind(queue, exchange)
    for text in HOSTILE:
        properties = pika.BasicProperties(
            content_type=text, content_encoding=text, headers={f"x{text}": text}, correlation_id=text, reply_to=text,
            message_id=text, type=text, app_id=text, cluster_id=text,
        )  # fmt: skip
        channel.basic_publish(exchange, text, text.encode(), properties)
    wait_for_queue(channel, queue, ready=len(HOSTILE))
    return queue


# Commands.


def test_a_command_gets_the_body_and_all_properties_and_no_credentials(
    start: Start, channel: BlockingChannel, queue: str
) -> None:
    moment = datetime.fromisoformat("2026-01-31T12:00:00Z")
    properties = pika.BasicProperties(
        content_type="application/json", content_encoding="utf-8", headers={"n": 1, "who": "é"}, delivery_mode=2,
        priority=3, correlation_id="c", reply_to="r", expiration="600000", message_id="m",
        timestamp=int(moment.timestamp()), type="t", app_id="a", cluster_id="k",
    )  # fmt: skip
    everything = bytes(range(256)) * 10_000
    channel.basic_publish("", queue, everything, properties)
    secret = f"amqp://guest:{CANARY}@localhost"
    process = start(
        queue, "-n", 1, "--exec", python(TELL), "--json", AMQP_URL=secret, CLOUDAMQP_URL=secret,
        RMQKIT_API_URL=secret.replace("amqp", "http"), RMQKIT_MESSAGE_ID="of another message", RMQKIT_USER_ID="x",
    )  # fmt: skip
    stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == 0, stderr
    assert CANARY.encode() not in stdout + stderr
    told = json.loads(stdout)
    assert base64.b64decode(told["body"]) == everything
    environment = {name: value for name, value in told["environment"].items() if "TEST" not in name}
    environment.pop("RMQKIT_RABBITMQ", None)  # of these tests
    assert json.loads(environment.pop("RMQKIT_HEADERS")) == {"n": 1, "who": "é"}
    assert environment == {
        "RMQKIT_QUEUE": queue, "RMQKIT_EXCHANGE": "", "RMQKIT_ROUTING_KEY": queue, "RMQKIT_REDELIVERED": "false",
        "RMQKIT_DELIVERY_TAG": "1", "RMQKIT_CONTENT_TYPE": "application/json", "RMQKIT_CONTENT_ENCODING": "utf-8",
        "RMQKIT_DELIVERY_MODE": "2", "RMQKIT_PRIORITY": "3", "RMQKIT_CORRELATION_ID": "c", "RMQKIT_REPLY_TO": "r",
        "RMQKIT_EXPIRATION": "600000", "RMQKIT_MESSAGE_ID": "m", "RMQKIT_TIMESTAMP": "2026-01-31T12:00:00Z",
        "RMQKIT_TYPE": "t", "RMQKIT_APP_ID": "a", "RMQKIT_CLUSTER_ID": "k",
    }  # fmt: skip
    assert parse_report(stderr)["acknowledged"] == 1


def test_hostile_message_fields_are_plain_text_to_a_command(
    start: Start, channel: BlockingChannel, namespace: Namespace, tmp_path: Path
) -> None:
    queue = publish_hostile(channel, namespace)
    before = set(tmp_path.iterdir())
    stdout, stderr = start(queue, "-n", len(HOSTILE), "--exec", python(TELL)).communicate(timeout=90)
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert len(lines) == len(HOSTILE), stderr
    names = "ROUTING_KEY CONTENT_TYPE CONTENT_ENCODING CORRELATION_ID REPLY_TO MESSAGE_ID TYPE APP_ID CLUSTER_ID"
    for text, told in zip(HOSTILE, lines, strict=True):
        seen = {told["environment"][f"RMQKIT_{name}"] for name in names.split()}
        assert seen == {text.replace("\0", "\N{REPLACEMENT CHARACTER}")}
        assert json.loads(told["environment"]["RMQKIT_HEADERS"]) == {f"x{text}": text}
        assert base64.b64decode(told["body"]) == text.encode()
    assert set(tmp_path.iterdir()) == before


def test_the_exit_code_of_a_command_is_the_verdict(
    start: Start, channel: BlockingChannel, dead: tuple[str, str]
) -> None:
    queue, letters = dead
    for body in (b"exit 0", b"exit 3", b"exit 1", b"exit 1", b"kill -9 $$", b"exit 4"):
        channel.basic_publish("", queue, body)
    process = start(queue, "-n", 6, "--exec", "sh", "--json", "--on-failure", "reject")
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 8
    told = parse_report(stderr)
    verdicts = {name: told[name] for name in ("acknowledged", "rejected", "requeued", "failed")}
    assert verdicts == {"acknowledged": 1, "rejected": 4, "requeued": 1, "failed": 3}
    assert stderr.count(b"the command ended with exit code 1") == 1
    assert stderr.count(b"the command was killed by SIGKILL") == 1
    wait_for_queue(channel, letters, ready=4)
    assert drain(channel, letters) == [b"exit 3", b"exit 1", b"exit 1", b"kill -9 $$"]
    assert drain(channel, queue) == [b"exit 4"]


FAILING = shlex.join([sys.executable, "-c", "raise"])


@pytest.mark.parametrize("how", [(), ("--channels", 2), ("--workers", 2), ("--on-failure", "stop")])
def test_a_message_a_command_fails_on_stays_in_a_queue_without_dead_letters(
    start: Start, channel: BlockingChannel, queue: str, broker: Broker, how: tuple[object, ...]
) -> None:
    bodies = fill(channel, queue, 5)
    process = start(queue, "--exec", FAILING, *how, RMQKIT_API_URL=broker.api_url)
    _, stderr = process.communicate(timeout=90)
    text = stderr.decode()
    assert process.returncode == 8
    if "--on-failure" not in how:
        warning = f"consuming stops at the first message that fails: queue {queue!r} has neither a retry nor a dead-"
        assert text.startswith(f"warning: {warning}")
    assert f"the command ended with exit code 1; its message is still in queue {queue!r}" in text
    assert "failed (still queued)" in text
    wait_for_queue(channel, queue, ready=5, consumers=0)
    assert sorted(drain(channel, queue)) == sorted(bodies)


def test_without_the_http_api_and_a_topology_the_first_failure_stops_as_well(
    start: Start, channel: BlockingChannel, dead: tuple[str, str]
) -> None:
    queue, _ = dead
    fill(channel, queue, 3)
    process = start(queue, "--exec", FAILING, "-n", 3, RMQKIT_API_URL="http://127.0.0.1:1")
    _, stderr = process.communicate(timeout=90)
    assert (process.returncode, stderr.count(b"has no known retry or dead-letter exchange")) == (8, 1), stderr
    wait_for_queue(channel, queue, ready=3, consumers=0)


def test_commands_that_run_when_another_fails_are_finished_and_acknowledged(
    start: Start, channel: BlockingChannel, queue: str
) -> None:
    for body in (b"until [ -e failed ]; do sleep 0.02; done", b"touch failed; exit 1"):
        channel.basic_publish("", queue, body)
    process = start(queue, "--exec", "sh", "--concurrency", 2, "--json")
    _, stderr = process.communicate(timeout=90)
    told = parse_report(stderr)
    assert (told["acknowledged"], told["failed"], told["stayed"], told["rejected"]) == (1, 1, 1, 0)
    wait_for_queue(channel, queue, ready=1, consumers=0)
    assert drain(channel, queue) == [b"touch failed; exit 1"]


def test_failed_messages_are_dead_lettered_where_the_http_api_shows_that_they_arrive(
    start: Start, channel: BlockingChannel, dead: tuple[str, str], broker: Broker
) -> None:
    queue, letters = dead
    fill(channel, queue, 3)
    process = start(queue, "--exec", FAILING, "-n", 3, RMQKIT_API_URL=broker.api_url)
    _, stderr = process.communicate(timeout=90)
    assert (process.returncode, stderr.count(b"stops"), stderr.count(b"3 failed (rejected)")) == (8, 0, 1), stderr
    wait_for_queue(channel, letters, ready=3)


@pytest.mark.parametrize("there", [False, True])
def test_a_dead_letter_exchange_that_is_missing_or_leads_nowhere_is_none(
    start: Start, channel: BlockingChannel, namespace: Namespace, broker: Broker, *, there: bool
) -> None:
    queue, exchange = namespace.queue(), namespace.exchange()
    channel.queue_declare(queue, durable=True, arguments={"x-dead-letter-exchange": exchange})
    if there:
        channel.exchange_declare(exchange)
    fill(channel, queue, 2)
    process = start(queue, "--exec", FAILING, RMQKIT_API_URL=broker.api_url)
    assert process.wait(90) == 8
    wait_for_queue(channel, queue, ready=2, consumers=0)


def test_a_failed_message_stays_if_no_binding_takes_its_dead_letter(
    start: Start, channel: BlockingChannel, namespace: Namespace, broker: Broker
) -> None:
    queue, exchange, letters = namespace.queue(), namespace.exchange(), namespace.queue("letters")
    channel.queue_declare(queue, durable=True, arguments={"x-dead-letter-exchange": exchange})
    channel.exchange_declare(exchange, "topic")
    channel.queue_declare(letters, durable=True)
    channel.queue_bind(letters, exchange, "order.#")
    fill(channel, queue, 2)
    process = start(queue, "--exec", FAILING, RMQKIT_API_URL=broker.api_url)
    _, stderr = process.communicate(timeout=90)
    assert (process.returncode, stderr.count(b"no queue would receive its dead letter")) == (8, 1), stderr
    wait_for_queue(channel, queue, ready=2, consumers=0)
    process = start(queue, "--exec", FAILING, "-n", 2, "--on-failure", "reject", RMQKIT_API_URL=broker.api_url)
    _, stderr = process.communicate(timeout=90)
    assert (process.returncode, stderr.count(b"2 failed (DROPPED)")) == (8, 1), stderr
    channel.queue_bind(letters, exchange, "#")
    fill(channel, queue, 2)
    process = start(queue, "--exec", FAILING, "-n", 2, RMQKIT_API_URL=broker.api_url)
    _, stderr = process.communicate(timeout=90)
    assert (process.returncode, stderr.count(b"2 failed (rejected)")) == (8, 1), stderr
    wait_for_queue(channel, letters, ready=2)


def test_messages_that_are_rejected_by_choice_and_dropped_are_counted_as_dropped(
    start: Start, channel: BlockingChannel, queue: str, broker: Broker
) -> None:
    fill(channel, queue, 3)
    arguments = (queue, "-n", 3, "--exec", FAILING, "--on-failure", "reject")
    _, stderr = start(*arguments, RMQKIT_API_URL=broker.api_url).communicate(timeout=90)
    assert stderr.startswith(b"warning: failed messages will be dropped: queue"), stderr
    assert b"3 failed (DROPPED)" in stderr
    wait_for_queue(channel, queue, ready=0)


def test_failed_messages_are_requeued_by_choice(start: Start, channel: BlockingChannel, queue: str) -> None:
    bodies = fill(channel, queue, 2)
    process = start(queue, "-n", 2, "--exec", FAILING, "--on-failure", "requeue")
    _, stderr = process.communicate(timeout=90)
    assert (process.returncode, b"2 failed (requeued)" in stderr) == (8, True), stderr
    wait_for_queue(channel, queue, ready=2, consumers=0)
    assert sorted(drain(channel, queue)) == sorted(bodies)


def test_an_invalid_message_stays_where_it_would_be_dropped(
    start: Start, channel: BlockingChannel, queue: str, broker: Broker, tmp_path: Path
) -> None:
    (tmp_path / "order.json").write_text('{"type": "object"}')
    bodies = [b"{}", b"[]", b"{}"]
    for body in bodies:
        channel.basic_publish("", queue, body)
    process = start(queue, "--schema", "order.json", RMQKIT_API_URL=broker.api_url)
    stdout, stderr = process.communicate(timeout=90)
    assert (process.returncode, stderr.count(b"1 broke the contract (still queued)")) == (8, 1), stderr
    wait_for_queue(channel, queue, ready=3 - len(stdout.splitlines()), consumers=0)
    assert b"[]" in drain(channel, queue)


@pytest.mark.parametrize("command", ["cat > /dev/null", "cat >/dev/null", "cat | wc -c", "true && cat", "cat 2>&1"])
def test_the_words_of_a_shell_are_refused_without_one(
    start: Start, channel: BlockingChannel, queue: str, command: str
) -> None:
    fill(channel, queue, 1)
    process = start(queue, "--exec", command, "-n", 1)
    _, stderr = process.communicate(timeout=90)
    assert (process.returncode, f"Write \"sh -c '{command}'\"" in stderr.decode()) == (2, True), stderr
    process = start(queue, "--exec", f"sh -c '{command}'", "-n", 1)
    assert process.wait(90) == 0


def test_a_command_need_not_read_its_input(start: Start, channel: BlockingChannel, queue: str) -> None:
    channel.basic_publish("", queue, b"x" * 5_000_000)
    process = start(queue, "-n", 1, "--exec", "true")
    _, stderr = process.communicate(timeout=90)
    assert (process.returncode, b"Consumed 1 message" in stderr) == (0, True), stderr


def test_properties_too_large_for_an_environment_fail_that_message_alone(
    start: Start, channel: BlockingChannel, dead: tuple[str, str]
) -> None:
    queue, letters = dead
    channel.basic_publish("", queue, b"large", pika.BasicProperties(headers={"x": "é" * 50_000}))
    channel.basic_publish("", queue, b"small")
    process = start(queue, "-n", 2, "--exec", "cat", "--on-failure", "reject")
    stdout, stderr = process.communicate(timeout=90)
    assert (process.returncode, stdout) == (8, b"small")
    assert b"too large for environment variables" in stderr
    wait_for_queue(channel, letters, ready=1)


def test_a_command_that_times_out_is_ended_with_all_processes_it_started(
    start: Start, channel: BlockingChannel, dead: tuple[str, str]
) -> None:
    queue, letters = dead
    channel.basic_publish("", queue, b"x")
    script = "sleep 100 & echo $!; (trap '' TERM; echo ready; sleep 100) & wait"
    process = start(queue, "-n", 1, "--exec", shell(script), "--timeout", 0.5, "--on-failure", "reject")
    grandchild = next(int(line) for line in iter(lambda: readline(process), b"") if line.strip().isdigit())
    assert process.wait(90) == 8
    assert process.stderr is not None
    assert b"the command timed out after 0.5 s" in process.stderr.read()
    wait_until(lambda: is_gone(grandchild), "what the command started still runs")
    assert process.stdout is not None
    process.stdout.read()  # which ends when nobody has it open any more: not the one that heeds no SIGTERM either
    wait_for_queue(channel, letters, ready=1)


def test_no_more_commands_run_at_a_time_than_the_concurrency(
    start: Start, channel: BlockingChannel, queue: str, tmp_path: Path
) -> None:
    fill(channel, queue, 9)
    (tmp_path / "running").mkdir()
    script = """
        touch running/$$; echo $$ >> begun
        until [ $(wc -l < begun) -ge 3 ]; do sleep 0.02; done  # the first ones wait for each other
        ls running | wc -l; rm running/$$
    """
    process = start(queue, "-n", 9, "--exec", shell(script), "--concurrency", 3)
    stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == 0, stderr
    assert max(map(int, stdout.split())) == 3
    wait_for_queue(channel, queue, ready=0)


def test_the_idle_timeout_does_not_count_while_a_command_runs(
    start: Start, channel: BlockingChannel, queue: str
) -> None:
    fill(channel, queue, 2)
    process = start(queue, "--idle-timeout", 2, "--exec", "sleep 2.5", "--prefetch", 1)
    _, stderr = process.communicate(timeout=90)
    assert (process.returncode, b"Consumed 2 messages" in stderr) == (0, True), stderr


WAITING = shell("echo $$; until [ -e go ]; do sleep 0.02; done; echo done")


@pytest.mark.parametrize("how", [(), ("--workers", 2), ("--channels", 2)])
def test_a_signal_lets_commands_finish_and_other_messages_stay(
    start: Start, channel: BlockingChannel, queue: str, tmp_path: Path, how: tuple[object, ...]
) -> None:
    fill(channel, queue, 6)
    process = start(queue, "--exec", WAITING, *how)
    begun = b"".join(readline(process) for _ in range(2 if how else 1))
    process.send_signal(signal.SIGINT)
    (tmp_path / "go").touch()
    stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == 130, stderr
    done = stdout.count(b"done")
    assert done == len((begun + stdout).split()) - done
    wait_for_queue(channel, queue, ready=6 - done, consumers=0)


@pytest.mark.parametrize("how", [(), ("--workers", 2)])
def test_a_hangup_lets_commands_finish_although_it_arrives_twice(
    start: Start, channel: BlockingChannel, queue: str, tmp_path: Path, how: tuple[object, ...]
) -> None:
    fill(channel, queue, 1)
    process = start(queue, "--exec", WAITING, *how)
    readline(process)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    process.send_signal(signal.SIGHUP)
    (tmp_path / "go").touch()
    stdout, stderr = process.communicate(timeout=90)
    assert (process.returncode, stdout) == (129, b"done\n"), stderr
    wait_for_queue(channel, queue, ready=0, consumers=0)


@pytest.mark.parametrize("how", [(), ("--workers", 2), ("--channels", 2)])
def test_two_signals_end_commands_immediately_and_their_messages_stay(
    start: Start, channel: BlockingChannel, queue: str, how: tuple[object, ...]
) -> None:
    fill(channel, queue, 3)
    process = start(queue, "--exec", WAITING, *how)
    pid = int(readline(process))
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)  # a second SIGINT might be taken for the first
    assert process.wait(90) == 130
    wait_until(lambda: is_gone(pid), "the command still runs")
    wait_for_queue(channel, queue, ready=3, consumers=0)


def test_nothing_is_acknowledged_if_consume_is_killed_while_a_command_runs(
    start: Start, channel: BlockingChannel, queue: str, tmp_path: Path
) -> None:
    bodies = fill(channel, queue, 2)
    process = start(queue, "--exec", WAITING)
    readline(process)
    process.kill()
    process.wait()
    wait_for_queue(channel, queue, ready=2, consumers=0)
    assert drain(channel, queue) == bodies
    (tmp_path / "go").touch()


@pytest.mark.parametrize("how", ["--exec", "--handler"])
def test_messages_that_are_always_requeued_are_redelivered_at_a_bounded_rate(
    start: Start, channel: BlockingChannel, queue: str, tmp_path: Path, how: str
) -> None:
    bodies = fill(channel, queue, 5)
    (tmp_path / "later.py").write_text(
        "import rmqkit\ndef again(_):\n    print('x', flush=True)\n    return rmqkit.Verdict.REQUEUE\n"
    )
    what = shell("echo x; exit 4") if how == "--exec" else "later:again"
    process = start(queue, how, what, "--prefetch", 5)
    for _ in range(10):  # once at once, and once after the first pause
        assert readline(process) == b"x\n"
    ended_s = time.monotonic() + 1
    wait_until(lambda: time.monotonic() > ended_s)
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=90)
    assert stdout.count(b"x") <= 5
    wait_for_queue(channel, queue, ready=5)
    assert sorted(drain(channel, queue)) == bodies


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--exec", "no-such-program-here x"), b"program 'no-such-program-here' not found"),
        (("--handler", "no_such_module:f"), b"No module named 'no_such_module'"),
        (("--handler", "no_such_module:f", "--workers", 2), b"No module named 'no_such_module'"),
        (("--filter", "body == = 1"), b"--filter:1:9: unexpected '='"),
        (("--to-url", "amqp://guest:guest@127.0.0.1:1/"), b"nothing is listening on 127.0.0.1:1"),
    ],
)
def test_an_invalid_handler_is_reported_before_anything_is_consumed(
    start: Start, channel: BlockingChannel, queue: str, arguments: tuple[object, ...], said: bytes
) -> None:
    fill(channel, queue, 1)
    process = start(queue, *arguments)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == (4 if "--to-url" in arguments else 2)
    assert stderr.count(said) == 1
    delivery, _, _ = channel.basic_get(queue)
    assert not delivery.redelivered


# Functions.

FUNCTIONS = """
import ctypes, rmqkit, signal, sys, time
def judge(delivery):
    if delivery.body == b"raise":
        raise ValueError("a secret of the body")
    if delivery.body == b"exit":
        sys.exit(0)
    if delivery.body == b"wrong":
        return True
    return {b"reject": rmqkit.Verdict.REJECT, b"requeue": rmqkit.Verdict.REQUEUE}.get(delivery.body)
def note(delivery):
    sys.stdout.buffer.write(delivery.body + b"\\n")
    sys.stdout.flush()
def hold(delivery):
    ctypes.PyDLL(None).system(b"touch begun; until [ -e go ]; do sleep 0.05; done")  # without releasing the GIL
def sleep(delivery):
    time.sleep(float(delivery.body))
def wait(delivery):
    print("begun", flush=True)
    time.sleep(100)

def miss(delivery):  # as if signals arrived just before the sleep begins: they do not interrupt it
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    wait(delivery)
"""


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    return tmp_path


@pytest.mark.usefixtures("functions")
def test_the_return_value_of_a_function_is_the_verdict_and_an_exception_rejects_without_its_text(
    start: Start, channel: BlockingChannel, dead: tuple[str, str]
) -> None:
    queue, letters = dead
    for body in (b"fine", b"reject", b"raise", b"raise", b"fine", b"requeue"):
        channel.basic_publish("", queue, body)
    process = start(queue, "-n", 6, "--handler", "functions:judge", "--json", "--on-failure", "reject")
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 8
    told = parse_report(stderr)
    assert (told["acknowledged"], told["rejected"], told["requeued"], told["failed"]) == (2, 3, 1, 2)
    assert stderr.count(b"the handler raised ValueError in ") == 1
    assert b"functions.py, line 5" in stderr
    assert b"secret" not in stderr
    wait_for_queue(channel, letters, ready=3)
    assert drain(channel, letters) == [b"reject", b"raise", b"raise"]
    assert drain(channel, queue) == [b"requeue"]


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize(("body", "said"), [(b"exit", b"raised SystemExit"), (b"wrong", b"a value of type bool")])
def test_a_function_that_exits_or_returns_a_wrong_value_ends_the_run_and_its_message_stays(
    start: Start, channel: BlockingChannel, queue: str, body: bytes, said: bytes
) -> None:
    channel.basic_publish("", queue, b"fine")
    channel.basic_publish("", queue, body)
    process = start(queue, "--handler", "functions:judge")
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 8
    assert said in stderr
    wait_for_queue(channel, queue, consumers=0)
    assert body in drain(channel, queue)


@pytest.mark.usefixtures("functions")
def test_workers_call_a_function_once_with_each_message(start: Start, channel: BlockingChannel, queue: str) -> None:
    bodies = fill(channel, queue, 1_000)
    process = start(queue, "-n", 1_000, "--handler", "functions:note", "--workers", 2)
    stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == 0, stderr
    assert sorted(stdout.splitlines()) == sorted(bodies)
    wait_for_queue(channel, queue, ready=0)


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("how", [("--handler", "functions:note"), ("--exec", "cat"), ("--exec", python(TELL))])
def test_a_closed_reader_ends_the_run_and_no_message_counts_as_failed(
    start: Start, channel: BlockingChannel, dead: tuple[str, str], how: tuple[str, str]
) -> None:
    queue, letters = dead
    fill(channel, queue, 50, size=5_000)
    process = start(queue, *how, "--json", "--prefetch", 2)
    assert process.stdout is not None
    process.stdout.read(1)
    process.stdout.close()
    process.stdout = None
    _, stderr = process.communicate(timeout=90)
    told = parse_report(stderr)
    assert (process.returncode, told["error"], told["failed"]) == (3, "OutputError", 0), stderr
    wait_for_queue(channel, queue, ready=50 - told["acknowledged"], consumers=0)
    wait_for_queue(channel, letters, ready=0)


def send_two_signals(process: subprocess.Popen[bytes]) -> None:
    """Send two signals at once; the system could make one of two equal ones.

    The kernel gives them to any thread, so either may be the first that is received.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("function", ["wait", "miss"])
def test_two_signals_end_a_function_immediately(
    start: Start, channel: BlockingChannel, queue: str, function: str
) -> None:
    fill(channel, queue, 2)
    process = start(queue, "--handler", f"functions:{function}")
    assert readline(process) == b"begun\n"
    send_two_signals(process)
    assert process.wait(90) in {130, 143}
    wait_for_queue(channel, queue, ready=2, consumers=0)


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("how", [(), ("--workers", 2), ("--channels", 2)])
def test_two_signals_end_a_function_immediately_although_the_broker_does_not_answer(
    start: Start, node: Node, how: tuple[object, ...]
) -> None:
    with open_channel(node.url) as channel:
        queue = str(channel.queue_declare("", durable=True, arguments={"x-expires": 60_000}).method.queue)
        fill(channel, queue, 2)
    process = start(queue, "--handler", "functions:wait", *how, RMQKIT_URL=node.url)
    assert readline(process) == b"begun\n"
    with node.frozen():
        send_two_signals(process)
        assert process.wait(9) in {130, 143}  # closing channels and connections would take eleven seconds


@pytest.mark.usefixtures("functions")
def test_a_message_whose_acknowledgement_was_not_taken_does_not_count_as_consumed(
    start: Start, channel: BlockingChannel, queue: str, broker_url: str, tmp_path: Path
) -> None:
    fill(channel, queue, 1)
    url = f"{broker_url}?heartbeat=1"
    arguments = ("-n", 1, "--handler", "functions:hold", "--on-failure", "stop", "--json", "-u", url)
    process = start(queue, *arguments)
    wait_until((tmp_path / "begun").exists)
    wait_for_queue(channel, queue, ready=1, consumers=0)  # no heartbeats: the broker has closed the connection
    (tmp_path / "go").touch()
    _, stderr = process.communicate(timeout=90)
    told = parse_report(stderr)
    assert (process.returncode, told["error"], told["acknowledged"], told["in_doubt"]) == (4, "ConnectionLost", 0, 1)
    wait_for_queue(channel, queue, ready=1)


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("how", [("--handler", "functions:sleep"), ("--exec", "sleep 4")])
def test_heartbeats_continue_while_a_handler_is_busy(
    start: Start, channel: BlockingChannel, queue: str, broker_url: str, how: tuple[str, str]
) -> None:
    channel.basic_publish("", queue, b"4")
    process = start(queue, "-n", 1, *how, "--on-failure", "stop", "--json", "-u", f"{broker_url}?heartbeat=1")
    _, stderr = process.communicate(timeout=90)
    told = parse_report(stderr)
    assert (told["acknowledged"], told["redelivered"], stderr.count(b"warning")) == (1, 0, 0), stderr
    wait_for_queue(channel, queue, ready=0)


# Files.


def saved(folder: Path) -> dict[str, bytes]:
    """Return the bodies of a folder by the name of their files, which are all named in a file of properties."""
    told = [json.loads(path.read_text()) for path in sorted(folder.glob("*.properties.json"))]
    return {each["body_file"]: (folder / each["body_file"]).read_bytes() for each in told}


def test_saved_messages_are_complete_and_can_be_published_again_unchanged(
    start: Start, channel: BlockingChannel, queue: str, environment: dict[str, str], tmp_path: Path
) -> None:
    properties = pika.BasicProperties(
        content_type="application/json; charset=utf-8", headers={"n": 1, "raw": b"\xff", "list": [True, None]},
        delivery_mode=1, priority=7, message_id="m", timestamp=1_769_860_800,
    )  # fmt: skip
    sent = [(b'{"a": 1}', properties), (bytes(range(256)), pika.BasicProperties()), (b"", properties)]
    for body, each in sent:
        channel.basic_publish("", queue, body, each)
    process = start(queue, "-n", 3, "--save-to", "kept/here")
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 0, stderr
    folder = tmp_path / "kept" / "here"
    assert [Path(name).suffix for name in saved(folder)] == [".json", ".bin", ".json"]
    assert list(saved(folder).values()) == [body for body, _ in sent]
    assert len(list(folder.iterdir())) == 6
    command = [sys.executable, "-m", "rmqkit", "publish", "--envelopes", "-"]
    subprocess.run(command, input=_with_bodies(folder), env=environment, check=True, capture_output=True)
    for body, each in sent:
        _, found, again = channel.basic_get(queue, auto_ack=True)
        assert (again, vars(found)) == (body, vars(each))


def _with_bodies(folder: Path) -> bytes:
    lines = []
    for path in sorted(folder.glob("*.properties.json")):
        envelope = json.loads(path.read_text())
        body = (folder / envelope.pop("body_file")).read_bytes()
        lines.append(json.dumps(envelope | {"body_base64": base64.b64encode(body).decode()}))
    return "\n".join(lines).encode()


def test_hostile_message_fields_do_not_appear_in_file_names(
    start: Start, channel: BlockingChannel, namespace: Namespace, tmp_path: Path
) -> None:
    queue = publish_hostile(channel, namespace)
    process = start(queue, "-n", len(HOSTILE), "--save-to", "kept")
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 0, stderr
    names = [path.name for path in (tmp_path / "kept").iterdir()]
    assert all(re.fullmatch(r"[0-9TZ.]{23}-[0-9a-f]{6}-\d{6}(\.bin|\.properties\.json)", name) for name in names), names
    assert sorted(saved(tmp_path / "kept").values()) == sorted(text.encode() for text in HOSTILE)


def test_a_full_disk_ends_saving_and_unsaved_messages_stay(
    channel: BlockingChannel, queue: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    """A limit of the size of files stands in for the disk."""
    bodies = [*fill(channel, queue, 150), b"x" * 50_000]
    channel.basic_publish("", queue, bodies[-1])
    rmqkit = [sys.executable, "-m", "rmqkit", "consume", queue, "--save-to", "kept", "--json"]
    command = ["bash", "-c", 'ulimit -f 8; exec "$@"', "bash", *rmqkit]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=30, check=False)
    assert done.returncode == 3, done.stderr
    assert parse_report(done.stderr)["error"] == "OutputError"
    kept = saved(tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 2 * len(kept), "parts of files are left"
    wait_for_queue(channel, queue, ready=len(bodies) - len(kept), consumers=0)
    assert sorted([*kept.values(), *drain(channel, queue)]) == sorted(bodies)


def test_acknowledged_messages_are_saved_even_if_consume_is_killed(
    start: Start, channel: BlockingChannel, queue: str, tmp_path: Path
) -> None:
    bodies = fill(channel, queue, 1_000, size=2_000)
    process = start(queue, "--save-to", "kept", "--prefetch", 100)
    wait_until(lambda: (tmp_path / "kept").exists() and len(list((tmp_path / "kept").glob("*.properties.json"))) > 150)
    process.kill()
    process.wait()
    wait_for_queue(channel, queue, consumers=0)
    kept = set(saved(tmp_path / "kept").values())
    assert kept <= set(bodies)
    left = drain(channel, queue)
    assert kept | set(left) == set(bodies)
    assert len(left) < len(bodies)


# Other exchanges.


def test_messages_are_forwarded_to_another_broker_unchanged(
    start: Start, channel: BlockingChannel, queue: str, vhost_url: str
) -> None:
    properties = pika.BasicProperties(
        content_type="x/y", headers={"n": 1, "raw": b"\xff", "when": datetime(2026, 1, 31, tzinfo=UTC)},
        delivery_mode=1, priority=7, correlation_id="c", reply_to="r", expiration="600000", message_id="m",
        timestamp=1_769_860_800, type="t", user_id="guest", app_id="a", cluster_id="k",
    )  # fmt: skip
    everything = bytes(range(256)) * 1_000
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        there = connection.channel()
        there.queue_declare(queue)
        there.queue_declare("elsewhere")
        for target in ((), ("--to-queue", "elsewhere"), ("--to-routing-key", "elsewhere")):
            channel.basic_publish("", queue, everything, properties)
            process = start(queue, "-n", 1, "--to-url", vhost_url, *target)
            _, stderr = process.communicate(timeout=90)
            assert process.returncode == 0, stderr
            delivery, found, body = there.basic_get("elsewhere" if target else queue, auto_ack=True)
            assert (delivery.exchange, body) == ("", everything)
            assert vars(found) == vars(properties)
    wait_for_queue(channel, queue, ready=0)


def test_forwarding_keeps_the_order_and_loses_nothing(
    start: Start, channel: BlockingChannel, queue: str, namespace: Namespace
) -> None:
    exchange, target = namespace.exchange(), namespace.queue("target")
    channel.exchange_declare(exchange, "topic")
    channel.queue_declare(target)
    channel.queue_bind(target, exchange, queue)  # the key is the message's own
    bodies = fill(channel, queue, 3_000)
    process = start(queue, "-n", 3_000, "--to-exchange", exchange)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 0, stderr
    wait_for_queue(channel, queue, ready=0)
    assert drain(channel, target) == bodies


@pytest.mark.parametrize("target", [("--to-queue", "rmqkit.no.such.queue"), ("--to-exchange", "rmqkit.no.exchange")])
def test_a_message_that_cannot_be_forwarded_ends_the_run_and_stays(
    start: Start, channel: BlockingChannel, queue: str, target: tuple[str, str]
) -> None:
    bodies = fill(channel, queue, 10)
    process = start(queue, *target)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 6, stderr
    assert target[1].encode() in stderr
    wait_for_queue(channel, queue, ready=10, consumers=0)
    assert sorted(drain(channel, queue)) == sorted(bodies)


@pytest.mark.parametrize("to_url", [False, True])
@pytest.mark.parametrize("target", [("--to-queue",), ("--to-exchange", "", "--to-routing-key")])
def test_messages_are_not_forwarded_to_their_own_queue(
    environment: dict[str, str], channel: BlockingChannel, queue: str, target: tuple[str, ...], to_url: bool
) -> None:
    fill(channel, queue, 1)
    url = ("--to-url", environment["RMQKIT_URL"]) if to_url else ()
    process = rmqkit("consume", queue, *target, queue, *url, env=environment)
    assert (process.returncode, "would return to it forever" in process.stderr) == (2, True), process.stderr
    wait_for_queue(channel, queue, ready=1, consumers=0)


@pytest.mark.parametrize("seen", [True, False], ids=["with the HTTP API", "without it"])
def test_forwarding_ends_if_messages_would_return_to_their_queue_and_none_is_lost(
    environment: dict[str, str], channel: BlockingChannel, namespace: Namespace, broker: Broker, *, seen: bool
) -> None:
    queue, exchange, inner, audit = (
        namespace.queue(),
        namespace.exchange(),
        namespace.exchange("2"),
        namespace.queue("a"),
    )
    for name in (queue, audit):
        channel.queue_declare(name, durable=True)
    for name in (exchange, inner):
        channel.exchange_declare(name, "topic")
    channel.exchange_bind(inner, exchange, "#")
    channel.queue_bind(queue, inner, "order.#")
    channel.queue_bind(audit, exchange, "#")
    bodies = fill(channel, queue, 3)
    own = environment | {"RMQKIT_API_URL": broker.api_url if seen else "http://127.0.0.1:1"}
    words = ("consume", queue, "--to-exchange", exchange, "--prefetch", 1, "--idle-timeout", 1)
    returning = rmqkit(*words, "--to-routing-key", "order.eu", env=own)
    assert (returning.returncode, "would return to queue" in returning.stderr) == (8, True), returning.stderr
    assert sorted(drain(channel, queue)) == bodies
    assert drain(channel, audit) == ([] if seen else bodies)
    fill(channel, queue, 3)
    passing = rmqkit(*words, env=own)  # with their own key, which the binding does not match
    assert (passing.returncode, ready(channel, queue), drain(channel, audit)) == (0, 0, bodies), passing.stderr


@pytest.mark.parametrize("seen", [True, False], ids=["with the HTTP API", "without it"])
def test_messages_return_to_an_exchange_that_no_longer_routes_to_their_queue(
    environment: dict[str, str], channel: BlockingChannel, namespace: Namespace, broker: Broker, *, seen: bool
) -> None:
    queue, exchange, other = namespace.queue(), namespace.exchange(), namespace.queue("other")
    channel.exchange_declare(exchange, "fanout")
    for name in (queue, other):
        channel.queue_declare(name, durable=True)
    channel.queue_bind(queue, exchange)
    channel.basic_publish(exchange, "key", b"x")
    wait_for_queue(channel, queue, ready=1)
    channel.queue_unbind(queue, exchange)
    channel.queue_bind(other, exchange)
    own = environment | {"RMQKIT_API_URL": broker.api_url if seen else "http://127.0.0.1:1"}
    process = rmqkit("consume", queue, "--to-exchange", exchange, "-n", 1, env=own)
    assert (process.returncode, drain(channel, other)) == (0, [b"x"]), process.stderr


def test_a_binding_that_returns_messages_is_noticed_while_they_are_forwarded(
    start: Start, channel: BlockingChannel, namespace: Namespace, broker: Broker
) -> None:
    queue, exchange, audit = namespace.queue(), namespace.exchange(), namespace.queue("audit")
    channel.exchange_declare(exchange, "fanout")
    for name in (queue, audit):
        channel.queue_declare(name, durable=True)
    channel.queue_bind(audit, exchange)
    process = start(queue, "--to-exchange", exchange, RMQKIT_API_URL=broker.api_url)
    channel.basic_publish("", queue, b"first")
    wait_for_queue(channel, audit, ready=1)
    channel.queue_bind(queue, exchange)
    channel.basic_publish(exchange, "key", b"second")
    _, stderr = process.communicate(timeout=90)
    assert (process.returncode, b"would return to queue" in stderr) == (8, True), stderr
    wait_for_queue(channel, queue, ready=1, consumers=0)


@pytest.mark.parametrize("target", ["queue", "exchange", "queue, without the HTTP API"])
def test_forwarding_warns_if_messages_would_return_as_dead_letters(
    live: Run, vhost_channel: BlockingChannel, vhost_url: str, broker: Broker, target: str
) -> None:
    vhost_channel.queue_declare("work", durable=True)
    returning = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "work"}
    vhost_channel.queue_declare("delay", durable=True, arguments=returning)
    vhost_channel.queue_bind("delay", "amq.direct", "late")
    policy = {"pattern": "^delay$", "definition": {"message-ttl": 1}, "apply-to": "queues"}
    broker.api("PUT", f"policies{urlsplit(vhost_url).path}/ttl", json.dumps(policy).encode())
    fill(vhost_channel, "work", 2)
    words = (
        ("--to-exchange", "amq.direct", "--to-routing-key", "late") if target == "exchange" else ("--to-queue", "delay")
    )
    seen = {} if "without" not in target else {"RMQKIT_API_URL": "http://127.0.0.1:1"}
    done = live("consume", "work", *words, "-n", 2 if not seen else 6, "--idle-timeout", 30, **seen)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("return to queue 'work' as dead letters of 'delay'") == 1
    wait_for_queue(vhost_channel, "work", ready=2)
    again = live("consume", "work", "--to-exchange", "amq.fanout", "-n", 1)  # which leads nowhere
    assert "dead letters" not in again.stderr


# Filters.


def publish_orders(channel: BlockingChannel, queue: str) -> None:
    for number in range(10):
        body = json.dumps({"total": number, "items": [number]}).encode()
        channel.basic_publish("", queue, body, pika.BasicProperties(headers={"even": number % 2 == 0}))
    channel.basic_publish("", queue, b"no JSON")
    channel.basic_publish("", queue, b'{"total": "a text, which is not less or more than a number"}')
    wait_for_queue(channel, queue, ready=12)


@pytest.mark.parametrize(("unmatched", "left"), [("ack", (0, 0)), ("reject", (0, 10)), (None, (10, 0))])
def test_a_filter_passes_matching_messages_and_the_others_get_the_chosen_verdict(
    start: Start, channel: BlockingChannel, dead: tuple[str, str], unmatched: str | None, left: tuple[int, int]
) -> None:
    publish_orders(channel, dead[0])
    chosen = ("--unmatched", unmatched) if unmatched else ()
    expression = "headers.even and body.total > 5 and routing_key and not redelivered"
    process = start(dead[0], "--idle-timeout", 0.5, "--filter", expression, *chosen, "--json")
    stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == 0, stderr
    assert [json.loads(line)["total"] for line in stdout.splitlines()] == [6, 8]
    assert parse_report(stderr)["unmatched"] == 10
    for name, count in zip(dead, left, strict=True):
        wait_for_queue(channel, name, ready=count, consumers=0)


def test_a_count_applies_to_matching_messages_and_an_expression_without_a_value_is_reported_once(
    start: Start, channel: BlockingChannel, queue: str
) -> None:
    publish_orders(channel, queue)
    channel.basic_publish("", queue, b'{"total": 100}')
    process = start(queue, "-n", 3, "--filter", "body.total > 7", "--exec", "cat")
    stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == 0, stderr
    assert stdout.count(b"{") == 3
    assert stderr.count(b"no value for a message: TypeError") == 1
    assert b"Consumed 3 messages" in stderr
    assert b"10 did not match (requeued)" in stderr
    wait_for_queue(channel, queue, ready=10)


@pytest.mark.parametrize("options", [("--prefetch", 20), ("-n", 2, "--prefetch", 7), ("--prefetch", 200)])
def test_messages_that_do_not_match_return_in_order_to_a_quorum_queue_of_which_more_were_requeued_before(
    live: Run, vhost_channel: BlockingChannel, options: tuple[object, ...]
) -> None:
    declare(vhost_channel, "orders", x_queue_type="quorum")
    sent = fill(vhost_channel, "orders", 150)
    assert live("peek", "orders", "-n", 100).returncode == 0
    wait_for_queue(vhost_channel, "orders", ready=150)
    done = live("consume", "orders", "--filter", "body == 3 or body == 5", "--idle-timeout", 1, *options)
    assert (done.returncode, done.stdout) == (0, "3 \n5 \n")
    wait_for_queue(vhost_channel, "orders", ready=148, consumers=0)
    assert drain(vhost_channel, "orders") == [body for body in sent if body not in (b"3 ", b"5 ")]


@pytest.mark.parametrize("words", [("--filter", "body.total > 7"), ("--filter", "true", "--unmatched", "ack"), ()])
def test_a_filter_warns_where_requeueing_may_harm_messages(
    live: Run, vhost_channel: BlockingChannel, broker: Broker, words: tuple[str, ...]
) -> None:
    delayed = {"x_delayed_retry_type": "all", "x_delayed_retry_min": 100} if version(broker) >= (4, 3) else {}
    declare(vhost_channel, "orders", x_queue_type="quorum", x_delivery_limit=3, **delayed)
    vhost_channel.basic_publish("", "orders", b"{}")
    done = live("consume", "orders", "--idle-timeout", 1, *words)
    harm = "would delay each message for 100 ms" if delayed else "dead-lettered after 4 failed deliveries"
    warned = done.stderr.count("warning: messages that do not match are requeued at the end: ")
    assert (done.returncode, warned, harm in done.stderr) == (0, int("body" in str(words)), "body" in str(words))


def test_no_more_unmatched_messages_than_the_prefetch_are_held_which_is_reported(
    start: Start, channel: BlockingChannel, queue: str
) -> None:
    publish_orders(channel, queue)
    process = start(queue, "--idle-timeout", 0.5, "--filter", "body.total > 7", "--prefetch", 8)
    left = {ready(channel, queue)}
    while process.poll() is None:
        left.add(ready(channel, queue))
    assert min(left) == 12 - 8
    stdout, stderr = process.communicate(timeout=90)
    assert (process.returncode, stdout) == (0, b"")
    assert b"Raise --prefetch" in stderr
    wait_for_queue(channel, queue, ready=12)
