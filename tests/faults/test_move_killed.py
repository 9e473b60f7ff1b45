"""Moving is killed at any moment, rmqkit by itself and the broker under it: nothing is lost, and it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import rmqkit
from rmqkit import Target
from rmqkit.broker.lease import PREFETCH
from rmqkit.node import Node
from tests.conftest import Namespace
from tests.faults.ledger import Ledger
from tests.faults.rounds import restart_after_kill
from tests.faults.witness import declare, ready, within

AMOUNT = 4000


def moving(url: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rmqkit", "move", "--json", *arguments]
    env = os.environ | {"RMQKIT_URL": url}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def violations(ledger: Ledger, url: str, target: str, report: rmqkit.PublishReport, twice: int) -> list[str]:
    """Check I1 to I4 and I6, once the source is empty; what may be there twice counts as published again."""
    within(10, lambda: ready(url, ledger.queue) == 0)
    ledger.queue = target
    ledger.drain(url)
    return ledger.violations(replace(report, republished=twice), ordered=False)


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_rmqkit_killed_while_it_moves_and_run_again_loses_nothing_and_doubles_no_more_than_it_says(
    broker_url: str, namespace: Namespace, kind: str
) -> None:
    source, target = namespace.queue("source"), namespace.queue("target")
    declare(broker_url, source, x_queue_type=kind)
    declare(broker_url, target)
    ledger = Ledger(source, padding=200)
    with rmqkit.connect(broker_url) as connection:
        report = connection.publish(ledger.messages(range(AMOUNT)), on_settled=ledger.settled)
    arguments = (source, "--to-queue", target, "--rate", "10000")
    for turn in range(3):
        with moving(broker_url, *arguments) as process:
            within(20, lambda turn=turn: ready(broker_url, target) > turn * AMOUNT // 5)  # type: ignore[misc]
            assert process.poll() is None, "it ended too early to be killed"
            process.kill()
        assert process.returncode == -signal.SIGKILL
    with moving(broker_url, *arguments) as process:
        out, errors = process.communicate(timeout=50)
    assert process.returncode == 0, errors
    done = json.loads(out)
    assert done["redelivered"] <= 3 * PREFETCH
    # What a killed run had moved for the second time, and acknowledged, it could not tell any more.
    assert violations(ledger, broker_url, target, report, done["redelivered"] + 2 * PREFETCH) == []


def test_the_broker_killed_while_messages_are_moved_loses_none_and_the_move_goes_on_by_itself(
    node: Node, on_node: Callable[[str], Ledger]
) -> None:
    # A classic queue: a quorum queue of RabbitMQ 3.10 on a single node may be without a leader for minutes after that.
    target = on_node("").queue
    source = f"{target}-source"
    declare(node.url, source)
    node.ctl("eval", "mnesia:sync_log().")
    ledger = Ledger(source)
    heard: list[int] = []
    warnings: list[str] = []
    killed = threading.Thread(target=lambda: (within(20, lambda: bool(heard)), restart_after_kill(node)))

    def hear(looked: int, _blocked: str) -> None:
        if looked > AMOUNT // 10:
            heard.append(looked)

    with rmqkit.connect(node.url) as connection:
        report = connection.publish(ledger.messages(range(AMOUNT)), on_settled=ledger.settled)
        killed.start()
        options: dict[str, Any] = {"rate": 3000, "on_progress": hear, "on_warning": warnings.append}
        done = connection.move(source, Target("", target), **options)
        killed.join()
    assert len(warnings) == 1
    assert done.moved - AMOUNT <= done.redelivered
    assert violations(ledger, node.url, target, report, done.redelivered) == []


def test_sigint_ends_a_move_cleanly_with_each_message_in_one_queue(broker_url: str, namespace: Namespace) -> None:
    source, target = namespace.queue("source"), namespace.queue("target")
    ledger = Ledger(source)
    for queue in (source, target):
        declare(broker_url, queue)
    with rmqkit.connect(broker_url) as connection:
        connection.publish(ledger.messages(range(AMOUNT)), on_settled=ledger.settled)
    with moving(broker_url, source, "--to-queue", target, "--rate", "3000") as process:
        within(20, lambda: ready(broker_url, target) > 0)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT, errors
    moved = json.loads(out)["moved"]
    within(5, lambda: ready(broker_url, source) == AMOUNT - moved)
    assert ready(broker_url, target) == moved
