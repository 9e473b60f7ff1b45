"""SIGINT and SIGTERM as a request to stop, and a second one as an order."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, Self

import typer

from rmqkit import exit_codes
from rmqkit.stop import Stop, StopRequested

_NOTICE = b"\nStopping: what was begun is finished first. Once more stops at once.\n"


class StoppedAtOnce(BaseException):
    """Raised in the main thread, wherever it is, by a second signal: what is under way is given up."""


def _leave(number: int, _frame: FrameType | None) -> None:
    """End: all that is left to do, when this is called, is to tell what was done."""
    os._exit(exit_codes.SIGNALLED + number)


class Signals:
    """For as long as the block runs, the first signal requests a stop and the second raises StoppedAtOnce.

    `received` is the first signal's number, 0 for none.
    """

    def __init__(self) -> None:
        self.stop = Stop()
        self.received = 0

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, _leave if self.received else handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received:
            raise StoppedAtOnce
        self.received = number
        if os.isatty(2):
            os.write(2, _NOTICE)
        self.stop.request()


def run(body: Callable[[Stop], int]) -> NoReturn:
    """Run the body of a command and exit with its code; the first signal requests a stop, the second ends it at once.

    After a signal, a code of 0 becomes 128 plus the signal's number. A body that can report what it did until a second
    signal catches StoppedAtOnce itself.
    """
    with Signals() as signals:
        try:
            code = body(signals.stop)
        except StopRequested:  # before there was anything to report
            code = exit_codes.DONE
        except StoppedAtOnce:
            os._exit(exit_codes.SIGNALLED + signals.received)  # closing would wait for the broker
        if code == exit_codes.DONE and signals.received:
            code = exit_codes.SIGNALLED + signals.received
    raise typer.Exit(code)
