"""`rmqkit demo`: a messaging pattern at work on a private broker, with a count of lost messages."""

import difflib
import inspect
import signal
import sys
from typing import Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import output
from rmqkit.cli.demos import PATTERNS
from rmqkit.cli.options import Json, option

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHARED = [name for name, pattern in PATTERNS.items() if pattern.workers]


def _complete(incomplete: str) -> list[tuple[str, str]]:
    return [(name, pattern.sentence) for name, pattern in PATTERNS.items() if name.startswith(incomplete)]


def demo(
    name: Annotated[
        str, typer.Argument(metavar="[PATTERN]", help="One of the patterns above.", autocompletion=_complete)
    ] = "work",
    count: Annotated[
        int | None, option("-n --count N", "Number of messages, or calls, published at a time.", min=1)
    ] = None,
    workers: Annotated[
        int | None,
        option(
            "--workers N",
            f"Number of processes that share the work, for {', '.join(_SHARED)}. [default: 3]",
            min=1,
            max=64,
        ),
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Demonstrate a pattern on a private RabbitMQ node, which is removed afterward.

    It shows the commands as you would type them. The exit code is 0 only if every message, and no other, arrived where
    it should.
    """
    if not (pattern := PATTERNS.get(name)):
        close = difflib.get_close_matches(name, PATTERNS, 1)
        advice = f"Did you mean {close[0]}?" if close else f"The patterns are {', '.join(PATTERNS)}."
        raise typer.BadParameter(f"unknown pattern {name!r}. {advice}")
    if workers and not pattern.workers:
        raise typer.BadParameter(f"the pattern {name} has no workers: --workers is for {', '.join(_SHARED)}")
    for number in _SIGNALS:
        signal.signal(number, _exit)
    from rmqkit.cli.demos import runner  # noqa: PLC0415 - completion of pattern names loads no pika

    with (
        runner.private_broker(clustered=pattern.clustered) as broker,
        runner.DemoRunner(pattern, broker, count, workers) as demo_runner,
    ):
        result = demo_runner.run_demo()
    if json:
        output.out_json(result.numbers)
    else:
        output.out(f"\n{result.text}")
    raise typer.Exit(exit_codes.DONE if result.complete else exit_codes.NOT_CONFIRMED)


_WIDTH = max(map(len, PATTERNS))
demo.__doc__ = f"{inspect.cleandoc(demo.__doc__ or '')}\n\n\b\n" + "\n".join(  # Python 3.13 dedents it already
    f"{name:<{_WIDTH}}  {pattern.sentence}" for name, pattern in PATTERNS.items()
)


def _exit(number: int, _frame: object) -> None:
    """Unwind, so that the node and the processes end; further signals do not interrupt that."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(exit_codes.SIGNALLED + number)
