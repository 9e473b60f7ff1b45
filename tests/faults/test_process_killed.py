"""rmqkit is stopped by a signal, or killed, at any moment: the next run finishes its work."""

from __future__ import annotations

import json
import random
import signal

import pytest

import rmqkit
from tests.faults import scenarios_process as scenarios
from tests.faults.fault_run import FaultSetup, Progress, publish
from tests.faults.ledger import body
from tests.support.queues import ready
from tests.support.wait import wait_until

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.fault(26)
@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupted_publish_confirms_its_messages_and_reports_its_progress(
    setup: FaultSetup, rng: random.Random, number: signal.Signals
) -> None:
    assert scenarios.interrupted_publishing(setup, rng, number).violations == []


@pytest.mark.fault(26)
@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupted_consume_acknowledges_exactly_the_messages_it_printed(
    setup: FaultSetup, rng: random.Random, number: signal.Signals
) -> None:
    assert scenarios.interrupted_consuming(setup, rng, number).violations == []


@pytest.mark.fault(27)
def test_killed_runs_of_publish_with_resume_publish_every_line_and_repeat_few(
    setup: FaultSetup, rng: random.Random
) -> None:
    assert scenarios.killed_publishing(setup, rng).violations == []


@pytest.mark.fault(29)
def test_resuming_skips_no_line_of_a_file_that_was_truncated(setup: FaultSetup) -> None:
    whole, lines = b"".join(body(n) + b"\n" for n in range(1000)), setup.folder / "lines"
    lines.write_bytes(whole[: whole.rindex(b"\n", 0, len(whole) // 2) + 30])  # in the middle of a line
    command = ("publish", "-q", setup.declare_queue(), "--lines", "lines", "--resume", "state")
    with setup.start(*command) as program:
        _, errors = program.communicate(timeout=90)
    assert program.returncode == 0, errors
    lines.write_bytes(whole)
    with setup.start(*command) as program:
        _, errors = program.communicate(timeout=90)
    assert program.returncode == 2
    assert b"had no end when it was published, and has grown since" in errors


@pytest.mark.parametrize("how", ["print", "save"])
def test_messages_a_killed_consumer_did_not_write_stay_queued(setup: FaultSetup, rng: random.Random, how: str) -> None:
    assert scenarios.killed_consuming(setup, rng, how).violations == []


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_killed_move_run_again_loses_nothing_and_duplicates_no_more_than_it_reports(
    setup: FaultSetup, rng: random.Random, kind: str
) -> None:
    assert scenarios.killed_moving(setup, rng, kind).violations == []


def test_a_move_resumes_by_itself_after_the_broker_is_killed_and_loses_nothing(
    node_setup: FaultSetup, rng: random.Random
) -> None:
    assert scenarios.broker_killed_moving(node_setup, rng).violations == []


def test_sigint_ends_a_move_cleanly_with_each_message_in_one_queue(setup: FaultSetup) -> None:
    source, target, amount = setup.declare_ledger(), setup.declare_queue(), 4000
    with rmqkit.connect(setup.url) as connection:
        publish(connection, source, source.messages(range(amount)), Progress())
    arguments = ("move", source.queue, "--to-queue", target, "--rate", "3000", "--json")
    with setup.start(*arguments) as program:
        wait_until(lambda: ready(setup.url, target) > 0)
        program.send_signal(signal.SIGINT)
        out, errors = program.communicate(timeout=90)
    assert program.returncode == 128 + signal.SIGINT, errors
    moved = json.loads(out)["moved"]
    wait_until(lambda: ready(setup.url, source.queue) == amount - moved)
    assert ready(setup.url, target) == moved
