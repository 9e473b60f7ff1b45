"""A canary password, a canary body, every command, and a search of all that it says and leaves."""

from __future__ import annotations

import json
import logging
import shlex
import socket
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from rmqkit.cli import app
from rmqkit.cli.command_table import COMMANDS
from tests.conftest import Broker
from tests.support.cli import rmqkit as command

CANARY = "c4n4ry-p4ss"
BODY = "c4n4ry-b0dy"
TOPOLOGY = """
exchanges: {events: {type: topic}}
queues: {work: {}, other: {}, full: {arguments: {x-max-length: 1, x-overflow: reject-publish}}}
bindings: [{source: events, destination: other, routing_key: "#"}]
publish: {routing_key: work}
services: {reader: {consumes: [work]}}
"""
SCENARIO = """
topology: {topology}
scenarios: {{it arrives: {{publish: {{exchange: events, routing_key: k}}, expect: [other]}}}}
"""

# Every command, as often as it takes to see what it says. A new command is a new line here, or the test fails.
LINES: dict[str, list[str]] = {
    "apply": ["apply {topology}", "apply --prune --dry-run {topology}"],
    "validate": ["validate {topology}", "validate --rabbitmq 4.3 --json", "validate --rabbitmq 4.3 {url}"],
    "route": ["route {topology} -e events -r k"],
    "test": ["test --live {scenario}", "test {scenario}"],
    "plan": ["plan {topology}"],
    "trace": ["trace --idle-timeout 0.2", "trace --no-switch --idle-timeout 0.2 --topology {topology}"],
    "graph": ["graph {topology}"],
    "convert": ["convert {topology} {folder}/converted.json"],
    "export": ["export -o {folder}/live.yaml", "export --asyncapi"],
    "diff": ["diff {topology} {url}"],
    "top": ["top --once", "top connections --json", "top"],
    "status": ["status", "status {topology} --json"],
    "schema": ["schema"],
    "init": ["init", "init work {folder}/shipped"],
    "publish": [
        "publish -q work -n 20 {body}",
        "publish -q missing {body}",
        "publish -e missing -r k {body} --json",
        "publish -q work --schema {schema} {body}",
        "publish -q work -P priority=300 {body}",
        "publish -q full {body} {body} {body}",
        "publish --lines {lines} -q work --resume {folder}/state",
        "publish -q work --envelopes {lines}",
    ],
    "consume": [
        "consume work -n 1 --save-to {folder}/saved --idle-timeout 1",
        "consume work -n 1 --exec false --idle-timeout 1",
        "consume work -n 1 --schema {schema} --idle-timeout 1",
        "consume work -n 1 --filter body.x.y.z --idle-timeout 1",
        "consume work -n 1 --to-url {url} --to-queue other --idle-timeout 1",
        "consume missing",
    ],
    "subscribe": ["subscribe events --durable kept --idle-timeout 0", "subscribe missing"],
    "unsubscribe": ["unsubscribe kept --force", "unsubscribe missing"],
    "move": ["move work --dry-run", "move work -n 1 --to-queue other", "move missing --to-queue other"],
    "call": ["call work --timeout 0.1 {body}", "call missing {body}"],
    "serve": ["serve work -n 1 --exec false", "serve missing --exec cat"],
    "destroy": ["destroy --dry-run {topology}", "destroy {topology}"],
    "demo": ["demo nothing"],
    "bench": ["bench -n 5", "bench --compare {topology}"],
    "peek": ["peek work", "peek work --format json", "peek missing"],
    "snapshot": ["snapshot work {folder}/snapshot.jsonl", "snapshot missing {folder}/other.jsonl"],
    "restore": ["restore {lines} --queue other", "restore {lines} --to-origin"],
    "permissions": ["permissions {topology} --for reader --user nobody --apply", "permissions {topology} --for reader"],
    "connections": ["connections", "connections --close nobody"],
    "consumers": ["consumers work", "consumers --json"],
    "purge": ["purge work --dry-run", "purge missing --yes"],
    "delete queue": ["delete queue work --dry-run", "delete queue missing --yes"],
    "delete exchange": ["delete exchange missing --yes"],
    "delete binding": ["delete binding missing work --yes"],
    "copy": ["copy work --to-queue other --limit 1", "copy missing --to-queue other"],
    "why": ["why work", "why missing"],
    "check": ["check --queue work", "check --json", "check {topology}"],
    "wait": ["wait work --ready 0 --timeout 0", "wait missing --consumers 1 --timeout 0"],
    "context add": ["context add mine {url}", "context add mine amqp://ada@h --password-command 'printf {body}'"],
    "context edit": ["context edit mine {url}", "context edit mine --protected"],
    "context list": ["context list", "context list --json"],
    "context show": ["context show", "context show --json", "context show mine"],
    "context use": ["context use mine", "context use --none"],
    "context import": ["context import {url}", "context import {folder}/topology"],
    "context remove": ["context remove mine"],
    "broker start": ["broker start --port {taken}"],
    "broker stop": ["broker stop"],
    "broker status": ["broker status"],
    "broker logs": ["broker logs"],
    "broker env": ["broker env"],
    "broker ctl": ["broker ctl status"],
}
OFFLINE = {
    "init",
    "restore",
    "validate",
    "route",
    "graph",
    "convert",
    "schema",
    "demo",
    *(name for name in LINES if " " in name),
}


