"""`rmqkit publish` against a real RabbitMQ: every message arrives, and the report adds up."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from traceback import walk_stack
from typing import IO

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from rmqkit.amqp import transport
from rmqkit.amqp.direct_write import DirectWriter
from rmqkit.node.node import Node
from tests.support.cli import rmqkit, run_bytes
from tests.support.queues import declare, drain, drain_messages, ready
from tests.support.wait import wait_for_queue, wait_until

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
Start = Callable[..., "subprocess.Popen[bytes]"]
RMQKIT = (sys.executable, "-m", "rmqkit")
BASIC_PUBLISH = b"\x00\x3c\x00\x28"  # its class and method (AMQP 0-9-1 section 1.8.3.7)


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    """Run `rmqkit publish`; standard input is at its end unless given."""

    def run(*arguments: object, stdin: bytes = b"", **more: str) -> subprocess.CompletedProcess[bytes]:
        return run_bytes("publish", *arguments, stdin=stdin, env=environment | more, folder=tmp_path)

    return run


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Start `rmqkit publish` with pipes."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object) -> subprocess.Popen[bytes]:
        command = [*RMQKIT, "publish", *map(str, arguments)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def write(stream: IO[bytes] | None, data: bytes) -> None:
    assert stream is not None
    stream.write(data)
    stream.flush()


def counts(report: bytes) -> dict[str, int]:
    numbers = json.loads(report)
    names = ("published", "confirmed", "returned", "nacked", "refused", "unknown", "republished")
    return {name: numbers[name] for name in names if numbers[name]}


def test_count_sends_exactly_the_numbers_in_order_persistent(run: Run, channel: BlockingChannel, queue: str) -> None:
    done = run("-q", queue, "--count", 20_000, "--json")
    assert done.returncode == 0, done.stderr
    assert counts(done.stdout) == {"published": 20_000, "confirmed": 20_000}
    found = drain_messages(channel, queue)
    assert [each.body for each in found] == [b"%d" % number for number in range(20_000)]
    assert {each.properties.delivery_mode for each in found} == {2}
    assert {each.properties.content_type for each in found} == {"text/plain"}


def test_payloads_files_and_folders_arrive_byte_for_byte(
    run: Run, channel: BlockingChannel, queue: str, tmp_path: Path
) -> None:
    everything = bytes(range(256)) * 2_000
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b.bin").write_bytes(everything)
    (tmp_path / "folder" / "a.json").write_bytes(b'{"a":1}\r\n')
    (tmp_path / "empty.txt").touch()
    done = run(
        "-q", queue, "grüße", "", "-f", tmp_path / "folder", "-f", tmp_path / "empty.txt", "-f", "-", stdin=b"\0\n"
    )
    assert done.returncode == 0, done.stderr
    found = drain_messages(channel, queue)
    assert [each.body for each in found] == ["grüße".encode(), b"", b'{"a":1}\r\n', everything, b"", b"\0\n"]
    kinds = [each.properties.content_type for each in found]
    assert kinds == [
        "text/plain",
        "text/plain",
        "application/json",
        "application/octet-stream",
        "text/plain",
        "text/plain",
    ]


def test_a_count_repeats_payloads(run: Run, channel: BlockingChannel, queue: str) -> None:
    assert run("-q", queue, "-n", 3, "a", "b").returncode == 0
    assert drain(channel, queue) == [b"a", b"b"] * 3


def test_piped_lines_are_messages(run: Run, channel: BlockingChannel, queue: str) -> None:
    done = run("-q", queue, stdin="a\r\n\n\u2028\nlast".encode())
    assert done.returncode == 0
    assert drain(channel, queue) == [b"a\r", b"", "\u2028".encode(), b"last"]


def test_a_line_is_confirmed_when_it_arrives_and_not_at_the_end(
    start: Start, channel: BlockingChannel, queue: str
) -> None:
    process = start("-q", queue, "--lines", "-")
    for number in (1, 2):
        write(process.stdin, b"line\n")
        wait_for_queue(channel, queue, ready=number)
    _, stderr = process.communicate()
    assert (process.returncode, b"2 confirmed" in stderr) == (0, True)


def test_another_client_sees_the_same_properties_and_typed_headers(
    run: Run, channel: BlockingChannel, queue: str
) -> None:
    done = run(
        "-q", queue, "x", "--content-type", "a/b", "--content-encoding", "c", "--priority", 9, "--correlation-id", "d",
        "--reply-to", "e", "--expiration", "60s", "--message-id", "f", "--timestamp", "2026-01-31T12:00:00Z",
        "--type", "g", "--user-id", "guest", "--app-id", "h", "--transient",
        "-H", "text=1", "-H", "int:=1", "-H", "big:=9007199254740993", "-H", "yes:=true", "-H", "none:=null",
        "-H", 'list:=[1,"a",{"b":false}]', "-H", 'raw:={"$bytes":"/w=="}',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [(_, properties, _)] = drain_messages(channel, queue)
    assert (properties.content_type, properties.content_encoding, properties.priority) == ("a/b", "c", 9)
    assert (properties.correlation_id, properties.reply_to, properties.expiration) == ("d", "e", "60000")
    assert (properties.message_id, properties.type, properties.app_id) == ("f", "g", "h")
    assert (properties.user_id, properties.delivery_mode) == ("guest", 1)
    assert properties.timestamp == datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()
    assert properties.headers == {
        "text": "1", "int": 1, "big": 9007199254740993, "yes": True, "none": None, "list": [1, "a", {"b": False}],
        "raw": b"\xff",
    }  # fmt: skip


def test_a_float_header_arrives_as_one(run: Run, queue: str, environment: dict[str, str]) -> None:
    assert run("-q", queue, "x", "-H", "n:=1.5").returncode == 0
    command = [*RMQKIT, "consume", queue, "-n", "1", "--format", "json"]
    printed = subprocess.run(command, capture_output=True, env=environment, check=True, timeout=90).stdout
    assert json.loads(printed)["headers"] == {"n": 1.5}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-q", "q", "-e", "x", "a"], "--queue cannot be combined with --exchange"),
        (["-q", "q", "--lines", "-", "a"], "--lines cannot be combined with payloads"),
        (["-q", "q", "--lines", "-", "--envelopes", "-"], "use only one of --lines, --envelopes"),
        (["-q", "q", "--lines", "-", "-n", "3"], "--lines cannot be combined with --count"),
        (["-q", "q", "-f", "-", "-f", "-"], "only once"),
        (["-q", "q", "--envelopes", "-", "--priority", "1"], "carry their own properties"),
        (["-q", "q", "--envelopes", "-", "--format", "json"], "--format cannot be combined with --envelopes"),
        (["-q", "q", "-n", "-1"], "greater than or equal to 0"),
        (["-q", "q", "a", "--priority", "300"], "priority must be"),
        (
            ["-q", "q", "a", "--expiration", "1.5"],
            "--expiration: expected milliseconds (0 to 4294967295), or a duration",
        ),
        (["-q", "q", "a", "--timestamp", "yesterday"], "--timestamp: a timestamp is"),
        (["-q", "q", "a", "-H", "novalue"], "has no value"),
        (["-q", "q" * 256, "a"], "queue has 256 bytes"),
        (["-q", "q", "-f", "missing.json"], "missing.json: cannot be read"),
        (["-q", "q", "--lines", "missing"], "missing: cannot be read"),
        (["-q", "q", "--format", "json", "{}", "[1, NaN]"], "payload 2:1:5: not JSON"),
        (["-q", "q", "--format", "xml", "<!DOCTYPE a><a/>"], "DOCTYPE"),
    ],
)
def test_bad_usage_and_bad_input_publish_nothing_and_need_no_broker(run: Run, arguments: list[str], words: str) -> None:
    done = run(*arguments, RMQKIT_URL="amqp://127.0.0.1:1/", NO_COLOR="1")
    assert (done.returncode, done.stdout) == (2, b"")
    assert words in " ".join(done.stderr.decode().split())


def test_a_bad_line_ends_the_input_after_those_before_it_were_confirmed(
    run: Run, channel: BlockingChannel, queue: str
) -> None:
    done = run("-q", queue, "--format", "json", "--json", stdin=b'{"a": 1}\n[]\n{"secret": hunter2}\n{}\n')
    assert done.returncode == 3
    report = json.loads(done.stdout)
    assert (report["published"], report["confirmed"], report["error"]) == (2, 2, "PayloadError")
    assert (report["problems"][0]["line"], report["problems"][0]["column"]) == (3, 12)
    assert b"hunter2" not in done.stdout + done.stderr
    assert drain(channel, queue) == [b'{"a": 1}', b"[]"]


def test_a_bad_first_line_is_bad_input(run: Run, channel: BlockingChannel, queue: str) -> None:
    assert run("-q", queue, "--format", "json", stdin=b"nope\n{}\n").returncode == 2
    assert drain(channel, queue) == []


def test_a_missing_queue_is_an_error_with_advice(run: Run) -> None:
    done = run("-q", "rmqkit.no.such.queue", "-n", 300, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["error"], report["returned"]) == (6, "Unroutable", 300)
    assert "no queue 'rmqkit.no.such.queue'" in report["message"]
    assert "rmqkit apply" in report["advice"]


def test_an_unroutable_message_with_a_routing_key_or_headers_is_an_error_unless_allowed(run: Run) -> None:
    arguments = ("-e", "amq.topic", "-r", "rmqkit.nobody", "-n", 3)
    done = run(*arguments)
    assert done.returncode == 6
    assert b"error: 3 of 3 messages reached no queue: exchange 'amq.topic' has no binding" in done.stderr
    assert b"--allow-unroutable" in done.stderr
    done = run(*arguments, "--allow-unroutable")
    assert done.returncode == 0
    assert b"warning: 3 of 3 messages reached no queue: exchange 'amq.topic' has no binding" in done.stderr
    assert run("-e", "amq.headers", "-H", "rmqkit=nobody", "x").returncode == 6
    assert run(*arguments, "--allow-unroutable", "--mandatory").returncode == 2


def test_a_fanout_without_readers_is_a_warning_and_an_error_when_mandatory(
    run: Run, channel: BlockingChannel, queue_name: str
) -> None:
    channel.exchange_declare(queue_name, "fanout", auto_delete=False)
    done = run("-e", queue_name, "x")
    assert done.returncode == 0
    assert b"warning: 1 of 1 messages reached no queue" in done.stderr
    assert run("-e", queue_name, "x", "--mandatory").returncode == 6
    channel.exchange_delete(queue_name)


def test_no_such_exchange_is_refused(run: Run) -> None:
    done = run("-e", "rmqkit.no.such.exchange", "-n", 3, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["error"], report["refused"]) == (5, "NotFound", 3)


def test_without_confirms_everything_is_unknown(run: Run, channel: BlockingChannel, queue: str) -> None:
    done = run("-q", queue, "-n", 100, "--no-confirms", "--json")
    assert done.returncode == 0
    assert counts(done.stdout) == {"published": 100, "unknown": 100}
    assert len(drain(channel, queue)) == 100


def test_a_rate_is_not_exceeded(run: Run, queue: str) -> None:
    done = run("-q", queue, "-n", 20, "--rate", 40, "--json")
    report = json.loads(done.stdout)
    assert report["confirmed"] == 20
    assert 0.4 < report["seconds"] < 5


def test_off_a_terminal_with_nothing_applied_a_target_is_required(run: Run) -> None:
    for arguments in (["-n", "3"], ["--lines", "-"], ["-f", "-"]):
        done = run(*arguments, RMQKIT_URL="amqp://127.0.0.1:1/")
        assert done.returncode == 2
        assert b"no target given" in done.stderr


def test_the_queue_precedes_its_payloads(run: Run, channel: BlockingChannel, queue: str, tmp_path: Path) -> None:
    (tmp_path / queue).mkdir()
    (tmp_path / "1.json").write_text("{}")
    for arguments in ([queue, "hello", "world"], [queue, "-n", 1], [queue, "-f", "1.json"]):
        done = run(*arguments)
        if arguments[-1] == "1.json":  # the shell's `-f *.json` looks the same
            assert (done.returncode, b"Use --queue" in done.stderr) == (2, True)
            (tmp_path / queue).rmdir()
            done = run(*arguments)
        assert done.returncode == 0, done.stderr
    assert run(queue, stdin=b"line").returncode == 0
    assert drain(channel, queue) == [b"hello", b"world", b"0", b"{}", b"line"]


def test_a_payload_in_the_place_of_the_queue_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text("{}")
    for arguments in (["rmqkit.hello"], ["data.json"], ["rmqkit.hello", "world"]):
        done = run(*arguments)
        assert (done.returncode, b"the first argument is the queue" in done.stderr) == (5, True), done.stderr
    done = run("rmqkit.hello", "data.json")
    assert (done.returncode, b"Use -f" in done.stderr) == (2, True)


def test_several_files_follow_one_flag(run: Run, channel: BlockingChannel, queue: str, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.json").write_text(f'{{"n": {number}}}')
    done = run("-q", queue, "-f", *sorted(tmp_path.glob("*.json")))
    assert done.returncode == 0, done.stderr
    assert drain(channel, queue) == [b'{"n": 0}', b'{"n": 1}', b'{"n": 2}']


def test_a_payload_that_names_a_file_or_a_queue_is_refused(
    run: Run, channel: BlockingChannel, queue: str, tmp_path: Path
) -> None:
    (tmp_path / "data.json").write_text("{}")
    done = run("-q", queue, tmp_path / "data.json")
    assert (done.returncode, b"Use -f" in done.stderr) == (2, True)
    done = run("-e", "amq.fanout", queue, "hello")
    assert (done.returncode, f"--queue {queue}".encode() in done.stderr.replace(b"\n", b"")) == (2, True), done.stderr
    assert run("-q", queue, queue).returncode == 0
    assert drain(channel, queue) == [queue.encode()]


def test_the_target_applied_last_is_forgotten_once_destroyed(
    run: Run, channel: BlockingChannel, queue_name: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    file = tmp_path / "topology.yaml"
    file.write_text(f"queues:\n  {queue_name}: {{}}\npublish: {{routing_key: {queue_name}}}\n")
    assert rmqkit("apply", file, env=environment).returncode == 0
    assert run("--count", 3).returncode == 0
    assert drain(channel, queue_name) == [b"0", b"1", b"2"]
    assert rmqkit("destroy", file, "--force", env=environment).returncode == 0
    done = run("--count", 3)
    assert (done.returncode, b"no target given" in done.stderr) == (2, True)


def test_envelopes_return_to_their_origin_byte_for_byte(
    run: Run, channel: BlockingChannel, queue: str, environment: dict[str, str]
) -> None:
    sent = pika.BasicProperties(headers={"a": [1, b"\xff", {"b": None}]}, priority=3, timestamp=1_700_000_000)
    for body in (b"text \xc3\xa4\n", bytes(range(256))):
        channel.basic_publish("", queue, body, sent)
    command = [*RMQKIT, "consume", queue, "-n", "2", "--format", "json"]
    printed = subprocess.run(command, capture_output=True, env=environment, check=True, timeout=90).stdout
    done = run("--envelopes", "-", stdin=printed)
    assert done.returncode == 0, done.stderr
    found = drain_messages(channel, queue)
    assert [each.body for each in found] == [b"text \xc3\xa4\n", bytes(range(256))]
    assert [each.properties.__dict__ for each in found] == [sent.__dict__] * 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_input_and_sent_messages_are_confirmed(
    start: Start, channel: BlockingChannel, queue: str, number: int, code: int
) -> None:
    process = start("-q", queue, "--json")
    write(process.stdin, b"1\n2\nhalf")
    wait_for_queue(channel, queue, ready=2)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == code, stderr
    assert counts(stdout) == {"published": 2, "confirmed": 2}
    assert drain(channel, queue) == [b"1", b"2"]


def test_a_signal_in_the_middle_of_a_million_leaves_a_prefix_and_a_report_of_it(
    start: Start, channel: BlockingChannel, queue: str
) -> None:
    process = start("-q", queue, "-n", 1_000_000, "--rate", 5_000, "--json")
    wait_until(lambda: ready(channel, queue) >= 500)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == 130, stderr
    found = drain(channel, queue)
    assert found == [b"%d" % number for number in range(len(found))]
    assert counts(stdout) == {"published": len(found), "confirmed": len(found)}


def test_a_second_signal_stops_at_once_and_unconfirmed_messages_are_reported_unknown(
    start: Start, environment: dict[str, str], node: Node
) -> None:
    environment["RMQKIT_URL"] = node.url
    declare(node.url, "q")
    process = start("-q", "q", "-n", 1_000_000, "--json")
    wait_until(lambda: ready(node.url, "q") >= 5_000)
    with node.frozen():
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=5)
    numbers = json.loads(stdout)
    assert process.returncode == 6, stderr
    assert numbers["unknown"] > 0
    assert numbers["published"] == numbers["confirmed"] + numbers["unknown"]


# The way of a publish, as a reader of the code follows it


def test_a_publish_is_at_most_thirty_calls_from_its_bytes(
    environment: dict[str, str], queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[str, list[str]] = {}  # by the function that takes the bytes; the I/O thread has a stack of its own
    package = str(Path(transport.__file__).parent.parent)

    def record(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def recorded(self: object, data: bytes) -> object:
            if BASIC_PUBLISH in data:
                codes = [frame.f_code for frame, _ in walk_stack(None)]
                own = [code.co_qualname for code in codes if code.co_filename.startswith(package)]
                calls.setdefault(name, [*reversed(own), name])
            return original(self, data)

        monkeypatch.setattr(owner, name, recorded)

    record(transport.Transport, "send")
    record(transport._Adapter, "emit")
    record(DirectWriter, "write")
    assert rmqkit("publish", "-q", queue, "--count", "1000", env=environment).returncode == 0
    assert list(calls) == ["write", "send", "emit"]  # the first message on this thread, the others on the I/O thread
    assert len(calls["write"]) <= 30, calls
    assert len(calls["send"] + calls["emit"]) <= 30, calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--delay", "5"], b"--delay 5: expected a duration such as 90s"),
        (["--delay", "0s"], b"the delay is not positive"),
        (["--delay", "181d"], b"messages can be delayed by at most 180 days"),
        (["--at", "tomorrow"], b"--at tomorrow: expected a time such as"),
        (["--at", "2020-01-01T00:00Z"], b"2020-01-01T00:00:00+00:00 is in the past"),
        (["--at", "2099-01-01T00:00"], b"has no time zone"),
        (["--delay", "1s", "--at", "2099-01-01T00:00Z"], b"--delay cannot be combined with --at"),
        (["--delay", "1s", "--expiration", "5s"], b"a message with an expiration cannot be delayed"),
    ],
)
def test_an_impossible_delay_publishes_nothing(
    run: Run, channel: BlockingChannel, queue: str, options: list[str], message: bytes
) -> None:
    done = run("-q", queue, "x", *options)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert b"declaring" not in done.stderr
    assert ready(channel, queue) == 0
