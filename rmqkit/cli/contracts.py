"""Which contract bodies have to keep: that of a flag, or that of the topology applied last.

Comes in: flags, and what is remembered of a broker. Goes out: a Contract. Room: cli.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from rmqkit.cli import output, remembered
from rmqkit.errors import PayloadError, Problem, SettingsError, TopologyError
from rmqkit.model import Contract, Exchange, Queue, Target, Topology
from rmqkit.settings import Settings


def _contract(*names: str, metavar: str | None = None, help: str) -> Any:  # noqa: A002 - Typer's word
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel="Contract", show_default=False)


@dataclass(frozen=True, slots=True)
class SchemaOptions:
    """What bodies have to be, beyond their format."""

    schema: Annotated[
        str | None,
        _contract(
            "--schema",
            metavar="FILE",
            help="What every body has to be: a JSON Schema (.json) or an XML Schema (.xsd). Else the contract of the"
            " topology applied last, if it has one.",
        ),
    ] = None
    no_schema: Annotated[bool, _contract("--no-schema", help="Check no body against a contract.")] = False

    def given(self) -> Contract | None:
        """Return the contract that was named; raise a usage error, or SettingsError."""
        from rmqkit.payload.contracts import of_schema  # noqa: PLC0415 - start-up time

        if self.schema is not None and self.no_schema:
            raise typer.BadParameter("--schema and --no-schema contradict each other")
        return None if self.schema is None else of_schema(self.schema)

    def for_target(self, target: Target, settings: Settings) -> Contract | None:
        """Return the contract of what is published to a target: of its exchange, or of the queue it means."""
        if (given := self.given()) or self.no_schema:
            return given
        applied = remembered.recall(settings)
        contracts = {} if applied is None else applied.exchanges if target.exchange else applied.queues
        return _told(contracts.get(target.exchange or target.routing_key), str(target), applied)

    def for_queue(self, queue: str, settings: Settings) -> Contract | None:
        """Return the contract of what is in a queue."""
        return self.for_target(Target("", queue), settings)


@dataclass(frozen=True, slots=True)
class ConsumedSchemaOptions(SchemaOptions):
    """What bodies have to be, and where those go that are not."""

    invalid_to: Annotated[
        str | None,
        _contract(
            "--invalid-to",
            metavar="QUEUE",
            help="Where messages go that break the contract, with the reason in a header. Else the dead-letter exchange"
            " that the topology applied last has for the queue; without one they are rejected.",
        ),
    ] = None

    def target(self, queue: str, settings: Settings) -> Target | None:
        """Return where invalid messages of a queue go; None to reject them. Raises SettingsError for a circle."""
        applied = remembered.recall(settings)
        known = applied.dead_letters.get(queue) if applied else None
        target = known if self.invalid_to is None else Target("", self.invalid_to)
        if target in (Target("", queue), Target("", "")):
            raise SettingsError(
                f"what breaks its contract would come back into queue {queue!r} for ever",
                advice="Name another queue with --invalid-to.",
            )
        return target


def _told(contract: Contract | None, about: str, applied: remembered.Remembered | None) -> Contract | None:
    """Say on standard error whose contract it is."""
    if contract and applied:
        files = output.safe(", ".join(applied.files))
        output.note(
            f"Checking against {output.safe(contract.schema)}, the contract of {output.safe(about)} in {files}."
        )
    return contract


def check(topology: Topology) -> None:
    """Read the schemas of all contracts. Raises TopologyError with what is wrong with them, and where each is named."""
    from rmqkit.topology.loader import headline  # noqa: PLC0415 - start-up time

    if problems := list(_problems(topology)):
        raise TopologyError(headline(problems), problems=problems)


def _problems(topology: Topology) -> Iterator[Problem]:
    entities: list[Exchange | Queue] = [*topology.exchanges, *topology.queues]
    for entity in entities:
        if (contract := entity.contract) and contract.where:
            from rmqkit.payload.contracts import compile_contract  # noqa: PLC0415 - few topologies have any

            try:
                compile_contract(contract)
            except PayloadError as exc:
                about = f"the contract of {type(entity).__name__.lower()} {entity.name!r}"
                yield from (Problem(contract.where, f"{about}: {problem}") for problem in exc.problems)
