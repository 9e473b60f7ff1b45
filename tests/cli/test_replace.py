"""`rmqkit apply --replace`; what it does to messages is tested in tests/broker and tests/faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.conftest import Broker
from tests.support.cli import COMMAND, Run, rmqkit
from tests.support.queues import drain, open_channel

OLD = """
exchanges: {shop: {type: topic}}
queues: {pay: {}, dead: {}}
bindings: [{source: shop, destination: pay, routing_key: "#"}]
"""
NEW = OLD.replace("pay: {}", 'pay: {arguments: {x-dead-letter-exchange: "", x-dead-letter-routing-key: dead}}')


@pytest.fixture
def env(broker: Broker, vhost_url: str, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "old.yaml").write_text(OLD)
    (tmp_path / "new.yaml").write_text(NEW)
    own = {"RMQKIT_URL": vhost_url, "XDG_STATE_HOME": str(tmp_path / "state"), "RMQKIT_API_URL": broker.api_url}
    return os.environ | own


@pytest.fixture
def run(env: dict[str, str], tmp_path: Path) -> Run:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return rmqkit(*arguments, env=env, folder=tmp_path)

    return run


@pytest.fixture
def channel(vhost_url: str, run: Run) -> Iterator[BlockingChannel]:
    """An independent client, and the old topology with three messages."""
    assert run("apply", "old.yaml").returncode == 0
    with open_channel(vhost_url) as channel:
        channel.confirm_delivery()
        for body in (b"1", b"2", b"3"):
            channel.basic_publish("shop", "paid", body)
        yield channel


def steps(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    return {f"{each['kind']} {each['name']}": each for each in json.loads(done.stdout)["entities"]}


def test_a_conflict_is_replaced_when_asked_for_and_the_messages_stay(run: Run, channel: BlockingChannel) -> None:
    refused = run("apply", "new.yaml")
    assert refused.returncode == 5
    assert "--replace" in refused.stderr
    planned = run("plan", "--replace", "--json", "new.yaml")
    assert planned.returncode == 0
    assert steps(planned)["queue pay"]["outcome"] == "replace"
    done = run("apply", "--replace", "--json", "new.yaml")
    assert done.returncode == 0, done.stderr
    assert steps(done)["queue pay"]["note"] == "3 messages moved"
    assert "queue 'pay': moving 3 messages back" in done.stderr
    assert drain(channel, "pay") == [b"1", b"2", b"3"]
    assert steps(run("plan", "--json", "new.yaml"))["queue pay"]["outcome"] == "unchanged"
    channel.basic_publish("shop", "paid", b"4")
    assert drain(channel, "pay") == [b"4"], "the binding is there again"


def test_a_queue_with_a_consumer_is_not_replaced_unless_it_leaves_in_time(
    run: Run, channel: BlockingChannel, env: dict[str, str], tmp_path: Path
) -> None:
    tag = channel.basic_consume("pay", lambda *_: None)
    refused = run("apply", "--replace", "new.yaml")
    assert refused.returncode == 5
    assert "new.yaml:3:10: queue 'pay' has 1 consumer" in refused.stderr
    assert "nothing was replaced" in refused.stderr
    waiting = subprocess.Popen(
        [*COMMAND, "apply", "--replace", "--wait", "30", "new.yaml"], env=env, cwd=tmp_path, stderr=subprocess.PIPE
    )
    assert waiting.stderr
    with waiting.stderr as told:
        assert b"waiting up to 30 s: queue 'pay' has 1 consumer" in told.readline()
        channel.basic_cancel(tag)
        channel.basic_recover(requeue=True)
        told.read()
    assert waiting.wait(90) == 0
    assert drain(channel, "pay") == [b"1", b"2", b"3"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "stopped"])
def test_an_interrupted_replacement_is_reported_and_a_rerun_resumes(
    run: Run, channel: BlockingChannel, env: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    begun = subprocess.Popen(
        [*COMMAND, "apply", "--replace", "new.yaml"], env=env, cwd=tmp_path, stderr=subprocess.PIPE
    )
    assert begun.stderr
    with begun.stderr as told:
        while b"moving 3 messages to" not in told.readline():
            assert begun.poll() is None
        begun.send_signal(number)
        told.read()
    assert begun.wait(90) == (130 if number is signal.SIGINT else -number)
    channel.basic_publish("shop", "paid", b"4")
    for command in ("plan", "apply", "destroy"):
        refused = run(command, "new.yaml")
        assert refused.returncode == 5
        assert "replacing it was interrupted" in refused.stdout + refused.stderr
    assert run("apply", "--replace", "new.yaml").returncode == 0
    assert drain(channel, "pay") == [b"1", b"2", b"3", b"4"]
