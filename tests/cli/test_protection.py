"""Protected contexts: nothing is deleted or moved there before the user has named the context."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from rmqkit.cli import app, protection
from rmqkit.cli.command_table import COMMANDS
from rmqkit.settings import load_settings
from tests.support.cli import rmqkit
from tests.support.contexts import write_contexts
from tests.support.queues import fill, ready
from tests.support.terminal import terminal

TOPOLOGY = "queues: {kept: {}, other: {}}\nscope: [kept, other, extra]\n"
Protected = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def env(vhost_url: str, broker: object, tmp_path: Path) -> dict[str, str]:
    """Two contexts for one broker, `shop` protected."""
    api_url = broker.api_url  # type: ignore[attr-defined]
    contexts: dict[str, Any] = {
        "shop": {"url": vhost_url, "api_url": api_url, "protected": True},
        "dev": {"url": "amqp://127.0.0.1:1"},
    }
    return write_contexts(tmp_path / "config", **contexts) | {
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "RMQKIT_API_URL": api_url,
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "shop.yaml"
    file.write_text(TOPOLOGY)
    Path(f"{file}.jsonl").write_text('{"body": "saved"}\n')
    return file


@pytest.mark.parametrize(
    "words",
    [
        "destroy {file}",
        "apply --prune {file}",
        "apply --replace {file}",
        "move kept --to-queue other",
        "restore {file}.jsonl --queue kept",
        "purge kept",
        "delete queue kept",
        "unsubscribe kept --force",
    ],
)
def test_a_protected_context_is_named_before_anything_is_deleted_or_moved(
    words: str, env: dict[str, str], file: Path, vhost_url: str, vhost_channel: BlockingChannel
) -> None:
    for queue in ("kept", "other", "extra"):
        vhost_channel.queue_declare(queue, durable=True)
    fill(vhost_channel, "kept", 1)
    line = words.format(file=file).split()
    for broker in (["--context", "shop"], ["-u", vhost_url]):  # however the broker is named
        for yes in ([], ["--yes"], ["-y", "dev"], ["--yes=dev"]):
            done = rmqkit(*line, *broker, *yes, env=env)
            assert (done.returncode, "nothing was changed" in done.stderr) == (2, True), done.stderr
    assert "Confirm it with --yes shop." in rmqkit(*line, "--context", "shop", env=env).stderr
    assert [ready(vhost_channel, queue) for queue in ("kept", "other", "extra")] == [1, 0, 0]
    vhost_channel.queue_purge("kept")
    done = rmqkit(*line, "--context", "shop", "--yes", "shop", env=env)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("url", "vhost", "spelled"),
    [
        ("amqp://localhost", None, "amqp://guest:guest@127.0.0.1:5672/%2F"),
        ("amqp://127.0.0.1:5673/shop", None, "amqp://guest:guest@LOCALHOST.:5673/shop"),
        ("amqp://[::1]/shop", None, "amqp://guest:guest@[0:0:0:0:0:0:0:1]:5672/%73hop"),
        ("amqp://localhost/shop", None, "amqp://guest:guest@[::ffff:127.0.0.1]/shop"),
        ("amqp://localhost", "shop", "amqp://guest:guest@127.1/shop"),
        ("amqp://Rabbit.example", None, "amqp://ada:x@rabbit.example.:5672/"),
        ("amqps://ada@rabbit.example/shop", None, "amqp://ada:x@other.example,rabbit.example/shop"),
        ("amqp://[2001:db8::1]", None, "amqp://ada:x@[2001:0DB8:0:0::1]"),
    ],
)
def test_another_spelling_of_a_protected_broker_is_recognized(
    url: str, vhost: str | None, spelled: str, tmp_path: Path
) -> None:
    shop = {"url": url, "protected": True} | ({} if vhost is None else {"vhost": vhost})
    env = write_contexts(tmp_path / "config", shop=shop)
    for command in ("destroy", "restore", "apply --prune"):
        file = tmp_path / "shop.yaml"
        file.write_text(TOPOLOGY)
        words = ("--queue", "kept") if command == "restore" else ()
        done = rmqkit(*command.split(), file, *words, "-u", spelled, env=env)
        assert (done.returncode, "Confirm it with --yes shop." in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    "other", ["amqp://guest:guest@127.example", "amqp://guest:guest@localhost:5673", "amqp://localhost/b"]
)
def test_another_broker_or_virtual_host_is_not_protected(other: str, tmp_path: Path) -> None:
    env = write_contexts(tmp_path / "config", shop={"url": "amqp://localhost", "protected": True})
    settings = load_settings([other])
    with mock.patch.dict(os.environ, env):
        assert not protection.confirm(settings, None, "test")


def test_a_dry_run_and_an_unprotected_context_need_no_confirmation(env: dict[str, str], file: Path) -> None:
    for line in ("destroy --dry-run {file}", "apply --prune --dry-run {file}", "apply {file}", "status"):
        assert rmqkit(*line.format(file=file).split(), "--context", "shop", env=env).returncode == 0
    done = rmqkit("destroy", file, "--context", "dev", env=env)
    assert (done.returncode, "127.0.0.1:1" in done.stderr) == (4, True)
    done = rmqkit("destroy", file, "--context", "dev", "--yes", "shop", env=env)
    assert (done.returncode, "--yes shop: this command works on context dev" in done.stderr) == (2, True)


@pytest.mark.parametrize(("typed", "code"), [("shop\n", 0), ("dev\n", 2), ("\n", 2), ("\x04", 2)])
def test_the_name_is_typed_on_a_terminal(typed: str, code: int, env: dict[str, str], file: Path) -> None:
    with terminal("destroy", file, "--context", "shop", env=env) as screen:
        screen.read(lambda shown: "Type its name to destroy" in shown)
        screen.type(typed)
        assert screen.end()[0] == code
    assert ("canceled; nothing was changed" in screen.shown) == (code != 0)


def test_an_unreadable_file_of_contexts_protects(env: dict[str, str], file: Path, vhost_url: str) -> None:
    (Path(env["XDG_CONFIG_HOME"]) / "rmqkit" / "config.toml").write_text("a = \n")
    done = rmqkit("destroy", file, "-u", vhost_url, env=env)
    assert (done.returncode, "config.toml:1:5: not valid TOML" in done.stderr) == (2, True), done.stderr


def test_yes_takes_a_word_only_if_a_context_has_this_name(env: dict[str, str], file: Path) -> None:
    assert rmqkit("destroy", "--dry-run", "-y", file, "--context", "shop", env=env).returncode == 0
    done = rmqkit("move", "--yes", "shop", "--context", "shop", env=env)
    assert (done.returncode, "missing argument QUEUE" in done.stderr) == (2, True), done.stderr


def test_every_command_with_yes_has_the_same_option() -> None:
    for name in COMMANDS:
        for each in getattr(app.load(name), "params", ()):
            if "--yes" in each.opts:
                assert not each.is_flag, name
