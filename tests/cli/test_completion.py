"""Completion of names that the broker, the contexts or a file know: quick, silent, and never a question."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from rmqkit.cli.completion import TIMEOUT_S
from tests.conftest import Broker
from tests.support.cli import COMMAND
from tests.support.contexts import write_contexts

Complete = Callable[..., list[str]]


def ask(line: str, shell: str, **env: str) -> str:
    """Return the answer to a shell for the last word of a line, as Typer's scripts ask for it."""
    words = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    if shell == "bash":
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    variables = os.environ | words | {"_RMQKIT_COMPLETE": f"complete_{shell}"} | env
    done = subprocess.run(COMMAND, capture_output=True, text=True, env=variables, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def complete(broker: Broker, vhost_url: str, tmp_path: Path) -> Complete:
    """Complete the last word of a line on the virtual host of the test."""
    own = {"RMQKIT_URL": vhost_url, "RMQKIT_API_URL": broker.api_url, "XDG_CONFIG_HOME": str(tmp_path)}

    def complete(line: str, shell: str = "bash", **env: str) -> list[str]:
        """Ask again if the broker may not have answered in time, as on a busy machine."""
        for _ in range(10):
            started_s = time.monotonic()
            found = ask(line, shell, **own | env).split()
            if found not in ([], ["_files"]) or time.monotonic() - started_s < TIMEOUT_S:
                break
        return found

    return complete


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("rmqkit purge or", ["orders.eu", "orders.us"]),
        ("rmqkit consume ", ["orders.eu", "orders.us", "urn:x:1"]),
        ("rmqkit --vhost / -q --no-such move orders.eu --to-queue orders.u", []),  # another virtual host
        ("rmqkit move orders.eu --dry-run --to-queue=orders.u", ["orders.us"]),
        ("rmqkit publish -e sho", ["shop"]),
        ("rmqkit subscribe amq.t", ["amq.topic"]),
        ("rmqkit delete queue orders.e", ["orders.eu"]),
        ("rmqkit delete binding shop u", ["urn:x:1"]),
        ("rmqkit publish -e shop -r ", ["order.\\#", "paid"]),
        ("rmqkit subscribe shop -r p", ["paid"]),
        ("rmqkit status --context ", []),
        ("rmqkit purge orders.eu --vhost te", ["{vhost}"]),
        ("rmqkit purge nothing", []),
    ],
)
def test_names_of_the_broker_are_completed(
    line: str, found: list[str], complete: Complete, vhost_channel: BlockingChannel, vhost_url: str
) -> None:
    for queue in ("orders.eu", "orders.us", "urn:x:1", "no spaces", "no$(touch x)", "no'", "-no", "~no"):
        vhost_channel.queue_declare(queue)
    vhost_channel.exchange_declare("shop", "topic")
    for key in ("order.#", "paid", "`no`"):
        vhost_channel.queue_bind("orders.eu", "shop", key)
    expected = [each.format(vhost=vhost_url.rpartition("/")[2]) for each in found]
    completed = complete(line)
    assert [each for each in completed if each in expected or not each.startswith("test-")] == expected


def test_each_shell_gets_its_own_form(complete: Complete, vhost_channel: BlockingChannel) -> None:
    vhost_channel.queue_declare("urn:x")
    assert complete("rmqkit purge u", "bash") == ["urn:x"]
    assert complete("rmqkit purge u", "fish") == ["urn:x"]
    assert complete("rmqkit purge u", "zsh") == ["_arguments", "'*:", ':(("urn\\\\:x"))\'']
    assert complete("rmqkit purge x", "zsh") == ["_files"]


