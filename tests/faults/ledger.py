"""The ledger of a fault test: the messages sent, their fates as rmqkit reported them, and the messages found.

Each violation begins with the name of the promise that was broken:

    lost          every message reported as confirmed is in the queue
    unexpected    every message in the queue was sent
    accounting    confirmed, failed and unknown messages are disjoint and add up to the messages sent
    duplicates    a message arrives twice only if it was republished, and no more often than reported
    order         first occurrences keep the order of the input
    damage        bodies and properties arrive byte for byte
    handling      a consumer handles every message and leaves none; a message handled twice is marked or was republished
    completeness  a run is complete only if every message was confirmed
    failures      exactly the messages that must fail are reported as failed
    progress      a run makes progress, or ends with an error that names the cause, in bounded time
    leak          memory, file descriptors, threads and channels stay bounded
    secret        no password and no body appears in a log, an error, or the arguments of a child
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pika

from rmqkit.message import Delivery, Message, Properties
from rmqkit.report import Fate, PublishReport
from tests.support.queues import drain_messages

PROPERTIES = Properties(content_type="text/plain", headers={"ledger": "kept"}, message_id="of the ledger")
QUORUM = ("x-delivery-count", "x-acquired-count")  # a quorum queue's own headers, on what it gives out again
_SHOWN = 5  # ids in a violation


def body(number: int, padding: int = 0) -> bytes:
    """Return a body from which its id, and any missing or wrong byte, can be read."""
    return b"%d %s %s" % (number, _digest(number, padding), b"." * padding)


def identity(data: bytes) -> int | None:
    """Return the id of a body; None if it differs from `body` in any byte."""
    number, _, rest = data.partition(b" ")
    padding = len(rest) - 65
    whole = number.isdigit() and data == body(int(number), padding)
    return int(number) if whole else None


def _digest(number: int, padding: int) -> bytes:
    return hashlib.sha256(b"%d,%d" % (number, padding)).hexdigest().encode()


@dataclass(frozen=True)
class Receipt:
    """A message as a client received it."""

    body: bytes
    redelivered: bool = False
    intact: bool = True  # with the properties it was sent with


@dataclass
class FaultLedger:
    """Everything known about the messages of one queue; `padding` makes bodies longer by 0 to that many bytes."""

    queue: str
    padding: int = 0
    sent: list[int] = field(default_factory=list)  # ids, in the order of the input
    fates: list[tuple[int, Fate]] = field(default_factory=list)  # in the order they were reported
    found: list[Receipt] = field(default_factory=list)  # by an independent client, in the order of the queue
    handled: list[Receipt] = field(default_factory=list)  # by a consumer, before the acknowledgement

    def messages(self, ids: Iterable[int]) -> Iterator[Message]:
        """Yield the messages with these ids, and record each when it is taken."""
        for number in ids:
            self.sent.append(number)
            yield Message(body(number, number % (self.padding + 1)), self.queue, properties=PROPERTIES)

    def settled(self, _index: int, message: Message, fate: Fate) -> None:
        """Record a fate; pass this as `on_settled`."""
        number = identity(message.body)
        assert number is not None
        self.fates.append((number, fate))

    def handle(self, delivery: Delivery) -> None:
        """Record a delivery; call this before it is acknowledged."""
        headers = dict(delivery.properties.headers or {})
        for name in QUORUM:
            headers.pop(name, None)
        intact = replace(delivery.properties, headers=headers) == PROPERTIES
        self.handled.append(Receipt(delivery.body, delivery.redelivered, intact))

    def drain(self, url: str) -> None:
        """Empty the queue with plain pika, and record its messages."""
        for message in drain_messages(url, self.queue):
            self.found.append(Receipt(message.body, message.method.redelivered, _intact(message.properties)))

    def ids(self, *fates: Fate) -> set[int]:
        """Return the ids with one of these fates."""
        return {number for number, fate in self.fates if fate in fates}

    @property
    def lost(self) -> set[int]:
        """Return the confirmed messages that nothing received."""
        return self.ids(Fate.CONFIRMED) - self._ids(self.found) - self._ids(self.handled)

    @property
    def duplicates(self) -> int:
        """Count the copies received beyond the first."""
        seen = [*self.found, *self.handled]
        return len(seen) - len({each.body for each in seen})

    def violations(self, report: PublishReport, *, ordered: bool = True) -> list[str]:
        """Check a run that published: every promise but those about handling."""
        return [
            *self._lost(),
            *self._unexpected(self.found),
            *self._accounting(report),
            *self._surplus(report.republished),
            *(self._disorder() if ordered else ()),
        ]

    def consumer_violations(self, ready: int, unacked: int, republished: int = 0) -> list[str]:
        """Check a run that consumed: `handling`, `unexpected` and `damage`."""
        missing = self.ids(Fate.CONFIRMED) - self._ids(self.handled)
        violations = [f"handling: never handled: {_some(missing)}"] if missing else []
        if ready or unacked:
            violations.append(f"handling: {ready} ready and {unacked} unacknowledged messages are left")
        seen: set[int | None] = set()
        unmarked = set()
        for each in self.handled:
            number = identity(each.body)
            if number in seen and not each.redelivered:
                unmarked.add(number)
            seen.add(number)
        if len(unmarked) > republished:
            violations.append(f"handling: handled twice, not marked redelivered: {_some(unmarked)}")
        return violations + self._unexpected(self.handled)

    def _lost(self) -> list[str]:
        return [f"lost: confirmed and lost: {_some(self.lost)}"] if self.lost else []

    def _unexpected(self, seen: list[Receipt]) -> list[str]:
        violations = []
        strangers = self._ids(seen) - set(self.sent)
        if strangers:
            violations.append(f"unexpected: never sent: {_some(strangers)}")
        torn = [each.body[:40] for each in seen if identity(each.body) is None]
        if torn:
            violations.append(f"damage: {len(torn)} bodies are damaged: {torn[:_SHOWN]}")
        changed = {identity(each.body) for each in seen if not each.intact}
        if changed:
            violations.append(f"damage: properties are damaged: {_some(changed)}")
        return violations

    def _accounting(self, report: PublishReport) -> list[str]:
        violations = []
        reported = Counter(number for number, _ in self.fates)
        twice = {number for number, times in reported.items() if times > 1}
        if twice:
            violations.append(f"accounting: reported with two fates: {_some(twice)}")
        if unreported := set(self.sent) - set(reported):
            violations.append(f"accounting: reported with no fate: {_some(unreported)}")
        by_fate = Counter(fate for _, fate in self.fates)
        counted = ((fate, by_fate[fate], getattr(report, fate.value)) for fate in Fate)
        violations += [
            f"accounting: {ours} are {fate.value}, the report says {theirs}"
            for fate, ours, theirs in counted
            if ours != theirs
        ]
        total = report.confirmed + report.returned + report.nacked + report.refused + report.unknown
        if not report.published == total == len(self.sent):
            violations.append(
                f"accounting: {len(self.sent)} taken, {report.published} published, the report adds up to {total}"
            )
        if report.confirms and report.complete != (by_fate[Fate.CONFIRMED] == len(self.sent)):
            violations.append(
                f"completeness: complete is {report.complete}, and {len(self.sent)} sent: {dict(by_fate)}"
            )
        return violations

    def _surplus(self, republished: int) -> list[str]:
        surplus = len(self.found) - len({each.body for each in self.found})
        return [f"duplicates: {surplus}, but only {republished} were republished"] if surplus > republished else []

    def _disorder(self) -> list[str]:
        place = {number: index for index, number in enumerate(self.sent)}
        first = list(dict.fromkeys(number for each in self.found if (number := identity(each.body)) in place))
        wrong = [(one, next_) for one, next_ in pairwise(first) if place[one] > place[next_]]
        return [f"order: out of order, as {one} before {next_}" for one, next_ in wrong[:_SHOWN]]

    @staticmethod
    def _ids(seen: list[Receipt]) -> set[int]:
        return {number for each in seen if (number := identity(each.body)) is not None}


def _intact(properties: pika.BasicProperties) -> bool:
    expected = {
        "content_type": PROPERTIES.content_type,
        "headers": PROPERTIES.headers,
        "message_id": PROPERTIES.message_id,
        "delivery_mode": 2,
    }
    for name in QUORUM:
        (properties.headers or {}).pop(name, None)
    return {name: value for name, value in vars(properties).items() if value is not None} == expected


def _some(ids: set[int] | set[int | None]) -> str:
    shown = ", ".join(map(str, sorted(ids, key=str)[:_SHOWN]))
    return f"{len(ids)} ({shown}{', ...' if len(ids) > _SHOWN else ''})"
