"""`rmqkit call`, and `rmqkit serve` as a process; the other side is pika, or the library."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

import rmqkit
from rmqkit import Delivery, HandlerError, Message, Stop
from tests.support.cli import run_bytes
from tests.support.terminal import terminal
from tests.support.wait import wait_for_queue

PNG = b"\x89PNG\r\n\x1a\n\x00\xff\n"


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Callable[..., Any]:
    """Run `rmqkit` in a folder of its own, with bytes for standard input and output."""

    def run(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return run_bytes(*arguments, stdin=stdin or b"", env=environment, folder=tmp_path)

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


def test_a_reply_is_written_to_a_file_byte_for_byte(run: Any, served: str, tmp_path: Path) -> None:
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


def test_each_line_is_answered_before_the_next_arrives(environment: dict[str, str], served: str) -> None:
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
        assert process.wait(90) == 0


def test_a_reply_can_be_printed_as_an_envelope(run: Any, served: str) -> None:
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


def test_a_call_to_an_exchange_waits_for_the_given_number_of_replies(
    run: Any, served: str, channel: Any, namespace: Any
) -> None:
    exchange = namespace.exchange()
    channel.exchange_declare(exchange, "topic")
    channel.queue_bind(served, exchange, "question.#")
    done = run("call", "-e", exchange, "-r", "question.first", "ping", "--replies", "2", "--timeout", "1.5")
    assert (done.returncode, done.stdout) == (6, b"<ping>\n")
    assert b"1 of 2 replies within 1.5 s" in done.stderr
    done = run("call", "-e", exchange, "-r", "question.first", "ping", "--replies", "0", "--timeout", "1.5")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"<ping>\n", b"")


def test_a_failure_reported_by_the_server_is_printed_and_exits_8(run: Any, served: str) -> None:
    done = run("call", served, "fail")
    assert (done.returncode, done.stdout) == (8, b"")
    assert done.stderr == b"error: the server failed: there is no such account\n"


def test_one_failure_among_many_is_reported_and_the_others_are_answered(run: Any, served: str) -> None:
    done = run("call", served, "1", "fail", "3")
    assert (done.returncode, done.stdout) == (8, b"<1>\n<3>\n")
    first, last = done.stderr.decode().splitlines()
    assert first == "request 2: error: the server failed: there is no such account"
    assert last.startswith("2 of 3 requests were answered")


def test_no_reply_in_time_exits_6(run: Any, queue: str) -> None:
    done = run("call", queue, "ping", "--timeout", "1.5")
    assert (done.returncode, done.stdout) == (6, b"")
    assert b"no reply from queue" in done.stderr
    assert b"rmqkit serve" in done.stderr


def test_a_call_to_a_missing_queue_exits_6_immediately(run: Any, queue_name: str) -> None:
    done = run("call", queue_name, "ping", "--timeout", "50", "--json")
    assert done.returncode == 6
    report = json.loads(done.stderr)
    assert (report["error"], report["requests"], report["answered"]) == ("Unroutable", 1, 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), b"name the queue"),
        (("requests", "a", "b", "-o", "file"), b"--output requires exactly one"),
        (("requests", "a", "--lines", "-"), b"--lines cannot be combined with payloads or --file"),
        (("requests", "-f", "missing"), b"missing"),
    ],
)
def test_contradictory_options_of_a_call_are_a_usage_error(run: Any, arguments: tuple[str, ...], said: bytes) -> None:
    done = run("call", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


# serve


class Serve:
    """`rmqkit serve` as a process; it is stopped when the block ends."""

    def __init__(self, environment: dict[str, str], folder: Path, channel: Any, queue: str) -> None:
        self._environment, self._folder, self._channel, self.queue = environment, folder, channel, queue
        self.process: Any = None

    def __call__(self, *arguments: str) -> Serve:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rmqkit", "serve", self.queue, *arguments],
            env=self._environment,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + 20
        while not self._channel.queue_declare(self.queue, passive=True).method.consumer_count:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:  # which closes the pipes, and waits
            self.process.kill()

    def stop(self) -> tuple[int, str, str]:
        """Interrupt it, and return its exit code and what it printed."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=90)
        return self.process.returncode, out.decode(), err.decode()


@pytest.fixture
def serve(environment: dict[str, str], tmp_path: Path, channel: Any, queue: str) -> Serve:
    """Start `rmqkit serve` for the test's queue, and wait until it consumes."""
    return Serve(environment, tmp_path, channel, queue)


