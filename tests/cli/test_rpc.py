"""`rmqkit call` and `rmqkit serve` as processes; the other side is pika, or the library."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rmqkit
from rmqkit import Delivery, HandlerError, Stop

PNG = b"\x89PNG\r\n\x1a\n\x00\xff\n"


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Callable[..., Any]:
    """Run `rmqkit` in a folder of its own, with bytes for standard input and output."""

    def run(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "rmqkit", *arguments],
            capture_output=True,
            env=environment,
            cwd=tmp_path,
            check=False,
            **({"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}),
        )

    return run


def _answer(request: Delivery) -> bytes:
    if request.body == b"fail":
        raise HandlerError("there is no such account")
    return b"<" + request.body + b">"


@pytest.fixture
def served(broker_url: str, queue: str) -> Iterator[str]:
    """A queue whose requests are answered, in angle brackets."""
    stop = Stop()
    with rmqkit.connect(broker_url) as connection:
        connection.serve(queue)(_answer)
        thread = threading.Thread(target=connection.run, kwargs={"stop": stop, "on_failure": lambda *_: None})
        thread.start()
        yield queue
        stop.request()
        thread.join()


# call


def test_a_call_prints_the_reply_and_nothing_else(run: Any, served: str) -> None:
    done = run("call", served, "ping")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"<ping>\n", b"")


def test_a_reply_goes_to_a_file_byte_for_byte(run: Any, served: str, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(PNG)
    done = run("call", served, "-f", "in.png", "-o", "out.png")
    assert (done.returncode, done.stdout) == (0, b"")
    assert (tmp_path / "out.png").read_bytes() == b"<" + PNG + b">"


@pytest.mark.parametrize("window", ["1", "7"])
def test_replies_are_printed_in_the_order_of_the_lines(run: Any, served: str, window: str) -> None:
    lines = [b"line %d" % number for number in range(50)]
    done = run("call", served, "--lines", "-", "--window", window, stdin=b"\n".join(lines))
    assert (done.returncode, done.stdout) == (0, b"".join(b"<" + line + b">\n" for line in lines))
    assert done.stderr.startswith(b"50 of 50 requests were answered")


def test_each_line_is_answered_before_the_next_is_there(environment: dict[str, str], served: str) -> None:
    command = [sys.executable, "-m", "rmqkit", "call", served, "--window", "10"]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin
        assert process.stdout
        for line in (b"1", b"2"):
            process.stdin.write(line + b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"<" + line + b">\n"
        process.stdin.close()
        assert process.wait(10) == 0


def test_a_reply_as_an_envelope_says_what_it_is(run: Any, served: str) -> None:
    done = run("call", served, "ping", "--format", "json")
    envelope = json.loads(done.stdout)
    assert (envelope["body"], envelope["content_type"]) == ("<ping>", "text/plain")


def test_a_request_carries_its_headers(run: Any, broker_url: str, namespace: Any) -> None:
    seen: list[Delivery] = []
    other, stop = namespace.queue("other"), Stop()
    with rmqkit.connect(broker_url) as connection:
        connection.apply(rmqkit.Topology(queues=(rmqkit.Queue(other),)))
        connection.serve(other, count=1)(seen.append)
        thread = threading.Thread(target=connection.run, kwargs={"stop": stop})
        thread.start()
        done = run("call", other, "ping", "-H", "region=eu", "--type", "question")
        thread.join()
    assert done.returncode == 0
    assert (seen[0].properties.headers, seen[0].properties.type) == ({"region": "eu"}, "question")


def test_a_call_to_an_exchange_waits_for_as_many_replies_as_asked_for(
    run: Any, served: str, channel: Any, namespace: Any
) -> None:
    exchange = namespace.exchange()
    channel.exchange_declare(exchange, "topic")
    channel.queue_bind(served, exchange, "question.#")
    done = run("call", "-e", exchange, "-r", "question.first", "ping", "--replies", "2", "--timeout", "0.5")
    assert (done.returncode, done.stdout) == (6, b"<ping>\n")
    assert b"1 of 2 replies within 0.5 s" in done.stderr
    done = run("call", "-e", exchange, "-r", "question.first", "ping", "--replies", "0", "--timeout", "0.5")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"<ping>\n", b"")


def test_what_the_server_says_of_its_failure_is_told_and_is_exit_8(run: Any, served: str) -> None:
    done = run("call", served, "fail")
    assert (done.returncode, done.stdout) == (8, b"")
    assert done.stderr == b"error: the server failed: there is no such account\n"


def test_one_failure_among_many_is_named_and_the_others_are_answered(run: Any, served: str) -> None:
    done = run("call", served, "1", "fail", "3")
    assert (done.returncode, done.stdout) == (8, b"<1>\n<3>\n")
    first, last = done.stderr.decode().splitlines()
    assert first == "request 2: error: the server failed: there is no such account"
    assert last.startswith("2 of 3 requests were answered")


def test_no_reply_in_time_is_exit_6(run: Any, queue: str) -> None:
    done = run("call", queue, "ping", "--timeout", "0.2")
    assert (done.returncode, done.stdout) == (6, b"")
    assert b"no reply from queue" in done.stderr
    assert b"rmqkit serve" in done.stderr


def test_a_queue_that_is_not_there_is_exit_6_at_once(run: Any, queue_name: str) -> None:
    done = run("call", queue_name, "ping", "--timeout", "50", "--json")
    assert done.returncode == 6
    report = json.loads(done.stderr)
    assert (report["error"], report["requests"], report["answered"]) == ("Unroutable", 1, 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), b"name the queue"),
        (("requests", "a", "b", "-o", "file"), b"--output takes the one reply"),
        (("requests", "a", "--lines", "-"), b"--lines takes its messages from a stream"),
        (("requests", "-f", "missing"), b"missing"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(run: Any, arguments: tuple[str, ...], said: bytes) -> None:
    done = run("call", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
