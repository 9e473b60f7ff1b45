"""`rmqkit schema`."""

from enum import StrEnum
from typing import Annotated

import typer

from rmqkit.cli import output
from rmqkit.topology.file.schema import SCENARIOS, TOPOLOGY, schema_text


class SchemaKind(StrEnum):
    """The kind of file that a schema describes."""

    TOPOLOGY = "topology"
    SCENARIOS = "scenarios"


def schema(
    kind: Annotated[
        SchemaKind, typer.Argument(metavar="KIND", help="topology, or scenarios for `rmqkit test`.")
    ] = SchemaKind.TOPOLOGY,
) -> None:
    """Print the JSON Schema of topology files, or of scenario files, for editors.

    `rmqkit apply` and `rmqkit test` check files with the same schema.
    """
    output.out(schema_text(SCENARIOS if kind is SchemaKind.SCENARIOS else TOPOLOGY).rstrip("\n"))
