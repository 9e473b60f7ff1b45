"""The demos of who gets which messages: publish and subscribe, routing, topics, headers, and readers who are away.

One table compares them all: a row for each sort of message, which its headers or its routing key tell, and a column
for each reader.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace

from rmqkit.cli import output
from rmqkit.cli.demos.delivery_count import DeliveryCount, count_deliveries
from rmqkit.cli.demos.runner import ENVELOPES, DemoProcess, DemoRunner, Result
from rmqkit.topology.file.loader import load

_Item = tuple[str, str]  # the sort of a message, and its body


def pubsub(stage: DemoRunner) -> Result:
    """Show two readers with a queue each, and an onlooker."""
    post = ReaderTable(stage, "topologies/pubsub.yaml")
    post.consume()
    onlooker = post.read("subscribe news", "subscribe", "news", comment="somebody looks on")
    stage.wait(lambda: "Subscribed" in onlooker.said, onlooker)
    post.publish("news", to=(*post.queues, onlooker.name))
    return post.result()


def routing(stage: DemoRunner) -> Result:
    """Show keys that two queues ask for, one does, and none."""
    wanted = {"error": ("log_errors", "log_all"), "info": ("log_all",), "debug": ()}
    return _sort(stage, "topologies/routing.yaml", wanted, lambda key: ["-e", "log", "-r", key])


def topics(stage: DemoRunner) -> Result:
    """Show keys that match patterns of three queues, of two, and of one."""
    billing, europe, audit = "orders_billing", "orders_europe", "orders_audit"
    wanted = {
        "order.eu.paid": (billing, europe, audit),
        "order.us.paid": (billing, audit),
        "order.eu.sent": (europe, audit),
        "order.us.sent": (audit,),
    }
    return _sort(stage, "topologies/topics.yaml", wanted, lambda key: ["-e", "orders", "-r", key])


def headers(stage: DemoRunner) -> Result:
    """Show headers that match all that a queue asks for, any of it, and nothing: a number is no text."""
    leaflets, printer = "documents_leaflets", "documents_printer"
    wanted = {
        "format=pdf pages:=1": (leaflets, printer),
        "format=pdf pages=1": (printer,),
        "urgent:=true": (printer,),
        "format=html": (),
    }
    return _sort(stage, "topologies/headers.yaml", wanted, _options)


def _sort(
    stage: DemoRunner, file: str, wanted: Mapping[str, tuple[str, ...]], options: Callable[[str], Sequence[str]]
) -> Result:
    """Publish sorts of messages that are for these queues; `options` are those that publish a sort."""
    post = ReaderTable(stage, file)
    post.consume()
    for sort, queues in wanted.items():
        post.publish(sort, *options(sort), to=queues)
    return post.result()


def offline(stage: DemoRunner) -> Result:
    """Show a reader who is there, one who goes and comes back, one who comes at the end, and one who said so before."""
    post = ReaderTable(stage, "topologies/offline.yaml")
    ada, grace, linus = post.queues
    alan = "mailbox_alan"
    everybody = (ada, grace, linus, alan)
    stage.run("subscribe", "letters", "--durable", alan, "--idle-timeout", "0", comment="Alan goes")
    post.read(ada, "consume", ada, comment="Ada stays")
    post.read(grace, "consume", grace, comment="Grace is there, too")
    post.publish("day=monday", *_options("day=monday"), to=everybody)
    post.arrive(ada, grace)
    stage.end(post.readers[grace])
    stage.note("^C", comment="Grace leaves")
    post.publish("day=tuesday", *_options("day=tuesday"), to=everybody)
    post.read(grace, "consume", grace, comment="Grace is back")
    post.read(alan, "subscribe", "letters", "--durable", alan, comment="so is Alan")
    post.read(linus, "consume", linus, comment="Linus is new")
    return post.result()


class ReaderTable:
    """What was published, who was to get it, and who reads."""

    def __init__(self, stage: DemoRunner, file: str) -> None:
        stage.apply(file)
        self._stage = stage
        self._topology = load(stage.place.folder / file)
        self.queues = tuple(queue.name for queue in self._topology.queues)
        self.readers: dict[str, DemoProcess] = {}
        self._reports: dict[str, dict[str, int]] = {}  # by sort
        self._wanted: dict[str, set[_Item]] = {}  # by reader

    def consume(self) -> None:
        """Start a reader of each queue, and say what the queue asks for."""
        for queue in self.queues:
            self.read(queue, "consume", queue, comment=", ".join(self._asked_for(queue)) or "everything")

    def read(self, name: str, *command: str, comment: str) -> DemoProcess:
        """Start a reader, for the first time or again."""
        self.readers[name] = self._stage.start(name, *command, unseen=ENVELOPES, comment=comment)
        return self.readers[name]

    def publish(self, sort: str, *options: str, to: tuple[str, ...]) -> None:
        """Publish messages of a sort that these readers are to get, and nobody else."""
        self._reports[sort] = self._stage.publish(*options, "-n", str(self._stage.count))
        for name in to:
            self._wanted.setdefault(name, set()).update((sort, str(number)) for number in range(self._stage.count))

    def arrive(self, *names: str) -> None:
        """Wait until these readers have all that they were to get so far."""
        self._stage.wait_for_lines({self.readers[name]: len(self._wanted[name]) for name in names})

    def result(self) -> Result:
        """Wait for what is to come yet, end the readers, and compare."""
        queue_state = self._stage.connection.queue_state
        self.arrive(*self.readers)
        self._stage.wait(lambda: all(queue_state(each).ready == 0 for each in self.queues))
        self._stage.end()
        came = {name: [_item(line) for line in reader.lines()] for name, reader in self.readers.items()}
        ledgers = {name: count_deliveries(items, self._wanted[name]) for name, items in came.items()}
        for name in self.queues:  # what was still on its way to the reader; there should be none
            ledgers[name] = replace(ledgers[name], unexpected=ledgers[name].unexpected + queue_state(name).ready)
        sorts = {name: Counter(sort for sort, _ in items) for name, items in came.items()}
        reports = self._reports.values()
        complete = all(report["published"] == report["confirmed"] + report["returned"] for report in reports)
        numbers = {
            "published": {sort: report["published"] for sort, report in self._reports.items()},
            "returned": {sort: report["returned"] for sort, report in self._reports.items()},
            "readers": {name: asdict(ledger) | {"sorts": sorts[name]} for name, ledger in ledgers.items()},
        }
        complete &= all(ledger.complete for ledger in ledgers.values())
        return Result(complete, self._table(sorts, ledgers), numbers)

    def _asked_for(self, queue: str) -> Iterator[str]:
        for binding in self._topology.bindings:
            if binding.destination == queue:
                match = binding.arguments.get("x-match")
                wanted = {name: value for name, value in binding.arguments.items() if name != "x-match"}
                yield (" and " if match == "all" else " or ").join(_texts(wanted)) if wanted else binding.routing_key

    def _table(self, sorts: dict[str, Counter[str]], ledgers: dict[str, DeliveryCount]) -> str:
        returned = any(report["returned"] for report in self._reports.values())
        rows = [
            [
                sort,
                f"{report['published']:,}",
                *(f"{sorts[name][sort]:,}" if sorts[name][sort] else "·" for name in ledgers),
                *([f"{report['returned']:,}"] if returned else []),
            ]
            for sort, report in self._reports.items()
        ]
        end = [""] if returned else []
        rows.append([""] * len(rows[0]))
        rows += (
            [what, "", *(f"{getattr(ledger, what):,}" for ledger in ledgers.values()), *end]
            for what in ("lost", "duplicated", "unexpected")
        )
        header = ["published", "", *ledgers, *(["returned"] if returned else [])]
        return output.table(rows, header=header, numbers=range(1, len(header)))


def _item(line: bytes) -> _Item:
    envelope = json.loads(line)
    return " ".join(_texts(envelope.get("headers", {}))) or envelope["routing_key"] or envelope["exchange"], envelope[
        "body"
    ]


def _texts(headers: Mapping[str, object]) -> list[str]:
    """Write headers as the command line does: what is no text as JSON."""
    pairs = headers.items()
    return [f"{name}={value}" if isinstance(value, str) else f"{name}:={json.dumps(value)}" for name, value in pairs]


def _options(text: str) -> list[str]:
    return [word for header in text.split() for word in ("-H", header)]
