"""`rmqkit snapshot`, `restore` and `diff` of snapshots: what is saved is what was there, and comes back."""

from __future__ import annotations

import gzip
import json
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from pika import BasicProperties
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit import Connection, Stop
from rmqkit.errors import InputError
from rmqkit.messaging import queue_browser
from rmqkit.payload import snapshot_file
from rmqkit.payload.input_stream import InputStream
from rmqkit.payload.snapshot_file import SnapshotWriter
from tests.conftest import Broker
from tests.support.cli import Run
from tests.support.queues import declare, drain, drain_messages, fill, ready
from tests.support.versions import version
from tests.support.wait import wait_for_queue, wait_until

Channel = BlockingChannel


@pytest.fixture
def connection(vhost_url: str) -> Any:
    with rmqkit.connect(vhost_url) as connection:
        yield connection


def publish_all_kinds(channel: Channel, queue: str) -> None:
    """Publish messages with every property, and with bodies and headers that JSON cannot hold."""
    headers = {"n": 1, "nested": {"list": [1, "a", None, True]}, "raw": b"\x00\xff", "long": 2**40}
    every = BasicProperties(
        content_type="text/plain", content_encoding="x-none", headers=headers, delivery_mode=2, priority=3,
        correlation_id="c", reply_to="r", expiration="600000", message_id="m", timestamp=1_700_000_000, type="t",
        app_id="a",
    )  # fmt: skip
    for body in (b"", b"text", b"\x00\xff\n" * 10, b"x" * 200_000):
        channel.basic_publish("", queue, body, every)
        channel.basic_publish("", queue, body, BasicProperties(delivery_mode=2))
    wait_for_queue(channel, queue, ready=8)


def comparable(received: list[Any]) -> list[Any]:
    found = []
    for each in received:
        given = {name: value for name, value in vars(each.properties).items() if value is not None}
        counted = {"x-delivery-count", "x-acquired-count"}
        headers = {name: value for name, value in given.pop("headers", {}).items() if name not in counted}
        found.append((each.body, each.method.exchange, each.method.routing_key, given, headers))
    return found


@pytest.mark.parametrize("kind", ["classic", "quorum"])
@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_after_a_snapshot_a_deletion_and_a_restore_the_queue_is_as_it_was(
    live: Run, vhost_channel: Channel, tmp_path: Path, kind: str, suffix: str
) -> None:
    file = tmp_path / f"orders.{suffix}"
    declare(vhost_channel, "orders", x_queue_type=kind)
    publish_all_kinds(vhost_channel, "orders")
    done = live("snapshot", "orders", file, "--json")
    assert (done.returncode, json.loads(done.stdout)["saved"]) == (0, 8)
    wait_for_queue(vhost_channel, "orders", ready=8)
    before = comparable(drain_messages(vhost_channel, "orders"))
    vhost_channel.queue_delete("orders")

    declare(vhost_channel, "orders", x_queue_type=kind)
    assert live("restore", file, "--queue", "orders").returncode == 0
    again = tmp_path / "again.jsonl"
    assert live("snapshot", "orders", again).returncode == 0
    done = live("diff", file, again)
    assert (done.returncode, "the same 8 messages in the same order" in done.stderr) == (0, True), done.stderr
    wait_for_queue(vhost_channel, "orders", ready=8)
    assert comparable(drain_messages(vhost_channel, "orders")) == before
    assert not [*tmp_path.glob("*.part")]


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_snapshot_of_many_messages_keeps_their_order(
    live: Run, connection: Connection, vhost_url: str, tmp_path: Path, kind: str
) -> None:
    declare(vhost_url, "long", x_queue_type=kind)
    connection.publish(rmqkit.Message(b"%d" % number, "long") for number in range(7000))
    done = live("snapshot", "long", tmp_path / "long.jsonl")
    assert done.returncode == 0
    lines = (tmp_path / "long.jsonl").read_text().splitlines()
    assert [json.loads(line)["body"] for line in lines] == [str(number) for number in range(7000)]
    wait_until(lambda: ready(vhost_url, "long") == 7000)
    assert drain(vhost_url, "long") == [b"%d" % number for number in range(7000)]


