"""Contracts: checking that a body is JSON as a JSON Schema describes, or XML as an XML Schema (XSD) does.

A schema may refer to files in its folder or below. Nothing else is read, and nothing from a network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Literal

from rmqkit.errors import Location, PayloadError, SettingsError
from rmqkit.message import Message
from rmqkit.model import Contract, Topology
from rmqkit.payload.compression import contents
from rmqkit.payload.formats import Check

_FORMATS: dict[str, Literal["json", "xml"]] = {".json": "json", ".xsd": "xml"}


def from_schema(schema: str) -> Contract:
    """Return the contract of a schema file, by its suffix: .json or .xsd. Raises SettingsError."""
    suffix = PurePath(schema).suffix.lower()
    if suffix not in _FORMATS:
        raise SettingsError(
            f"{schema}: a schema is a JSON Schema (.json) or an XML Schema (.xsd)",
            advice="Rename the file, or convert it to one of them.",
        )
    return Contract(_FORMATS[suffix], schema)


def compile_contract(contract: Contract) -> Check:
    """Read a contract's schema, and return a function that refuses a body that breaks it; any thread may call that.

    Raises PayloadError with every problem of the schema, each with its file, line and column.

        check = rmqkit.compile_contract(rmqkit.Contract("json", "order.schema.json"))
        check(b'{"total": -1}', rmqkit.Location("an order"))
    """
    if contract.format == "json":
        from rmqkit.payload import json_schema  # noqa: PLC0415 - only the library that is needed is imported

        return json_schema.compile_schema(Path(contract.path))
    from rmqkit.payload import xml_schema  # noqa: PLC0415

    return xml_schema.compile_schema(Path(contract.path))


class Contracts:
    """The contracts of exchanges, and of queues for direct messages; a schema is read when it is first used."""

    def __init__(self, exchanges: Mapping[str, Contract], queues: Mapping[str, Contract]) -> None:
        self._exchanges, self._queues = exchanges, queues
        self._checks: dict[tuple[str, str], Check] = {}

    def of(self, exchange: str, routing_key: str) -> Contract | None:
        """Return the contract of a target."""
        return self._exchanges.get(exchange) if exchange else self._queues.get(routing_key)

    def check(self, exchange: str, routing_key: str) -> Check | None:
        """Return the check of a target's bodies. Raises PayloadError for a bad schema."""
        contract = self.of(exchange, routing_key)
        if contract is None:
            return None
        schema = contract.format, contract.path
        if schema not in self._checks:
            self._checks[schema] = compile_contract(contract)
        return self._checks[schema]

    def checked(self, messages: Iterable[Message | None]) -> Iterator[Message | None]:
        """Yield messages; raise PayloadError for the first that breaks its contract, with its number, from 1."""
        number = 0
        for message in messages:
            if message is not None:
                number += 1
                if check := self.check(message.exchange, message.routing_key):
                    where = Location(f"message {number}")
                    check(contents(message.body, message.properties.content_encoding, where), where)
            yield message


class ContractCache:
    """The contracts of the topology that was used last, cached because reading schemas takes time."""

    def __init__(self) -> None:
        self._last: tuple[Topology, Contracts] | None = None

    def of_topology(self, topology: Topology) -> Contracts:
        """Return the contracts of a topology."""
        if self._last is None or self._last[0] is not topology:
            exchanges = {each.name: each.contract for each in topology.exchanges if each.contract}
            queues = {each.name: each.contract for each in topology.queues if each.contract}
            self._last = topology, Contracts(exchanges, queues)
        return self._last[1]


def reason(error: PayloadError) -> str:
    """Describe a refusal on one line: each fault with its line and column in the body."""
    return "; ".join(f"{each.message} (at {each.where.line}:{each.where.column})" for each in error.problems)