def test_bash_completes_a_name_with_colons(
    vhost_channel: BlockingChannel, vhost_url: str, broker: Broker, tmp_path: Path
) -> None:
    vhost_channel.queue_declare("urn:x:1")
    program = tmp_path / "rmqkit"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(rmqkit --show-completion bash)"
        COMP_WORDS=(rmqkit -u amqp : //guest : guest@h purge urn : x : ) COMP_CWORD=11
        _rmqkit_completion rmqkit; echo "${COMPREPLY[@]}"
        COMP_WORDS=(rmqkit purge urn : x) COMP_CWORD=4; _rmqkit_completion rmqkit; echo "${COMPREPLY[@]}"
        COMP_WORDS=(rmqkit move a --to-queue = ur) COMP_CWORD=5; _rmqkit_completion rmqkit; echo "${COMPREPLY[@]}"
    """
    env = os.environ | {"RMQKIT_URL": vhost_url, "RMQKIT_API_URL": broker.api_url, "XDG_CONFIG_HOME": str(tmp_path)}
    env["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    for _ in range(10):  # on a busy machine, the broker may not answer in time
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, check=False)
        if done.stdout.splitlines() == ["", "x:1", "urn:x:1"]:
            return
    raise AssertionError(done.stdout + done.stderr)


def test_contexts_are_completed_and_their_broker_is_asked(
    complete: Complete, vhost_url: str, vhost_channel: BlockingChannel, tmp_path: Path
) -> None:
    vhost_channel.queue_declare("mine")
    write_contexts(tmp_path, current="shop", shop={"url": vhost_url}, staging={"url": "amqp://127.0.0.1:1"})
    assert complete("rmqkit status --context s") == ["shop", "staging"]
    assert complete("rmqkit context use st") == ["staging"]
    for line in ("rmqkit purge m", "rmqkit --context shop purge m"):
        assert complete(line, RMQKIT_URL="") == ["mine"]
    assert complete("rmqkit purge --context staging m", RMQKIT_API_URL="") == []


def test_the_routing_keys_of_a_file_are_completed_without_a_broker(tmp_path: Path) -> None:
    file = tmp_path / "orders.yaml"
    file.write_text(
        "bindings:\n  - {source: o, routing_key: order.eu}\n  - {routing_key: 'order.*' }\n  - routing_key: x\n"
    )
    assert ask(f"rmqkit route {file} -e o -r ord", "bash").split() == ["order.\\*", "order.eu"]


def test_a_password_is_never_asked_for(complete: Complete, broker: Broker, vhost_url: str, tmp_path: Path) -> None:
    login = vhost_url.replace("guest:guest@", "guest@")
    command = ["touch", str(tmp_path / "asked")]
    write_contexts(tmp_path, prod={"url": login, "password_command": command})
    api_url = broker.api_url.replace("guest:guest@", "")
    assert complete("rmqkit purge --context prod ", RMQKIT_URL="", RMQKIT_API_URL=api_url) == []
    assert complete("rmqkit purge ", RMQKIT_URL=login, RMQKIT_API_URL=api_url) == []
    assert not (tmp_path / "asked").exists()


@pytest.fixture
def endless_server() -> Iterator[str]:
    """A server whose answer to one client does not end, and which accepts others in silence."""
    done = threading.Event()

    def answer() -> None:
        with suppress(OSError), server.accept()[0] as client:
            while not done.wait(0.1):
                client.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        answering = threading.Thread(target=answer)
        answering.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        done.set()
        answering.join()


def test_a_broker_that_does_not_answer_completes_nothing(vhost_url: str, endless_server: str, tmp_path: Path) -> None:
    own = {"RMQKIT_URL": vhost_url, "XDG_CONFIG_HOME": str(tmp_path)}
    for url in (endless_server, endless_server, "http://127.0.0.1:1", "nonsense", "http://[::1"):
        start = time.monotonic()
        assert ask("rmqkit purge o", "bash", **own, RMQKIT_API_URL=url) == "\n"
        assert time.monotonic() - start < TIMEOUT_S + 20  # a busy machine; without a limit it would not end
    own["RMQKIT_URL"] = "amqp://nobody:wrong@127.0.0.1"
    assert ask("rmqkit purge o", "bash", **own, RMQKIT_API_URL="") == "\n"


def test_what_is_no_name_is_left_to_typer() -> None:
    assert ask("rmqkit purge --dr", "bash").split() == ["--dry-run"]
    assert ask("rmqkit validate ", "bash").split() == []
    assert ask("rmqkit destr", "bash").split() == ["destroy"]
