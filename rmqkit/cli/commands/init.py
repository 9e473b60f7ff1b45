"""`rmqkit init`."""

from pathlib import Path
from typing import Annotated

import typer

from rmqkit.cli import files, output
from rmqkit.cli.options import Json, option
from rmqkit.errors import InputError
from rmqkit.topology import examples


def init(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="An example topology. [default: list all of them]")
    ] = "",
    folder: Annotated[str, typer.Argument(metavar="[FOLDER]", help="The folder to write its files to.")] = "topologies",
    *,
    force: Annotated[bool, option("--force", "Replace existing files.")] = False,
    json: Json = False,
) -> None:
    """Write an example topology into a folder, as a starting point for your own.

    The example's scenarios for `rmqkit test` and its contracts are written to the same folder.
    """
    if not name:
        _list(json=json)
        return
    source = examples.find(name)
    sources = sorted(source.parent.glob(f"{name}.*"))
    targets = [Path(folder) / each.name for each in sources]
    if not force and (existing := [target for target in targets if target.exists()]):
        raise InputError(f"{existing[0]} already exists", advice="Name another folder, or add --force.")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"folder {folder} cannot be created: {reason}") from error
    for each, target in zip(sources, targets, strict=True):
        files.write(str(target), examples.text(each), force=force)
    if json:
        output.out_json({"written": list(map(str, targets))})
        return
    output.out("\n".join(map(str, targets)))
    output.note(f"Declare it with `rmqkit apply {output.safe(str(Path(folder) / source.name))}`.")


def _list(*, json: bool) -> None:
    found = {name: examples.description(path) for name, path in examples.example_names().items()}
    if json:
        output.out_json(found)
    else:
        output.out(output.table(list(found.items()), header=("NAME", "TOPOLOGY"), shortened=(1,)))