@dataclass(frozen=True)
class World:
    """A user whose password is the canary, on a virtual host of its own, and files for the commands."""

    broker: Broker
    login: str
    folder: Path
    words: dict[str, str]

    def run(self, line: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command line, with tracebacks."""
        own = {
            "RMQKIT_URL": self.login,
            "RMQKIT_API_URL": self.broker.api_url,
            "RMQKIT_DEBUG": "1",
            "XDG_STATE_HOME": str(self.folder / "state-home"),
            "XDG_CONFIG_HOME": str(self.folder / "config-home"),
        }
        return command(*shlex.split(line.format(**self.words)), env=own | env)


@pytest.fixture
def world(broker: Broker, vhost_url: str, tmp_path: Path) -> Iterator[World]:
    parts, name = urlsplit(vhost_url), f"test-{uuid.uuid4().hex[:12]}"
    broker.api("PUT", f"users/{name}", json.dumps({"password": CANARY, "tags": "administrator"}).encode())
    everything = dict.fromkeys(("configure", "write", "read"), ".*")
    broker.api("PUT", f"permissions/{parts.path[1:]}/{name}", json.dumps(everything).encode())
    login = parts._replace(netloc=f"{name}:{CANARY}@{parts.netloc.rpartition('@')[2]}").geturl()
    files = {
        "topology": TOPOLOGY,
        "scenario": SCENARIO.format(topology=tmp_path / "topology"),
        "schema": '{"type": "object"}',
        "lines": f"{BODY}\n{BODY}\n",
    }
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = {file: str(tmp_path / file) for file in files}
        words |= {"folder": str(tmp_path), "url": login, "body": BODY, "taken": str(taken.getsockname()[1])}
        yield World(broker, login, tmp_path, words)
    broker.api("DELETE", f"users/{name}")


def commands() -> set[str]:
    groups = {name: getattr(app.load(name), "commands", {}) for name in COMMANDS}
    return {name for name, inner in groups.items() if not inner} | {
        f"{name} {each}" for name, inner in groups.items() for each in inner
    }


def test_the_search_knows_every_command() -> None:
    assert set(LINES) == commands()


def leaks(world: World, *texts: str) -> list[str]:
    """Return where the canary is: in what was said, or in a file that was left."""
    found = [text[max(0, text.index(CANARY) - 200) :][:300] for text in texts if CANARY in text]
    files = (file for file in world.folder.rglob("*") if file.is_file() and file.name != "secret")
    return found + [str(file) for file in files if CANARY.encode() in file.read_bytes()]


def test_no_command_says_or_leaves_the_password_and_no_error_or_log_a_body(
    world: World, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    codes = {}
    for lines in LINES.values():
        for line in lines:
            done = world.run(line)
            direct = capfd.readouterr()  # what a handler wrote to the descriptor
            codes[line] = done.returncode
            assert "rmqkit: " not in done.stderr or done.returncode != 1, done.stderr
            assert leaks(world, done.stdout, done.stderr, direct.out, direct.err, caplog.text) == [], line
            assert BODY not in done.stderr + direct.err + caplog.text, line
            assert BODY not in done.stdout or line.startswith(("consume", "peek")), line
            caplog.clear()
    assert {line for line, code in codes.items() if code == 0} >= {
        "apply {topology}", "test --live {scenario}", "plan {topology}", "export -o {folder}/live.yaml",
        "diff {topology} {url}", "status", "publish -q work -n 20 {body}", "move work -n 1 --to-queue other",
        "publish --lines {lines} -q work --resume {folder}/state", "unsubscribe kept --force",
    }, codes  # fmt: skip
    assert 1 not in codes.values(), codes
    assert len(set(codes.values())) >= 6, codes


def test_every_line_of_the_json_log_is_an_object_without_the_password_or_a_body(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    kinds = set()
    for name in ("publish", "consume", "call", "serve", "status", "move", "subscribe"):
        for line in LINES[name]:
            done = world.run(f"--verbose {line}", RMQKIT_LOG_FORMAT="json", RMQKIT_DEBUG="")
            capfd.readouterr()  # what a handler wrote to the descriptor
            assert CANARY not in done.stderr, line
            assert BODY not in done.stderr, line
            for text in done.stderr.splitlines():
                entry = json.loads(text)
                assert entry["message"], text
                assert datetime.fromisoformat(entry["time"]).tzinfo is UTC, text
                kinds.add((entry["logger"], entry["level"]))
    assert kinds >= {
        ("rmqkit.amqp", "debug"), ("rmqkit.http_api", "debug"),
        ("rmqkit.cli", "info"), ("rmqkit.cli", "warning"), ("rmqkit.cli", "error"),
    }  # fmt: skip


def without_password(url: str) -> str:
    return url.replace(f":{CANARY}@", "@")


@pytest.mark.parametrize("where", ["url", "file", "variable"])
def test_no_refused_login_no_dead_address_and_no_bad_url_shows_the_password(
    world: World, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = world.folder / "secret"
    secret.write_text(CANARY)
    stranger = world.login.replace("://", "://not-")
    for url, code in {
        stranger: 4,
        stranger.replace(urlsplit(stranger).netloc.rpartition("@")[2], "127.0.0.1:1"): 4,
        stranger + "/x/y": 2,
        stranger + f"?heartbeat={CANARY}": 2,
        stranger.replace("@", "/@"): 2,
    }.items():
        for name, (line, *_) in LINES.items():
            if name in OFFLINE:
                continue
            env = {"RMQKIT_URL": url}
            more = ""
            if where != "url":
                env["RMQKIT_URL"] = url if "/@" in url else without_password(url)
                env |= {"RMQKIT_PASSWORD": CANARY} if where == "variable" else {}
                more = f" --password-file {secret}" if where == "file" else ""
            done = world.run(line.replace("{url}", quote(env["RMQKIT_URL"], safe="{}:/?=@")) + more, **env)
            assert done.returncode == code, (line, done.stderr)
            assert leaks(world, done.stdout, done.stderr, caplog.text) == [], line
            caplog.clear()


@pytest.mark.parametrize(
    "where", ["http://{}@127.0.0.1:1", "http://{}@127.0.0.1:port", "ftp://{}@h", "http://{}@h/x y"]
)
def test_no_error_about_the_http_api_shows_the_password_in_its_url(world: World, where: str) -> None:
    for line in ("status", "export", "plan {topology}", "apply {topology} --json"):
        done = world.run(line, RMQKIT_API_URL=where.format(f"guest:{CANARY}"))
        assert done.returncode in (2, 4)
        assert leaks(world, done.stdout, done.stderr) == []
