"""`rmqkit demo priority`: jobs of three priorities wait, and come out sorted."""

from __future__ import annotations

import json
from itertools import groupby

from rmqkit.cli import output
from rmqkit.cli.demos.delivery_count import count_deliveries
from rmqkit.cli.demos.runner import ENVELOPES, DemoRunner, Result

_QUEUE = "jobs"
_DIGITS = 20
_PRIORITIES = (0, 9, 5)  # in the order they are published
_Job = tuple[int, int]  # the priority, and its number among those


def run(stage: DemoRunner) -> Result:
    """Let jobs wait, and see in which order a worker gets them."""
    stage.apply("topologies/priority.yaml")
    for priority in _PRIORITIES:
        stage.publish("--priority", str(priority), "-n", str(stage.count))
    published = [(priority, number) for priority in _PRIORITIES for number in range(stage.count)]
    worker = stage.start("worker", "consume", _QUEUE, unseen=ENVELOPES, comment="comes when all wait")
    stage.wait_for_lines({worker: len(published)})
    stage.end()
    envelopes = [json.loads(line) for line in worker.lines()]
    came = [(envelope["priority"], int(envelope["body"])) for envelope in envelopes]
    wanted = sorted(published, key=lambda job: -job[0])  # within a priority, as published
    ledger = count_deliveries(came, published)
    rows = [("published", _spans(published)), ("came", _spans(came)), ("lost", str(ledger.lost))]
    numbers = {"published": len(published), "came": ledger.came, "in_order": came == wanted, "lost": ledger.lost}
    return Result(came == wanted, output.table(rows), numbers)


def _spans(jobs: list[_Job]) -> str:
    """Draw jobs in their order, by priority: a digit each, if they are few."""
    runs = [(str(priority), len(list(group))) for priority, group in groupby(priority for priority, _ in jobs)]
    return "  ".join(digit * length if length <= _DIGITS else f"{length:,} of {digit}" for digit, length in runs)
