"""Which contract bodies have to keep: that of a flag, or that of the topology applied last.

Comes in: flags, and what is remembered of a broker. Goes out: a Contract. Room: cli.
"""

from __future__ import annotations

from collections.abc import Iterator

from rmqkit.errors import PayloadError, Problem, TopologyError
from rmqkit.model import Exchange, Queue, Topology


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
