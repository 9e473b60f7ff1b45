"""`rmqkit schema`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from rmqkit.cli import output


class SchemaKind(StrEnum):
    """Which kind of file a schema is of."""

    TOPOLOGY = "topology"
    SCENARIOS = "scenarios"


def schema(
    kind: Annotated[
        SchemaKind, typer.Argument(metavar="KIND", help="topology, or scenarios: see rmqkit test.")
    ] = SchemaKind.TOPOLOGY,
) -> None:
    """Print the JSON Schema of topology files, or of scenario files, for editors.

    It is the schema that `rmqkit apply` or `rmqkit test` checks files with.
    """
    from rmqkit.topology.file.schema import SCENARIOS, TOPOLOGY, schema_text  # noqa: PLC0415 - start-up time

    output.out(schema_text(SCENARIOS if kind is SchemaKind.SCENARIOS else TOPOLOGY).rstrip("\n"))