def matching(pattern: str) -> Any:
    """Return what equals any text that the pattern is found in."""

    class Matching(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return re.search(pattern, str(other)) is not None

        __hash__ = str.__hash__

    return Matching(pattern)


@contextmanager
def calling(client: rmqkit.Connection, queue: str) -> Iterator[list[rmqkit.Answer]]:
    """Call while the block runs; the answer is there when it has ended."""
    answers: list[rmqkit.Answer] = []
    request = Message(b"", queue)
    thread = threading.Thread(target=lambda: answers.extend(client.call_many([request], timeout_s=10)))
    thread.start()
    yield answers
    thread.join()


@pytest.fixture
def client(broker_url: str) -> Iterator[rmqkit.Connection]:
    with rmqkit.connect(broker_url) as connection:
        yield connection


def test_on_a_terminal_serve_says_that_it_waits(environment: dict[str, str], queue: str) -> None:
    with terminal("serve", queue, "--exec", "cat", env=environment) as screen:
        screen.read(lambda shown: "Press Ctrl-C to stop." in " ".join(shown.split()))
        screen.process.send_signal(signal.SIGINT)
        code, shown = screen.end()
    assert code == 130
    assert " ".join(shown.split()).startswith(f"Waiting for requests in {queue}. Press Ctrl-C to stop.")


def test_the_output_of_a_command_is_the_reply_byte_for_byte(client: rmqkit.Connection, serve: Serve) -> None:
    with serve("--exec", "cat", "--content-type", "image/png"):
        reply = client.call(Message(PNG, serve.queue))
        assert client.call(Message(b"", serve.queue)).body == b""
        assert serve.stop() == (130, "", matching("Served 2 requests in .* s"))
    assert (reply.body, reply.properties.content_type) == (PNG, "image/png")


def test_a_command_that_fails_or_times_out_is_reported_to_the_requester(
    client: rmqkit.Connection, serve: Serve
) -> None:
    with serve("--exec", "sh -c 'read what; $what; echo done'", "--timeout", "0.5", "--json"):
        answers = client.call_many(
            [Message(each, serve.queue) for each in (b"exit 3", b"exit 9", b"sleep 60", b"true")]
        )
        said = [str(answer.error) for answer in answers]
        code, out, err = serve.stop()
    assert said[0].startswith("the server failed: the command refused")
    assert said[1].startswith("the server failed: the command ended with exit code 9")
    assert said[2].startswith("the server failed: the command timed out after 0.5 s")
    assert said[3] == "None"
    report = json.loads(out)
    assert (code, report["requests"], report["replied"], report["failed"]) == (130, 4, 4, 3)
    assert err.count("warning: a request failed: the command") == 3


def test_the_format_of_the_replies_of_a_function_is_checked(
    client: rmqkit.Connection, serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "accounts.py").write_text("def echo(request):\n    return request.body[::-1].decode()\n")
    with serve("--handler", "accounts:echo", "--format", "json", "--concurrency", "3"):
        good = client.call(Message(b"]2 ,1[", serve.queue))
        with pytest.raises(rmqkit.RemoteError, match="PayloadError"):
            client.call(Message(b"]2 ,1", serve.queue))
        with pytest.raises(rmqkit.RemoteError, match="UnicodeDecodeError"):
            client.call(Message(b"\xff", serve.queue))
        code, _, err = serve.stop()
    assert (good.body, good.properties.content_type) == (b"[1, 2]", "application/json")
    assert code == 130
    assert "the handler raised UnicodeDecodeError in" in err
    assert "accounts.py, line 2" in err


def test_a_stop_waits_for_the_running_command(client: rmqkit.Connection, serve: Serve) -> None:
    with (
        serve("--exec", "sh -c 'echo it runs >&2; sleep 1; echo done'") as server,
        calling(client, serve.queue) as answers,
    ):
        server.process.stderr.readline()
        code, _, err = server.stop()
    assert (code, answers[0].reply.body) == (130, b"done\n")
    assert err == matching("Served 1 request in .* s")


def test_a_second_signal_ends_the_running_command_and_its_request_is_requeued(
    client: rmqkit.Connection, serve: Serve, channel: Any
) -> None:
    with serve("--exec", "sh -c 'echo $$ >&2; sleep 60'") as server, calling(client, serve.queue) as answers:
        command = int(server.process.stderr.readline())
        server.process.send_signal(signal.SIGTERM)  # stop sends SIGINT: the system could make one of two equal ones
        code, _, _ = server.stop()
        wait_for_queue(channel, serve.queue, ready=1)
    assert code in (130, 143)  # of two at once Python handles the lower number first
    assert type(answers[0].error) is rmqkit.ReplyTimeout
    assert not Path(f"/proc/{command}/exe").exists()


def test_a_server_that_reaches_its_count_exits_0(client: rmqkit.Connection, serve: Serve) -> None:
    with serve("--exec", "cat", "-n", "2"):
        bodies = [
            answer.reply.body for answer in client.call_many([Message(b"1", serve.queue), Message(b"2", serve.queue)])
        ]
        assert serve.process.wait(90) == 0
    assert bodies == [b"1", b"2"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), b"use either --exec or --handler"),
        (("--exec", "cat", "--handler", "a:b"), b"use either --exec or --handler"),
        (("--handler", "os:getcwd", "--timeout", "1"), b"--timeout requires --exec"),
        (("--exec", "there-is-no-such-program"), b"not found"),
        (("--handler", "there_is_no_such:module"), b"ModuleNotFoundError"),
    ],
)
def test_contradictory_options_of_a_server_are_a_usage_error(run: Any, arguments: tuple[str, ...], said: bytes) -> None:
    done = run("serve", "requests", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_serving_a_missing_queue_exits_5(run: Any, queue_name: str) -> None:
    assert run("serve", queue_name, "--exec", "cat").returncode == 5
