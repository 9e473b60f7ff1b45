"""The command line: parse into one typed object, call one function, render, exit."""

import os

from rmqkit.cli import completion


def main() -> None:
    """Run the `rmqkit` command and exit with its code."""
    if completion.VARIABLE in os.environ and completion.run():
        return
    try:
        from rmqkit.cli.app import main as run  # noqa: PLC0415 - importing rmqkit.cli stays free of Typer
    except KeyboardInterrupt:  # Ctrl-C while Python is still importing
        raise SystemExit(130) from None
    run()
