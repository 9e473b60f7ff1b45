"""Replace an exchange by another one of its name.

A message must not match some of the new bindings and miss others. So a temporary exchange is bound first as the new
exchange will be, and the new exchange is bound to it: each message reaches all of its queues, or none and its publisher
is informed. The broker delivers one copy, by however many bindings a queue is reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rmqkit.amqp import entity_methods
from rmqkit.deploy.replace.session import ReplaceResult, ReplaceSession
from rmqkit.deploy.replace.temporary_entities import MARKER, match_key
from rmqkit.errors import PropertyMismatch
from rmqkit.model import Binding, Exchange


@dataclass(frozen=True)
class ExchangeReplacement:
    """One exchange's replacement; `conflicting` tells that the old exchange exists."""

    session: ReplaceSession
    exchange: Exchange
    temporary: Exchange
    bindings: Sequence[Binding]
    conflicting: bool

    def run(self) -> None:
        """Replace the exchange, or resume doing so. Raises ReplaceStopped, ConnectionLost; another run resumes."""
        name, temporary, session = self.exchange.name, self.temporary.name, self.session
        outgoing = [each for each in self.bindings if each.source == name]
        incoming = [each for each in self.bindings if each.source != name]
        if self.conflicting:
            self._step("declaring a temporary exchange with the new bindings")
            bound = [replace(each, source=temporary) for each in outgoing] + list(map(self._to_temporary, incoming))
            session.declare(MARKER, self.temporary, Binding(MARKER.name, temporary, "exchange"), *bound)
            session.pause(session.pauses.on_disk_s)
        self._step("deleting it and declaring the new one")
        old = [entity_methods.delete_call(self.exchange)] if self.conflicting else []
        new = [*self._all_to_temporary(outgoing), *incoming]
        session.call(*old, entity_methods.declare_call(self.exchange), *map(entity_methods.declare_call, new))
        self._step("restoring its bindings")
        session.declare(*outgoing)
        session.pause(session.pauses.stale_s)
        self._step("deleting the temporary exchange")
        session.call(entity_methods.delete_call(self.temporary))

    def result(self, *, finished: bool) -> ReplaceResult:
        """Return the result so far."""
        return ReplaceResult("exchange", self.exchange.name, finished=finished)

    def _all_to_temporary(self, outgoing: Sequence[Binding]) -> list[Binding]:
        """Return a binding to the temporary exchange for each way a message may match; none if that has another type.

        It has when a run was killed, and then the file was changed back to match the broker.
        """
        try:
            self.session.declare(self.temporary)
        except PropertyMismatch:
            return []
        distinct = {match_key(each): each for each in outgoing}
        return list(map(self._to_temporary, distinct.values()))

    def _to_temporary(self, binding: Binding) -> Binding:
        return replace(binding, destination=self.temporary.name, destination_type="exchange")

    def _step(self, text: str) -> None:
        self.session.step(f"exchange {self.exchange.name!r}: {text}")
