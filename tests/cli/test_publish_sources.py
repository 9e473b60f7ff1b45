"""`rmqkit publish` from templates, rows and recordings, and resuming after a stop, on a real RabbitMQ."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pika
import pytest
import typer
from pika.adapters.blocking_connection import BlockingChannel

from rmqkit.cli.publish_input import InputOptions
from tests.support.cli import run_bytes
from tests.support.queues import drain, drain_messages, ready
from tests.support.wait import wait_until

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
Start = Callable[..., "subprocess.Popen[bytes]"]
RMQKIT = (sys.executable, "-m", "rmqkit")


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    """Run `rmqkit`; standard input is at its end unless given."""

    def run(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return run_bytes(*arguments, stdin=stdin, env=environment, folder=tmp_path)

    return run


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Start `rmqkit publish` with pipes."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object) -> subprocess.Popen[bytes]:
        command, pipe = [*RMQKIT, "publish", *map(str, arguments)], subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, cwd=tmp_path))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def regions(channel: BlockingChannel, namespace: Any) -> tuple[str, str, str]:
    """Return a topic exchange, and queues bound for order.eu and order.us."""
    exchange, eu, us = namespace.exchange(), namespace.queue("eu"), namespace.queue("us")
    channel.exchange_declare(exchange, "topic", durable=True)
    for queue, key in ((eu, "order.eu"), (us, "order.us")):
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, exchange, key)
    return exchange, eu, us


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", 'region,name\neu,"A ""B"" C"\nus,"two\nlines"\neu,x\n'),
        (
            "rows.jsonl",
            '{"region": "eu", "name": "A \\"B\\" C"}\n{"region":"us","name":"two\\nlines"}\n{"region":"eu","name":"x"}',
        ),
    ],
)
@pytest.mark.parametrize("piped", [False, True])
def test_rows_fill_body_routing_key_and_headers(
    run: Run,
    channel: BlockingChannel,
    regions: tuple[str, str, str],
    *,
    tmp_path: Path,
    name: str,
    content: str,
    piped: bool,
) -> None:
    exchange, eu, us = regions
    (tmp_path / name).write_text(content)
    (tmp_path / "order.json").write_text('{"n": {{ n }}, "name": {{ name|tojson }}}\n')
    parts = ["-e", exchange, "-r", "order.{{ region }}", "-H", "n:={{ n }}", "--template", "@order.json"]
    done = run("publish", *parts, "--rows", "-" if piped else name, stdin=content.encode() if piped else b"")
    assert done.returncode == 0, done.stderr
    found = [*drain_messages(channel, eu), *drain_messages(channel, us)]
    assert [json.loads(body) for _, _, body in found] == [
        {"n": 0, "name": 'A "B" C'},
        {"n": 2, "name": "x"},
        {"n": 1, "name": "two\nlines"},
    ]
    assert [properties.headers for _, properties, _ in found] == [{"n": 0}, {"n": 2}, {"n": 1}]
    assert {properties.content_type for _, properties, _ in found} == {"application/json"}


def test_a_count_fills_a_template_anew_and_a_seed_repeats_it(run: Run, channel: BlockingChannel, queue: str) -> None:
    parts = [
        "publish",
        "-q",
        queue,
        "-n",
        20,
        "--seed",
        5,
        "--template",
        "{{ n }} {{ uuid }} {{ random_int(1, 1000) }}",
    ]
    assert run(*parts).returncode == run(*parts).returncode == 0
    found = drain(channel, queue)
    assert found[:20] == found[20:]
    assert len(set(found)) == 20


def test_braces_are_literal_without_a_template(run: Run, channel: BlockingChannel, queue: str) -> None:
    assert run("publish", "-q", queue, "-H", "a={{ n }}", "{{ n }}").returncode == 0
    [(_, properties, body)] = drain_messages(channel, queue)
    assert (properties.headers, body) == ({"a": "{{ n }}"}, b"{{ n }}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--template", "{{ nn }}"], "--template:1:4: 'nn' is not known"),
        (["--template", "x", "-H", "id={{ nn }}"], "header 'id':1:4: 'nn' is not known"),
        (["--template", "{", "--format", "json"], "not JSON"),
        (["--template", "{{ 1/0 }}"], "ZeroDivisionError"),
        (["--template", "@gone"], "gone: cannot be read"),
        (["--rows", "bad.csv"], "bad.csv:3:1: 1 fields; the header has 2"),
        (["--rows", "good.csv", "--template", "{{ c }}"], "'c' is not known"),
        (["--rows", "good.jsonl", "--template", "{{ a }}"], "good.jsonl:2:1: --template: 'a' is undefined"),
        (["--rows", "bad.jsonl"], "bad.jsonl:2:2: not JSON"),
        (["--rows", "good.csv", "--template", "{{ a }}", "--format", "json"], "the body made for good.csv:3:1:1:1"),
        (["--envelopes", "empty"], "empty: no *.properties.json file in this folder"),
        (["--envelopes", "saved"], "x.properties.json:1:1: its body, x.bin, cannot be read"),
        (["--lines", "good.csv", "--resume", "good.csv"], "good.csv is not the state of a run"),
    ],
)
def test_input_that_fails_its_check_sends_nothing(
    run: Run, channel: BlockingChannel, queue: str, *, tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "x.properties.json").write_text('{"body_file": "x.bin"}')
    (tmp_path / "good.csv").write_text("a,b\n1,2\nx,4\n")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n3\n")
    (tmp_path / "good.jsonl").write_text('{"a": 1}\n{"b": 1}\n')
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n{a\n')
    done = run("publish", "-q", queue, *arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr.decode()
    assert channel.queue_declare(queue, passive=True).method.message_count == 0


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (InputOptions(rows="a", lines="b"), "use only one of --lines, --rows"),
        (InputOptions(["payload"], rows="a"), "--rows cannot be combined with payloads or --file"),
        (InputOptions(file=["f"], rows="a"), "--rows cannot be combined with payloads or --file"),
        (InputOptions(rows="a", count=3), "--rows cannot be combined with --count"),
        (InputOptions(["payload"], template="a"), "--template cannot be combined with payloads"),
        (InputOptions(lines="b", template="a"), "--template and --lines cannot be combined"),
        (InputOptions(seed=1, count=3), "--seed needs --template or --rows"),
        (InputOptions(timing=1.0, lines="b"), "--timing needs --envelopes"),
        (InputOptions(resume="s", count=3), "--resume needs a file"),
        (InputOptions(resume="s", lines="-"), "--resume needs a file"),
    ],
)
def test_options_that_contradict_each_other_are_refused(inputs: InputOptions, words: str) -> None:
    with pytest.raises(typer.BadParameter, match=words):
        inputs.check()


def test_resuming_without_confirms_is_refused(run: Run) -> None:
    done = run("publish", "-q", "q", "--lines", "in", "--resume", "state", "--no-confirms")
    assert done.returncode == 2
    assert b"--resume cannot be combined with --no-confirms" in done.stderr


@pytest.mark.fault(29)
@pytest.mark.parametrize(
    ("flag", "good", "bad", "place"),
    [
        ("--rows", b'{"a":1}\n', b'{"a":\n', b"standard input:2:6: not JSON"),
        ("--rows", b"a\n1\n", b"1,2\n", b"standard input:3:1: 2 fields; the header has 1"),
        ("--rows", b"a\n1\n", b'"cut off', b"standard input:3:1: a double quote in this row is not closed"),
        ("--rows", b"a\n1\n", b"\xff\n", b"standard input:3:1: not UTF-8"),
    ],
)
def test_a_pipe_is_confirmed_up_to_its_first_bad_row(
    start: Start, channel: BlockingChannel, queue: str, *, flag: str, good: bytes, bad: bytes, place: bytes
) -> None:
    process = start("-q", queue, flag, "-")
    assert process.stdin is not None
    process.stdin.write(good)
    process.stdin.flush()
    wait_until(lambda: ready(channel, queue) >= 1)  # a row goes out when it arrives
    _, errors = process.communicate(bad, timeout=90)
    assert process.returncode == 3
    assert b"1 confirmed" in errors
    assert place in errors


@pytest.mark.fault(29)
def test_a_last_row_needs_no_end(run: Run, channel: BlockingChannel, queue: str) -> None:
    assert run("publish", "-q", queue, "--rows", "-", stdin=b"a\n1\n2").returncode == 0
    assert drain(channel, queue) == [b'{"a": "1"}', b'{"a": "2"}']


def test_a_stop_in_the_middle_of_a_row_of_csv_is_not_a_bad_row(
    start: Start, channel: BlockingChannel, queue: str
) -> None:
    process = start("-q", queue, "--rows", "-")
    assert process.stdin is not None
    process.stdin.write(b'a\n1\n"half\n')
    process.stdin.flush()
    wait_until(lambda: ready(channel, queue) >= 1)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=90)
    assert process.returncode == 130


_HEADERS = {
    "text": "grüße \u0007", "int": -(2**40), "true": True, "none": None, "bytes": bytes(range(256)),
    "moment": datetime(2026, 1, 31, tzinfo=UTC), "decimal": Decimal("1.25"),
    "list": [1, "a", {"b": []}], "table": {"$bytes": "x"},
}  # fmt: skip
_EVERYTHING = pika.BasicProperties(
    content_type="x/y", content_encoding="z", headers=_HEADERS, delivery_mode=1, priority=7, correlation_id="c",
    reply_to="r", expiration="3600000", message_id="m", timestamp=1_700_000_000, type="t", user_id="guest", app_id="a",
    cluster_id="cl",
)  # fmt: skip


@pytest.mark.parametrize("saved", [False, True])
def test_a_recording_is_played_back_byte_for_byte(
    run: Run, channel: BlockingChannel, queue: str, *, namespace: Any, tmp_path: Path, saved: bool
) -> None:
    sent = [
        (_EVERYTHING, bytes(range(256)) * 300),
        (pika.BasicProperties(), b""),
        (pika.BasicProperties(content_type="application/json"), "grüße\r\n".encode()),
    ]
    exchange, reference = namespace.exchange(), namespace.queue("reference")
    channel.exchange_declare(exchange, "fanout", durable=True)
    channel.queue_declare(reference, durable=True)
    for each in (queue, reference):
        channel.queue_bind(each, exchange)
    for properties, body in sent:
        channel.basic_publish(exchange, "key", body, properties)
    floats = run("publish", "-e", exchange, "-r", "key", "-H", "float:=1.5", "-H", "large:=1e300", "pika sends none")
    assert floats.returncode == 0, floats.stderr
    expected = drain_messages(channel, reference)
    parts = ["--save-to", "recording"] if saved else ["--format", "json"]
    recorded = run("consume", queue, "-n", len(expected), *parts)
    assert recorded.returncode == 0, recorded.stderr
    if not saved:
        (tmp_path / "recording").write_bytes(recorded.stdout)
    done = run("publish", "--envelopes", "recording", "--timing", 1)
    assert done.returncode == 0, done.stderr
    found = drain_messages(channel, queue)
    assert [each[0].routing_key for each in found] == ["key"] * len(expected)
    assert [body for _, _, body in found] == [body for _, _, body in expected]
    assert [repr(vars(each)) for _, each, _ in found] == [repr(vars(each)) for _, each, _ in expected]


def _recording(path: Path, *offsets_s: float) -> None:
    begin = datetime(2026, 1, 31, tzinfo=UTC)
    lines = [
        {"body": str(number), "received_at": (begin + timedelta(seconds=offset_s)).isoformat()}
        for number, offset_s in enumerate(offsets_s)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(("speed", "least_s"), [(1, 1.2), (4, 0.3)])
def test_a_recording_is_replayed_with_its_timing_or_faster(
    run: Run, channel: BlockingChannel, queue: str, *, tmp_path: Path, speed: int, least_s: float
) -> None:
    _recording(tmp_path / "in", 0, 0.4, 0.2, 1.2)
    done = run("publish", "-q", queue, "--envelopes", "in", "--timing", speed, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["seconds"] >= least_s
    assert drain(channel, queue) == [b"0", b"1", b"2", b"3"]


def test_ctrl_c_ends_a_long_pause_of_a_recording_and_sent_messages_are_confirmed(
    start: Start, channel: BlockingChannel, queue: str, tmp_path: Path
) -> None:
    _recording(tmp_path / "in", 0, 10**9)
    process = start("-q", queue, "--envelopes", "in", "--timing", "1", "--json", "--resume", "state")
    wait_until(lambda: ready(channel, queue) >= 1)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=90)
    assert process.returncode == 130, errors
    assert json.loads(printed)["confirmed"] == json.loads(printed)["published"] == 1
    state = json.loads((tmp_path / "state").read_text())
    assert (state["status"], state["settled"]["n"]) == ("stopped", 1)


def test_timing_needs_the_time_of_every_envelope(run: Run, queue: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_text('{"body": "a"}\n')
    done = run("publish", "-q", queue, "--envelopes", "in", "--timing", 1)
    assert done.returncode == 2
    assert b"in:1:1: 'received_at' is missing, and --timing needs it" in done.stderr


def test_a_body_file_cannot_lead_out_of_its_folder(run: Run, queue: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "in").mkdir()
    for number, name in enumerate(("../secret", str(tmp_path / "secret"), "..", "")):
        (tmp_path / "in" / f"{number}.properties.json").write_text(json.dumps({"body_file": name}))
    done = run("publish", "-q", queue, "--envelopes", "in")
    assert done.returncode == 2
    assert done.stderr.count(b"'body_file' must name a file in the same folder") == 2
    assert done.stderr.count(b"cannot be read: Is a directory") == 2


@pytest.mark.parametrize(
    ("flag", "content", "more"),
    [
        ("--lines", "0\n1\n2\n3\n", "4\n"),
        ("--rows", "a\n0\n1\n2\n3\n", "4\n"),
        ("--envelopes", "".join(f'{{"body": "{n}"}}\n' for n in range(4)), '{"body": "4"}\n'),
    ],
)
def test_resuming_a_finished_run_publishes_only_appended_lines(
    run: Run, channel: BlockingChannel, queue: str, *, tmp_path: Path, flag: str, content: str, more: str
) -> None:
    (tmp_path / "in").write_text(content)
    arguments = ["publish", "-q", queue, flag, "in", "--resume", "state", "--json"]
    arguments += ["--template", "{{ n }}"] if flag == "--rows" else []
    assert json.loads(run(*arguments).stdout)["confirmed"] == 4
    with (tmp_path / "in").open("a") as file:
        file.write(more)
    report = json.loads(run(*arguments).stdout)
    assert (report["published"], report["resumed"]) == (1, {"skipped": 4, "retried": 0, "doubtful": 0})
    assert json.loads(run(*arguments).stdout)["published"] == 0
    assert drain(channel, queue) == [b"0", b"1", b"2", b"3", b"4"]


def test_returned_messages_are_sent_again_once_a_queue_exists(
    run: Run, channel: BlockingChannel, namespace: Any, tmp_path: Path
) -> None:
    exchange, queue, late = namespace.exchange(), namespace.queue(), namespace.queue("late")
    channel.exchange_declare(exchange, "direct", durable=True)
    channel.queue_declare(queue, durable=True)
    channel.queue_bind(queue, exchange, "known")
    (tmp_path / "in.csv").write_text("key\nknown\nunknown\nknown\n")
    arguments = ["publish", "-e", exchange, "-r", "{{ key }}", "--rows", "in.csv", "--resume", "state", "--mandatory"]
    first = run(*arguments)
    assert first.returncode == 6, first.stderr
    channel.queue_declare(late, durable=True)
    channel.queue_bind(late, exchange, "unknown")
    second = run(*arguments)
    assert second.returncode == 0, second.stderr
    assert b"2 messages already confirmed; 1 failed and will be sent again first." in second.stderr
    assert drain(channel, queue) == [b'{"key": "known"}'] * 2
    assert drain(channel, late) == [b'{"key": "unknown"}']


def test_another_target_or_input_is_refused(run: Run, queue: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("a\nb\n")
    assert run("publish", "-q", queue, "--lines", "in", "--resume", "state").returncode == 0
    other = run("publish", "-q", "another", "--lines", "in", "--resume", "state")
    (tmp_path / "in").write_text("a\nc\n")
    changed = run("publish", "-q", queue, "--lines", "in", "--resume", "state")
    assert other.returncode == changed.returncode == 2
    assert b"but this one publishes lines to queue 'another'" in other.stderr
    assert b"was changed in the part already published" in changed.stderr
    assert b"remove this one to publish everything" in other.stderr


def test_a_state_that_cannot_be_written_is_reported_before_anything_is_sent(
    run: Run, channel: BlockingChannel, queue: str, tmp_path: Path
) -> None:
    (tmp_path / "in").write_text("a\n")
    done = run("publish", "-q", queue, "--lines", "in", "--resume", "nowhere/state")
    assert done.returncode == 2
    assert b"nowhere/state: the state cannot be written" in done.stderr
    assert channel.queue_declare(queue, passive=True).method.message_count == 0
    assert not os.path.lexists(tmp_path / "nowhere")
