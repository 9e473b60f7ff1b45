"""What children, brokers and terminals see: no secret reaches them, and terminals obey no message and no name."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from unittest import mock
from urllib.parse import urlsplit

import pika
import pytest
import typer

import rmqkit
from rmqkit.cli import error_output
from rmqkit.cli.app import app
from tests.conftest import Broker
from tests.support.cli import COMMAND
from tests.support.wait import wait_until

CANARY = "c4n4ry-p4ss"
# A title, a bell, Latin-1's way to begin a sequence, a blink (which rmqkit never asks for), a turn of direction.
HOSTILE = "a\x1b]0;title\x07b\x9b5mc\x1b[5md\u202ee"
OBEYED = ["\x1b]", "\x07", "\x9b", "\x1b[5m", "\u202e"]


@pytest.fixture
def login(broker: Broker, vhost_url: str) -> Iterator[str]:
    """The URL of a virtual host for a user whose password is the canary."""
    parts, name = urlsplit(vhost_url), f"test-{uuid.uuid4().hex[:12]}"
    broker.api("PUT", f"users/{name}", json.dumps({"password": CANARY, "tags": "administrator"}).encode())
    everything = dict.fromkeys(("configure", "write", "read"), ".*")
    broker.api("PUT", f"permissions/{parts.path[1:]}/{name}", json.dumps(everything).encode())
    yield parts._replace(netloc=f"{name}:{CANARY}@{parts.netloc.rpartition('@')[2]}").geturl()
    broker.api("DELETE", f"users/{name}")


SPY = """
tr '\\0' '\\n' < /proc/self/environ
echo "parent: $(tr '\\0' ' ' < /proc/$PPID/cmdline)"
for each in /proc/$$/fd/*; do echo "descriptor: $(readlink $each)"; done
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_the_command_of_exec_inherits_no_credentials_and_no_socket(
    login: str, vhost_url: str, tmp_path: Path, workers: int
) -> None:
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as pika_channel:
        pika_channel.channel().queue_declare("work", durable=True)
        pika_channel.channel().basic_publish("", "work", b"")
    names = ("RMQKIT_URL", "AMQP_URL", "CLOUDAMQP_URL")
    secrets = dict.fromkeys(names, login) | {"RMQKIT_API_URL": f"http://u:{CANARY}@h", "RMQKIT_PASSWORD": CANARY}
    flags = [] if workers == 1 else ["--workers", str(workers), "--url", login]
    spy = shlex.join(["sh", "-c", SPY])
    done = subprocess.run(
        [*COMMAND, "consume", "work", "-n", "1", "--exec", spy, *flags],
        env=os.environ | secrets | {"XDG_STATE_HOME": str(tmp_path), "KEPT": "kept"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "KEPT=kept" in done.stdout
    assert "RMQKIT_QUEUE=work" in done.stdout
    assert ("rmqkit.cli.worker_processes" in done.stdout) == (workers == 2)
    assert CANARY not in done.stdout + done.stderr
    descriptors = [line for line in done.stdout.splitlines() if line.startswith("descriptor: ")]
    assert len(descriptors) >= 3
    assert not [line for line in descriptors if "socket:" in line or "eventpoll" in line]


def test_the_client_properties_identify_the_program_and_hold_no_secret(broker: Broker, login: str) -> None:
    def ours() -> list[str]:
        found = json.loads(broker.api("GET", "connections"))
        return [json.dumps(each) for each in found if each.get("user") == urlsplit(login).username]

    with rmqkit.connect(login, name="shop"):
        wait_until(lambda: bool(ours()))
        (connection,) = ours()
    assert '"product": "rmqkit"' in connection
    assert '"connection_name": "shop consumer"' in connection
    assert CANARY not in connection


@pytest.fixture
def hostile(login: str, vhost_url: str, tmp_path: Path) -> dict[str, str]:
    """A virtual host where names, headers and bodies try to play with terminals; the words of command lines."""
    queue, exchange = f"q{HOSTILE}", f"e{HOSTILE}"
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        channel = connection.channel()
        dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue, "x-message-ttl": 0}
        channel.queue_declare(queue, durable=True)
        channel.queue_declare("dying", durable=True, arguments=dead)
        channel.exchange_declare(exchange, "topic", durable=True)
        channel.queue_bind(queue, exchange, HOSTILE)
        properties = pika.BasicProperties(headers={HOSTILE: HOSTILE}, content_type=HOSTILE, type=HOSTILE)
        channel.queue_bind("dying", exchange, "dying")
        for target in (queue, queue, queue):
            channel.basic_publish("", target, HOSTILE.encode(), properties)
        channel.basic_publish(exchange, "dying", HOSTILE.encode(), properties)
    names = {
        "queues": {queue: {}, "x" + HOSTILE: {}},
        "exchanges": {exchange: {"type": "topic", "durable": False}},
        "bindings": [{"source": exchange, "destination": queue, "routing_key": HOSTILE}],
    }
    (tmp_path / "topology").write_text("# A topology, and no definitions\n" + json.dumps(names))
    (tmp_path / "bad").write_text(json.dumps({HOSTILE: HOSTILE}))
    words = {"queue": queue, "exchange": exchange, "missing": f"m{HOSTILE}", "key": HOSTILE, "text": HOSTILE}
    return {name: shlex.quote(text) for name, text in words.items()} | {
        "topology": str(tmp_path / "topology"),
        "bad": str(tmp_path / "bad"),
        "url": login,
        "state": str(tmp_path),
    }


def on_a_terminal(words: list[str], env: dict[str, str]) -> str:
    """Run a command in this process with its output on a terminal; return what that got."""
    ours, theirs = pty.openpty()
    got: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # Linux' end of a terminal
            while part := os.read(ours, 65536):
                got.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    before = {number: os.dup(number) for number in (1, 2)}
    with os.fdopen(theirs, "w") as terminal:
        for number in before:
            os.dup2(theirs, number)
        try:
            with mock.patch.dict(os.environ, env), redirect_stdout(terminal), redirect_stderr(terminal):
                code = error_output.run(lambda: typer.main.get_command(app)(words, prog_name="rmqkit"), words)
        finally:
            for number, kept in before.items():
                os.dup2(kept, number)
                os.close(kept)
    reader.join()
    os.close(ours)
    shown = b"".join(got).decode()
    assert code in range(9), (words, shown)
    return shown


SHOWN = [
    "consume {queue} -n 1",
    "consume {queue} -n 1 --format json",
    "consume {missing}",
    "subscribe {exchange} --durable {queue} -n 1",
    "subscribe {missing}",
    "status",
    "status {topology}",
    "status --json",
    "export",
    "export --format definitions",
    "plan {topology}",
    "apply {topology} --json",
    "diff {topology} {url}",
    "graph {topology}",
    "graph {topology} --format mermaid",
    "graph {topology} --format dot",
    "route {topology} -e {exchange} -r {key}",
    "validate {topology}",
    "validate {bad}",
    "validate {bad} --json",
    "convert {topology} - --to definitions",
    "move {queue} --dry-run",
    "publish -q {missing} {text}",
    "publish -e {missing} -r {key} {text} --json",
    "call {missing} {text}",
    "{missing}",
    "consume --handler {text}:x {queue}",
]


def test_no_name_no_body_and_no_words_of_the_broker_play_with_a_terminal(
    broker: Broker, hostile: dict[str, str]
) -> None:
    env = {"RMQKIT_URL": hostile["url"], "RMQKIT_API_URL": broker.api_url, "TERM": "xterm"}
    env |= {"XDG_STATE_HOME": hostile["state"], "COLUMNS": "500"}  # tables have room for whole names
    obeyed, silent = {}, []
    for line in SHOWN:
        shown = on_a_terminal(shlex.split(line.format(**hostile)), env)
        if found := [each for each in OBEYED if each in shown]:
            obeyed[line] = found, shown
        if "title" not in shown:
            silent.append((line, shown))
    assert obeyed == {}
    assert silent == []  # each showed what it was not to obey


def test_a_pipe_gets_every_byte_as_it_is(vhost_url: str, hostile: dict[str, str], tmp_path: Path) -> None:
    env = os.environ | {"RMQKIT_URL": vhost_url, "XDG_STATE_HOME": str(tmp_path)}
    line = "consume {queue} -n 1".format(**hostile)
    done = subprocess.run([*COMMAND, *shlex.split(line)], env=env, capture_output=True, check=False)
    assert done.stdout == HOSTILE.encode() + b"\n"
