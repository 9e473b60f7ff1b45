"""An exchange gives way to another one of its name.

A message must not find some of the new bindings and miss others. So a stand-in, the gate, is bound first as the new
exchange will be, and the new exchange is bound to it: each message reaches all of its queues, or none and its publisher
hears of it. The broker delivers one copy, by however many ways a queue is reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rmqkit.amqp import declare_methods
from rmqkit.amqp.channel import MethodCall
from rmqkit.deploy.replace.session import ReplaceSession
from rmqkit.deploy.replace.temporary_entities import MARKER, way_key
from rmqkit.errors import PropertyMismatch
from rmqkit.model import Binding, Exchange


@dataclass(frozen=True)
class ExchangeReplacement:
    """One exchange's replacement; `conflicting` tells that the old exchange is there."""

    site: ReplaceSession
    exchange: Exchange
    gate: Exchange
    bindings: Sequence[Binding]
    conflicting: bool

    def run(self) -> None:
        """Replace the exchange, from wherever a run before this one ended.

        Raises Stopped, ConnectionLost; then another run goes on.
        """
        name, gate, do = self.exchange.name, self.gate.name, self.site.do
        outgoing = [each for each in self.bindings if each.source == name]
        incoming = [each for each in self.bindings if each.source != name]
        if self.conflicting:
            self._step("declare its gate, and bind that as it will be bound")
            bound = (*(replace(each, source=gate) for each in outgoing), *(self._to_gate(each) for each in incoming))
            do(*_declaring(MARKER, self.gate, Binding(MARKER.name, gate, "exchange"), *bound))
            self.site.pause(self.site.pauses.on_disk_s)
        self._step("delete it and declare it anew")
        old = [declare_methods.delete_call(self.exchange)] if self.conflicting else []
        do(*old, *_declaring(self.exchange, *self._gates(outgoing), *incoming))
        self._step("bind it")
        do(*_declaring(*outgoing))
        self.site.pause(self.site.pauses.stale_s)
        self._step("remove its gate")
        do(declare_methods.delete_call(self.gate))

    def _gates(self, outgoing: Sequence[Binding]) -> list[Binding]:
        """Return a binding to the gate for each way a message may match; none if the gate is of another type.

        It is when a run was killed, and then the file was changed back to what is there.
        """
        try:
            self.site.do(declare_methods.declare_call(self.gate))
        except PropertyMismatch:
            return []
        ways = {way_key(each): each for each in outgoing}
        return [self._to_gate(each) for each in ways.values()]

    def _to_gate(self, binding: Binding) -> Binding:
        return replace(binding, destination=self.gate.name, destination_type="exchange")

    def _step(self, what: str) -> None:
        self.site.step(f"exchange {self.exchange.name!r}: {what}")


def _declaring(*entities: Exchange | Binding) -> list[MethodCall]:
    return [declare_methods.declare_call(each) for each in entities]
