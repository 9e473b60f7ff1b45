"""The result of demos in which each reader gets certain kinds of messages.

Its table has a row for each kind, identified by headers or routing key, and a column for each reader.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from rmqkit.cli import output
from rmqkit.cli.demos.runner import DeliveryCount, DemoResult, DemoRunner, Item, count_deliveries


def by_kind(runner: DemoRunner) -> DemoResult:
    """Wait for the messages in flight, end the readers, and compare."""
    queues = [queue.name for queue in runner.topology.queues]
    runner.wait({name: str(len(runner.expected[name])) for name in runner.processes})
    runner.wait_until_empty(*queues)
    runner.end()
    received = {name: [_item(each) for each in reader.printed()] for name, reader in runner.processes.items()}
    counts = {name: count_deliveries(items, runner.expected[name]) for name, items in received.items()}
    for name in queues:  # messages still in flight to the reader, of which there should be none
        waiting = runner.connection.queue_state(name).ready
        counts[name] = replace(counts[name], unexpected=counts[name].unexpected + waiting)
    kinds = {name: Counter(kind for kind, _ in items) for name, items in received.items()}
    reports = runner.reports
    complete = all(each["published"] == each["confirmed"] + each["returned"] for each in reports.values())
    complete &= all(count.complete for count in counts.values())
    numbers = {
        "published": {kind: report["published"] for kind, report in reports.items()},
        "returned": {kind: report["returned"] for kind, report in reports.items()},
        "readers": {name: asdict(count) | {"kinds": kinds[name]} for name, count in counts.items()},
    }
    return DemoResult(complete, _table(reports, kinds, counts), numbers)


def _table(
    reports: Mapping[str, Mapping[str, int]],
    kinds: Mapping[str, Counter[str]],
    counts: Mapping[str, DeliveryCount],
) -> str:
    outcomes = ["returned"] if any(report["returned"] for report in reports.values()) else []
    rows = []
    for kind, report in reports.items():
        by_reader = [f"{kinds[name][kind]:,}" if kinds[name][kind] else "·" for name in counts]
        rows.append([kind, f"{report['published']:,}", *by_reader, *(f"{report[name]:,}" for name in outcomes)])
    header = ["published", "", *counts, *outcomes]
    rows.append([""] * len(header))
    rows += (
        [fault, "", *(f"{count.faults[fault]:,}" for count in counts.values()), *([""] * len(outcomes))]
        for fault in DeliveryCount().faults
    )
    return output.table(rows, header=header, numbers=range(1, len(header)))


def _item(envelope: Mapping[str, Any]) -> Item:
    """Return the kind of a message, with headers as the command line writes them, and its body."""
    pairs = envelope.get("headers", {}).items()
    words = [f"{name}={value}" if isinstance(value, str) else f"{name}:={json.dumps(value)}" for name, value in pairs]
    return " ".join(words) or envelope["routing_key"] or envelope["exchange"], envelope["body"]
