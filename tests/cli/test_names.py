"""Names that AMQP or the HTTP API cannot carry are refused in a sentence, and others reach every output as they are."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from rmqkit.errors import Unreachable
from rmqkit.http_api.client import HttpApiClient
from rmqkit.settings import load_settings
from tests.conftest import Broker
from tests.support.cli import run_bytes
from tests.support.queues import drain

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
LONG, NOT_UTF8 = b"q" * 300, b"caf\xe9"


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    """Run `rmqkit` with arguments that may be bytes."""

    def run(*arguments: str | bytes, **more: str | bytes) -> subprocess.CompletedProcess[bytes]:
        variables = {name: os.fsdecode(value) for name, value in (environment | more).items()}
        return run_bytes(*arguments, env=variables, folder=tmp_path)

    return run


@pytest.mark.parametrize("name", [LONG, NOT_UTF8], ids=["long", "not UTF-8"])
@pytest.mark.parametrize(
    "command",
    [
        "consume NAME", "consume QUEUE --to-queue NAME", "move NAME", "move QUEUE --to-exchange amq.topic -r NAME",
        "serve NAME --exec cat", "call NAME x", "subscribe amq.topic --durable NAME", "unsubscribe NAME", "status NAME",
        "status --vhost NAME", "publish NAME x", "publish -q QUEUE --envelopes NAME", "publish -q QUEUE -f NAME",
    ],
)  # fmt: skip
def test_a_name_that_amqp_cannot_carry_is_refused_in_a_sentence(
    run: Run, channel: BlockingChannel, queue: str, command: str, name: bytes
) -> None:
    channel.basic_publish("", queue, b"x")
    done = run(*(name if each == "NAME" else each.replace("QUEUE", queue) for each in command.split()))
    assert (done.returncode, b"Traceback" in done.stderr) == (2, False), done.stderr
    said = done.stderr
    assert b"300 bytes" in said or b"255 bytes" in said or b"UTF-8" in said or b"cannot be read" in said
    assert drain(channel, queue) == [b"x"]


def test_a_password_that_is_not_utf8_is_refused(run: Run, environment: dict[str, str]) -> None:
    url = environment["RMQKIT_URL"].replace("guest:guest@", "guest@")
    done = run("status", RMQKIT_URL=url, RMQKIT_PASSWORD=NOT_UTF8)
    assert (done.returncode, b"the password is not valid UTF-8" in done.stderr) == (2, True), done.stderr


@pytest.mark.http_api
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_names_reach_files_and_programs_as_they_are_in_any_locale(
    run: Run, broker: Broker, vhost_url: str, vhost_channel: BlockingChannel, encoding: str
) -> None:
    vhost_channel.queue_declare("café ≠ \N{GRINNING FACE}", durable=True)
    in_locale = {"RMQKIT_URL": vhost_url, "RMQKIT_API_URL": broker.api_url, "PYTHONIOENCODING": encoding}
    assert "café ≠ \N{GRINNING FACE}" in run("export", **in_locale).stdout.decode()
    [found] = json.loads(run("status", "--json", **in_locale).stdout)["queues"]
    assert found["name"] == "café ≠ \N{GRINNING FACE}"


@pytest.mark.http_api
def test_a_virtual_host_or_policy_that_the_http_api_cannot_address_is_refused(
    run: Run, broker: Broker, vhost_url: str, tmp_path: Path
) -> None:
    settings = load_settings([vhost_url], vhost=".", api_url=broker.api_url)
    with pytest.raises(Unreachable, match=r"cannot address the name '\.'"):
        HttpApiClient(settings, settings.addresses[0])
    policy = {"vhost": vhost_url.rpartition("/")[2], "name": ".", "pattern": "^a", "definition": {"max-length": 1}}
    made = {"policies": [policy | {"apply-to": "queues", "priority": 0}]}
    broker.api("POST", "definitions", json.dumps(made).encode())
    own = {"RMQKIT_URL": vhost_url, "RMQKIT_API_URL": broker.api_url}
    (tmp_path / "dot.yaml").write_text("policies: {'.': {pattern: ^a, definition: {max-length: 1}}}")
    done = run("apply", "dot.yaml", **own)
    assert (done.returncode, b"cannot address this name" in done.stderr) == (2, True), done.stderr
    done = run("export", **own)
    assert (done.returncode, b"cannot address this name" in done.stderr) == (0, True), done.stderr
