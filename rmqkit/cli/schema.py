"""`rmqkit schema`.

Comes in: nothing. Goes out: the JSON Schema on standard output. Room: cli.
"""

from __future__ import annotations

from rmqkit.cli import output


def schema() -> None:
    """Print the JSON Schema of a topology file, for editors.

    It is the schema that `rmqkit apply` checks files with.
    """
    from rmqkit.topology.schema import schema_text  # noqa: PLC0415 - start-up time

    output.out(schema_text().rstrip("\n"))
