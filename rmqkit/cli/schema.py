"""`rmqkit schema`.

Comes in: which kind of file. Goes out: its JSON Schema on standard output. Room: cli.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from rmqkit.cli import output


class Kind(StrEnum):
    """Which kind of file a schema is of."""

    TOPOLOGY = "topology"
    SCENARIOS = "scenarios"


def schema(
    kind: Annotated[
        Kind, typer.Argument(metavar="KIND", help="topology, or scenarios: see rmqkit test.")
    ] = Kind.TOPOLOGY,
) -> None:
    """Print the JSON Schema of topology files, or of scenario files, for editors.

    It is the schema that `rmqkit apply` or `rmqkit test` checks files with.
    """
    from rmqkit.topology.schema import SCENARIOS, TOPOLOGY, schema_text  # noqa: PLC0415 - start-up time

    output.out(schema_text(SCENARIOS if kind is Kind.SCENARIOS else TOPOLOGY).rstrip("\n"))
