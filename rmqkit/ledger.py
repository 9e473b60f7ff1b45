"""A ledger for tests of services: which messages went in, which came out, and what was lost or doubled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable

from rmqkit.connection import Connection
from rmqkit.message import Message
from rmqkit.report import Fate, PublishReport

_SHOWN = 5  # keys in an error


class Ledger:
    """Compares what a service was given with what it did, by keys that identify messages, such as order numbers."""

    def __init__(self) -> None:
        self._fates: dict[Hashable, Fate] = {}
        self._arrived: Counter[Hashable] = Counter()

    def publish(
        self, connection: Connection, messages: Iterable[Message], key: Callable[[Message], Hashable]
    ) -> PublishReport:
        """Publish messages and record the fate of each: see `Connection.publish`, which raises no NotConfirmed here."""

        def record(_index: int, message: Message, fate: Fate) -> None:
            self.sent(key(message), fate)

        return connection.publish(messages, check=False, on_settled=record)

    def sent(self, key: Hashable, fate: Fate = Fate.CONFIRMED) -> None:
        """Record a message that was published in another way; only a confirmed one has to arrive."""
        self._fates[key] = fate

    def arrived(self, key: Hashable) -> None:
        """Record that a message arrived where it should, once for each time."""
        self._arrived[key] += 1

    @property
    def lost(self) -> list[Hashable]:
        """Return the keys of confirmed messages that did not arrive, in the order of their outcomes."""
        return [key for key, fate in self._fates.items() if fate is Fate.CONFIRMED and key not in self._arrived]

    @property
    def doubled(self) -> dict[Hashable, int]:
        """Return how often each message arrived that arrived more than once."""
        return {key: times for key, times in self._arrived.items() if times > 1}

    @property
    def unexpected(self) -> list[Hashable]:
        """Return the keys of messages that arrived and were not sent."""
        return [key for key in self._arrived if key not in self._fates]

    def check(self, *, may_double: bool = False) -> None:
        """Raise AssertionError, with examples, if messages were lost, unexpected or, unless they may be, doubled."""
        found = {"lost": self.lost, "unexpected": self.unexpected, "doubled": [] if may_double else list(self.doubled)}
        faults = [
            f"{len(keys)} {name}: {', '.join(map(repr, keys[:_SHOWN]))}{', ...' * (len(keys) > _SHOWN)}"
            for name, keys in found.items()
            if keys
        ]
        if faults:
            raise AssertionError(f"of {len(self._fates)} messages, {'; '.join(faults)}")