def test_dead_letters_come_back_with_their_history_and_to_their_exchange(
    live: Run, vhost_channel: Channel, tmp_path: Path
) -> None:
    declare(vhost_channel, "parked")
    declare(vhost_channel, "billing", x_dead_letter_exchange="", x_dead_letter_routing_key="parked")
    vhost_channel.queue_bind("billing", "amq.topic", "order.*")
    vhost_channel.basic_publish("amq.topic", "order.eu", b"1", BasicProperties(delivery_mode=2))
    wait_for_queue(vhost_channel, "billing", ready=1)
    method, _, _ = vhost_channel.basic_get("billing")
    vhost_channel.basic_reject(method.delivery_tag, requeue=False)
    wait_for_queue(vhost_channel, "parked", ready=1)
    assert live("snapshot", "parked", tmp_path / "parked.jsonl").returncode == 0
    wait_for_queue(vhost_channel, "parked", ready=1)
    vhost_channel.queue_purge("parked")
    assert live("restore", tmp_path / "parked.jsonl", "-q", "parked").returncode == 0
    report = json.loads(live("peek", "parked", "--json").stdout)
    (death,) = report["messages"][0]["deaths"]
    assert (death["reason"], death["queue"], death["exchange"]) == ("rejected", "billing", "amq.topic")

    vhost_channel.basic_publish("amq.topic", "order.us", b"2", BasicProperties(delivery_mode=2))
    wait_for_queue(vhost_channel, "billing", ready=1)
    assert live("snapshot", "billing", tmp_path / "billing.jsonl").returncode == 0
    wait_for_queue(vhost_channel, "billing", ready=1)
    assert live("restore", tmp_path / "billing.jsonl", "--to-origin").returncode == 0
    wait_for_queue(vhost_channel, "billing", ready=2)
    assert [each.method.routing_key for each in drain_messages(vhost_channel, "billing")] == ["order.us"] * 2


def test_a_file_that_exists_a_long_queue_and_a_missing_target_are_refused(
    live: Run, vhost_channel: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(vhost_channel, "orders")
    sent = fill(vhost_channel, "orders", 5)
    file = tmp_path / "orders.jsonl"
    monkeypatch.setattr(queue_browser, "MOST", 4)
    done = live("snapshot", "orders", file)
    assert (done.returncode, "--limit 5" in done.stderr) == (2, True)
    assert not [*tmp_path.glob("orders*")]
    assert live("snapshot", "orders", file, "--limit", 3).returncode == 0
    assert file.read_text().count("\n") == 3
    assert live("snapshot", "orders", file).returncode == 2
    assert live("snapshot", "nowhere", tmp_path / "other.jsonl").returncode == 5
    assert live("restore", file).returncode == 2
    assert live("restore", file, "-q", "orders", "--to-origin").returncode == 2
    assert live("restore", file, "-q", "nowhere").returncode == 6
    wait_for_queue(vhost_channel, "orders", ready=5)
    assert drain(vhost_channel, "orders") == sent


def test_a_snapshot_that_cannot_be_written_leaves_no_file_and_every_message(
    live: Run, vhost_channel: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(vhost_channel, "orders")
    sent = fill(vhost_channel, "orders", 200)
    monkeypatch.setattr(snapshot_file, "_BLOCK_BYTES", 100)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))  # as on a full disk
        done = live("snapshot", "orders", tmp_path / "orders.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (done.returncode, "cannot be written" in done.stderr) == (3, True)
    assert not [*tmp_path.glob("orders*")]
    wait_for_queue(vhost_channel, "orders", ready=200)
    assert drain(vhost_channel, "orders") == sent


def test_a_delivery_limit_is_not_used_up_by_a_snapshot(
    live: Run, vhost_channel: Channel, broker: Broker, tmp_path: Path
) -> None:
    declare(vhost_channel, "orders", x_queue_type="quorum", x_delivery_limit=1)
    sent = fill(vhost_channel, "orders", 3)
    for number in range(4):
        done = live("snapshot", "orders", tmp_path / f"{number}.jsonl")
        assert done.returncode == (0 if version(broker) >= (4, 3) else 2)
        wait_for_queue(vhost_channel, "orders", ready=3)
    assert drain(vhost_channel, "orders") == sent


def test_a_snapshot_of_a_stream_resumes_behind_the_last_message_of_its_part(
    live: Run, connection: Connection, vhost_url: str, tmp_path: Path
) -> None:
    declare(vhost_url, "events", x_queue_type="stream")
    connection.publish(rmqkit.Message(b"%d" % number, "events") for number in range(20))
    whole, file = tmp_path / "whole.jsonl", tmp_path / "events.jsonl.gz"
    assert live("snapshot", "events", whole).returncode == 0
    lines = whole.read_bytes().splitlines()
    assert len(lines) == 20
    writer = SnapshotWriter(file, resumable=True)
    for line in lines[:7]:
        writer.add(line)
    writer.abandon(keep=True)
    part = file.with_name("events.jsonl.gz.part")
    part.write_bytes(part.read_bytes() + b"\x1f\x8b\x08 cut short")
    assert live("snapshot", "events", file).returncode == 0
    bodies = [json.loads(line)["body"] for line in gzip.decompress(file.read_bytes()).splitlines()]
    assert bodies == [str(number) for number in range(20)]
    done = live("diff", whole, file)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_whatever_a_crash_has_left_of_a_part_its_whole_blocks_are_continued(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_file, "_BLOCK_BYTES", 20)
    writer = SnapshotWriter(tmp_path / f"whole{suffix}", resumable=True)
    for number in range(12):
        writer.add(b'{"n": %d}' % number)
    writer.abandon(keep=True)
    content = (tmp_path / f"whole{suffix}.part").read_bytes()
    for size in range(len(content) + 1):
        (tmp_path / f"cut{suffix}.part").write_bytes(content[:size])
        writer = SnapshotWriter(tmp_path / f"cut{suffix}", resumable=True)
        assert writer.last == (b'{"n": %d}' % (writer.count - 1) if writer.count else b"")
        for number in range(writer.count, 12):
            writer.add(b'{"n": %d}' % number)
        writer.finish()
        found = tmp_path / f"cut{suffix}"
        lines = InputStream(str(found), Stop(), decompress=True).read_all().splitlines()
        assert lines == [b'{"n": %d}' % number for number in range(12)]
        found.unlink()


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "one.jsonl", resumable=False)
    with pytest.raises(InputError, match="another run"):
        SnapshotWriter(tmp_path / "one.jsonl", resumable=False)
    writer.abandon(keep=False)
    assert [*tmp_path.iterdir()] == []


