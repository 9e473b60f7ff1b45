"""`rmqkit demo`: a messaging pattern at work, on a node of its own, with a count of what was lost."""

from __future__ import annotations

import difflib
import signal
import sys
from typing import Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import output
from rmqkit.cli.demos import PATTERNS
from rmqkit.cli.options import Json

_SHARED = [name for name, pattern in PATTERNS.items() if pattern.workers]


def _complete(incomplete: str) -> list[tuple[str, str]]:
    return [(name, pattern.sentence) for name, pattern in PATTERNS.items() if name.startswith(incomplete)]


def demo(
    name: Annotated[
        str, typer.Argument(metavar="[PATTERN]", help="Which pattern; see above.", autocompletion=_complete)
    ] = "work",
    count: Annotated[
        int | None,
        typer.Option(
            "-n", "--count", metavar="N", min=1, help="How many messages, or calls, at a time.", show_default=False
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=64,
            help=f"How many processes share the work: 3 if not given. For {', '.join(_SHARED)}.",
            show_default=False,
        ),
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Show a pattern at work, on a private RabbitMQ node that is removed afterwards.

    The commands are those you would type. Exits with 0 only if all came that should, where it should, and nothing else.
    """
    if not (pattern := PATTERNS.get(name)):
        close = difflib.get_close_matches(name, PATTERNS, 1)
        advice = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(PATTERNS)}."
        raise typer.BadParameter(f"{name!r} is no pattern. {advice}", param_hint="PATTERN")
    if workers and not pattern.workers:
        raise typer.BadParameter(f"nobody shares work in {name}: --workers is for {', '.join(_SHARED)}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit)
    from rmqkit.cli.demos.runner import DemoRunner  # noqa: PLC0415 - start-up time

    with pattern.place() as place, DemoRunner(place, count or pattern.count, workers or pattern.workers or 1) as stage:
        result = pattern.run(stage)
    if json:
        output.out_json(result.numbers)
    else:
        output.out(f"\n{result.text}")
    raise typer.Exit(exit_codes.DONE if result.complete else exit_codes.NOT_CONFIRMED)


_WIDTH = max(map(len, PATTERNS))
demo.__doc__ = f"{demo.__doc__}\n    \b\n" + "\n".join(
    f"    {name:<{_WIDTH}}  {pattern.sentence}" for name, pattern in PATTERNS.items()
)


def _exit(number: int, _frame: object) -> None:
    """Unwind, so that the node and the processes end; whoever is impatient waits for that."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(exit_codes.SIGNALLED + number)
