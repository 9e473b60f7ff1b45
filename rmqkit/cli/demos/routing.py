"""Demos of which reader gets which messages: publish and subscribe, routing keys, topics, headers, offline readers.

One table compares them all: a row for each kind of message, identified by its headers or its routing key, and a column
for each reader.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace

from rmqkit.cli import output
from rmqkit.cli.demos.runner import ENVELOPES, DeliveryCount, DemoProcess, DemoRunner, Result, count_deliveries
from rmqkit.topology.file.loader import load

_Item = tuple[str, str]  # the kind of a message, and its body


def route(runner: DemoRunner) -> Result:
    """Publish each kind of message that the pattern lists to readers of all queues."""
    table = ReaderTable(runner)
    table.read_queues()
    for kind, queues in runner.pattern.deliveries.items():
        table.publish(kind, to=queues)
    return table.result()


def pubsub(runner: DemoRunner) -> Result:
    """Publish to two readers with a queue each, and to a temporary subscriber."""
    table = ReaderTable(runner)
    table.read_queues()
    subscriber = table.read("subscribe news", "subscribe", "news", comment="a temporary subscriber")
    runner.wait(lambda: "Subscribed" in subscriber.stderr, subscriber)
    table.publish("news", to=(*table.queues, subscriber.name))
    return table.result()


def offline(runner: DemoRunner) -> Result:
    """Publish to a reader who stays, one who leaves and returns, one who starts late, and one with a subscription."""
    table = ReaderTable(runner)
    ada, grace, linus = table.queues
    alan = "mailbox_alan"
    runner.run("subscribe", "letters", "--durable", alan, "--idle-timeout", "0", comment="Alan subscribes, and leaves")
    table.read(ada, "consume", ada, comment="Ada stays")
    table.read(grace, "consume", grace, comment="Grace reads, too")
    table.publish("day=monday", to=(ada, grace, linus, alan))
    table.wait(ada, grace)
    runner.end(table.readers[grace])
    runner.note("^C", comment="Grace leaves")
    table.publish("day=tuesday", to=(ada, grace, linus, alan))
    table.read(grace, "consume", grace, comment="Grace is back")
    table.read(alan, "subscribe", "letters", "--durable", alan, comment="so is Alan")
    table.read(linus, "consume", linus, comment="Linus is new")
    return table.result()


class ReaderTable:
    """The published messages, the readers, and which reader is to get which messages."""

    def __init__(self, runner: DemoRunner) -> None:
        runner.apply()
        self._runner = runner
        self._topology = load(runner.broker.folder / f"topologies/{runner.pattern.topology}.yaml")
        self.queues = tuple(queue.name for queue in self._topology.queues)
        self.readers: dict[str, DemoProcess] = {}
        self._reports: dict[str, dict[str, int]] = {}  # by kind of message
        self._expected: dict[str, set[_Item]] = {}  # by reader

    def read_queues(self) -> None:
        """Start a reader of each queue, and show with which keys or headers the queue is bound."""
        for queue in self.queues:
            self.read(queue, "consume", queue, comment=self._bindings(queue) or "everything")

    def read(self, name: str, *command: str, comment: str) -> DemoProcess:
        """Start a reader, for the first time or again."""
        self.readers[name] = self._runner.start(name, *command, hidden=ENVELOPES, comment=comment)
        return self.readers[name]

    def publish(self, kind: str, *, to: tuple[str, ...]) -> None:
        """Publish messages of a kind that these readers are to get, and no other reader."""
        exchange, options = self._topology.exchanges[0].name, list[str]()
        if "=" in kind:
            options = [word for header in kind.split() for word in ("-H", header)]
        elif kind != exchange:
            options = ["-e", exchange, "-r", kind]
        if not to:
            options.append("--allow-unroutable")
        self._reports[kind] = self._runner.publish(*options)
        for name in to:
            self._expected.setdefault(name, set()).update((kind, str(number)) for number in range(self._runner.count))

    def wait(self, *names: str) -> None:
        """Wait until these readers have everything they are to get so far."""
        self._runner.wait_for_lines({self.readers[name]: len(self._expected[name]) for name in names})

    def result(self) -> Result:
        """Wait for the messages in flight, end the readers, and compare."""
        queue_state = self._runner.connection.queue_state
        self.wait(*self.readers)
        self._runner.wait(lambda: all(queue_state(each).ready == 0 for each in self.queues))
        self._runner.end()
        received = {name: [_item(line) for line in reader.lines()] for name, reader in self.readers.items()}
        counts = {name: count_deliveries(items, self._expected[name]) for name, items in received.items()}
        for name in self.queues:  # messages still in flight to the reader, of which there should be none
            counts[name] = replace(counts[name], unexpected=counts[name].unexpected + queue_state(name).ready)
        kinds = {name: Counter(kind for kind, _ in items) for name, items in received.items()}
        reports = self._reports
        complete = all(each["published"] == each["confirmed"] + each["returned"] for each in reports.values())
        complete &= all(count.complete for count in counts.values())
        numbers = {
            "published": {kind: report["published"] for kind, report in reports.items()},
            "returned": {kind: report["returned"] for kind, report in reports.items()},
            "readers": {name: asdict(count) | {"kinds": kinds[name]} for name, count in counts.items()},
        }
        return Result(complete, self._table(kinds, counts), numbers)

    def _bindings(self, queue: str) -> str:
        """Return the routing keys or headers of a queue's bindings."""
        texts = []
        for binding in self._topology.bindings:
            if binding.destination == queue:
                headers = {name: value for name, value in binding.arguments.items() if name != "x-match"}
                operator = " and " if binding.arguments.get("x-match") == "all" else " or "
                texts.append(operator.join(_words(headers)) if headers else binding.routing_key)
        return ", ".join(texts)

    def _table(self, kinds: Mapping[str, Counter[str]], counts: Mapping[str, DeliveryCount]) -> str:
        returned = ["returned"] if any(report["returned"] for report in self._reports.values()) else []
        rows = [
            [
                kind,
                f"{report['published']:,}",
                *(f"{kinds[name][kind]:,}" if kinds[name][kind] else "·" for name in counts),
                *(f"{report[name]:,}" for name in returned),
            ]
            for kind, report in self._reports.items()
        ]
        header = ["published", "", *counts, *returned]
        rows.append([""] * len(header))
        rows += (
            [fault, "", *(f"{count.faults[fault]:,}" for count in counts.values()), *([""] * len(returned))]
            for fault in DeliveryCount().faults
        )
        return output.table(rows, header=header, numbers=range(1, len(header)))


def _item(line: bytes) -> _Item:
    envelope = json.loads(line)
    kind = " ".join(_words(envelope.get("headers", {}))) or envelope["routing_key"] or envelope["exchange"]
    return kind, envelope["body"]


def _words(headers: Mapping[str, object]) -> list[str]:
    """Write headers as the command line does: a value that is not text as JSON."""
    pairs = headers.items()
    return [f"{name}={value}" if isinstance(value, str) else f"{name}:={json.dumps(value)}" for name, value in pairs]