def test_a_restore_of_a_file_that_was_cut_short_publishes_nothing_and_a_whole_one_resumes(
    live: Run, vhost_channel: Channel, tmp_path: Path
) -> None:
    declare(vhost_channel, "orders")
    declare(vhost_channel, "other")
    fill(vhost_channel, "orders", 5)
    file, state = tmp_path / "orders.jsonl.gz", tmp_path / "state"
    assert live("snapshot", "orders", file).returncode == 0
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    done = live("restore", file, "-q", "other")
    assert (done.returncode, "cut short" in done.stderr, ready(vhost_channel, "other")) == (2, True, 0)
    file.write_bytes(whole)
    for _ in range(2):
        assert live("restore", file, "-q", "other", "--resume", state).returncode == 0
    wait_for_queue(vhost_channel, "other", ready=5)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_restore_of_a_damaged_file_publishes_nothing(
    live: Run, vhost_channel: Channel, tmp_path: Path, suffix: str
) -> None:
    declare(vhost_channel, "orders")
    file = tmp_path / f"orders.jsonl{suffix}"
    for lines, said in (
        (b'{"body": "a"}\n{"body": "b"}\n{"body": \n', ":3:"),
        (b"\n", "no message"),
        (b"", "no message"),
    ):
        file.write_bytes(gzip.compress(lines) if suffix else lines)
        done = live("restore", file, "-q", "orders")
        assert (done.returncode, said in done.stderr, ready(vhost_channel, "orders")) == (2, True, 0), done.stderr
    file.write_bytes(b"")
    done = live("restore", file, "-q", "orders", "--resume", tmp_path / "state")
    assert (done.returncode, "no message" in done.stderr) == (2, True), done.stderr


def test_a_diff_names_the_messages_that_one_snapshot_has_alone_and_tells_another_order(
    live: Run, tmp_path: Path
) -> None:
    a, b, c = (tmp_path / f"{name}.jsonl" for name in "abc")
    lines = [f'{{"routing_key": "q", "body": "{number}"}}\n' for number in range(4)]
    a.write_text("".join(lines))
    b.write_text("".join([*lines[1:], '{"routing_key": "q", "body": "new"}\n']))
    c.write_text("".join(reversed(lines)))
    done = live("diff", a, b)
    assert done.returncode == 3
    assert [line.split()[-1] for line in done.stdout.splitlines()[1:]] == ["0", "new"]
    assert done.stderr == f"1 only in {a}, 1 only in {b}.\n"
    done = live("diff", a, c, "--json")
    assert (done.returncode, json.loads(done.stdout)["reordered"]) == (3, True)
    assert live("diff", a, a).returncode == 0
    assert live("diff", a, "topology.yaml").returncode == 2
