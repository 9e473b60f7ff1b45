"""The ledger of a fault test: what was sent, what rmqkit said of it, and what an independent client found. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pika

from rmqkit.message import Delivery, Message, Properties
from rmqkit.report import Fate, PublishReport

PROPERTIES = Properties(content_type="text/plain", headers={"ledger": "kept"}, message_id="of the ledger")
QUORUM = "x-delivery-count"  # a quorum queue's own header, on what it gives out again
_SHOWN = 5  # ids in a violation


def body(number: int, padding: int = 0) -> bytes:
    """Return a body that tells its id, and whether a byte of it is missing or wrong."""
    return b"%d %s %s" % (number, _digest(number, padding), b"." * padding)


def identity(data: bytes) -> int | None:
    """Return the id of a body; None when it is not, byte for byte, one of ours."""
    number, _, rest = data.partition(b" ")
    padding = len(rest) - 65
    whole = number.isdigit() and data == body(int(number), padding)
    return int(number) if whole else None


def _digest(number: int, padding: int) -> bytes:
    return hashlib.sha256(b"%d,%d" % (number, padding)).hexdigest().encode()


@dataclass(frozen=True)
class Seen:
    """A message as a client got it."""

    body: bytes
    redelivered: bool = False
    intact: bool = True  # its properties are those it was sent with


@dataclass
class Ledger:
    """The books of one queue. `padding` makes bodies of 0 to so many bytes more, by their id."""

    queue: str
    padding: int = 0
    sent: list[int] = field(default_factory=list)  # A, in the order of the input
    fates: list[tuple[int, Fate]] = field(default_factory=list)  # C, F and U, in the order they were told
    found: list[Seen] = field(default_factory=list)  # Q, in the order of the queue
    handled: list[Seen] = field(default_factory=list)  # H, noted before the acknowledgement

    def messages(self, ids: Iterable[int]) -> Iterator[Message]:
        """Yield the messages of some ids, and enter each when it is taken."""
        for number in ids:
            self.sent.append(number)
            yield Message(body(number, number % (self.padding + 1)), self.queue, properties=PROPERTIES)

    def settled(self, _index: int, message: Message, fate: Fate) -> None:
        """Enter a fate: for `on_settled`."""
        number = identity(message.body)
        assert number is not None
        self.fates.append((number, fate))

    def handle(self, delivery: Delivery) -> None:
        """Enter a delivery, before it is acknowledged."""
        headers = dict(delivery.properties.headers or {})
        headers.pop(QUORUM, None)
        intact = replace(delivery.properties, headers=headers) == PROPERTIES
        self.handled.append(Seen(delivery.body, delivery.redelivered, intact))

    def drain(self, url: str) -> None:
        """Empty the queue by plain pika, and enter what was in it."""
        connection = pika.BlockingConnection(pika.URLParameters(url))
        channel = connection.channel()
        channel.basic_qos(prefetch_count=1000)
        left = channel.queue_declare(self.queue, passive=True).method.message_count
        for method, properties, data in channel.consume(self.queue, inactivity_timeout=5) if left else ():
            assert method is not None, f"{left} messages were counted and do not come"
            self.found.append(Seen(data, method.redelivered, _intact(properties)))
            left -= 1
            if not left:
                channel.basic_ack(method.delivery_tag, multiple=True)
                break
            if left % 500 == 0:
                channel.basic_ack(method.delivery_tag, multiple=True)
        connection.close()

    def ids(self, *fates: Fate) -> set[int]:
        """Return the ids that were told these fates."""
        return {number for number, fate in self.fates if fate in fates}

    @property
    def lost(self) -> set[int]:
        """Return what was confirmed and seen by nobody."""
        return self.ids(Fate.CONFIRMED) - self._ids(self.found) - self._ids(self.handled)

    @property
    def duplicates(self) -> int:
        """Count the copies that were seen beyond the first."""
        seen = [*self.found, *self.handled]
        return len(seen) - len({each.body for each in seen})

    # What must hold.

    def violations(self, report: PublishReport, *, ordered: bool = True) -> list[str]:
        """Check publishing: I1 to I6."""
        return [
            *self._lost(),
            *self._unexpected(self.found),
            *self._books(report),
            *self._surplus(report.republished),
            *(self._disorder() if ordered else ()),
        ]

    def consumer_violations(self, ready: int, unacked: int, republished: int = 0) -> list[str]:
        """Check consuming, I7: all is handled and nothing is left; what came twice is marked or was sent twice."""
        missing = self.ids(Fate.CONFIRMED) - self._ids(self.handled)
        trouble = [f"I7: never handled: {_some(missing)}"] if missing else []
        if ready or unacked:
            trouble.append(f"I7: {ready} ready and {unacked} unacknowledged messages are left")
        seen: set[int | None] = set()
        unmarked = set()
        for each in self.handled:
            number = identity(each.body)
            if number in seen and not each.redelivered:
                unmarked.add(number)
            seen.add(number)
        if len(unmarked) > republished:
            trouble.append(f"I7: handled twice, not marked redelivered: {_some(unmarked)}")
        return trouble + self._unexpected(self.handled)

    def _lost(self) -> list[str]:
        return [f"I1: confirmed and lost: {_some(self.lost)}"] if self.lost else []

    def _unexpected(self, seen: list[Seen]) -> list[str]:
        trouble = []
        strangers = self._ids(seen) - set(self.sent)
        if strangers:
            trouble.append(f"I2: never sent: {_some(strangers)}")
        torn = [each.body[:40] for each in seen if identity(each.body) is None]
        if torn:
            trouble.append(f"I6: {len(torn)} bodies are damaged: {torn[:_SHOWN]}")
        changed = {identity(each.body) for each in seen if not each.intact}
        if changed:
            trouble.append(f"I6: properties are damaged: {_some(changed)}")
        return trouble

    def _books(self, report: PublishReport) -> list[str]:
        trouble = []
        told = Counter(number for number, _ in self.fates)
        twice = {number for number, times in told.items() if times > 1}
        if twice:
            trouble.append(f"I3: told two fates: {_some(twice)}")
        if untold := set(self.sent) - set(told):
            trouble.append(f"I3: told no fate: {_some(untold)}")
        by_fate = Counter(fate for _, fate in self.fates)
        counted = ((fate, by_fate[fate], getattr(report, fate.value)) for fate in Fate)
        trouble += [
            f"I3: {told} are {fate.value}, the report says {says}" for fate, told, says in counted if told != says
        ]
        total = report.confirmed + report.returned + report.nacked + report.refused + report.unknown
        if not report.published == total == len(self.sent):
            trouble.append(f"I3: {len(self.sent)} taken, {report.published} published, the report adds up to {total}")
        if report.confirms and report.complete != (by_fate[Fate.CONFIRMED] == len(self.sent)):
            trouble.append(f"I8: complete is {report.complete}, and {len(self.sent)} sent: {dict(by_fate)}")
        return trouble

    def _surplus(self, republished: int) -> list[str]:
        surplus = len(self.found) - len({each.body for each in self.found})
        return [f"I4: {surplus} duplicates, but only {republished} were republished"] if surplus > republished else []

    def _disorder(self) -> list[str]:
        place = {number: index for index, number in enumerate(self.sent)}
        first = list(dict.fromkeys(number for each in self.found if (number := identity(each.body)) in place))
        wrong = [(one, next_) for one, next_ in pairwise(first) if place[one] > place[next_]]
        return [f"I5: out of order, as {one} before {next_}" for one, next_ in wrong[:_SHOWN]]

    @staticmethod
    def _ids(seen: list[Seen]) -> set[int]:
        return {number for each in seen if (number := identity(each.body)) is not None}


def _intact(properties: pika.BasicProperties) -> bool:
    expected = {
        "content_type": PROPERTIES.content_type,
        "headers": PROPERTIES.headers,
        "message_id": PROPERTIES.message_id,
        "delivery_mode": 2,
    }
    (properties.headers or {}).pop(QUORUM, None)
    return {name: value for name, value in vars(properties).items() if value is not None} == expected


def _some(ids: set[int] | set[int | None]) -> str:
    shown = ", ".join(map(str, sorted(ids, key=str)[:_SHOWN]))
    return f"{len(ids)} ({shown}{', ...' if len(ids) > _SHOWN else ''})"
