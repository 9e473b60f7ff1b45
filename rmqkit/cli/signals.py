"""Run a command under signals: the first one requests a stop, a second one ends the command at once."""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, Self

import typer

from rmqkit import exit_codes
from rmqkit.stop import Stop, StoppedAtOnce, StopRequested

_STOPPING = b"\nStopping: finishing messages in progress. Press Ctrl-C again to stop now.\n"


class Signals:
    """Handle SIGINT, SIGTERM and SIGHUP while the block runs: the first requests a stop, a second raises StoppedAtOnce.

    `received` is the number of the first signal, 0 for none. An ignored SIGHUP, as under nohup, stays ignored; a second
    one is ignored, because a closed terminal sends it twice, through the shell and from the kernel. On a terminal
    a notice says how to stop at once, unless it is `silent`.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self.stop = Stop()
        self._silent = silent
        self.received = 0

    def __enter__(self) -> Self:
        is_hangup_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        numbers = (signal.SIGINT, signal.SIGTERM, *(() if is_hangup_ignored else (signal.SIGHUP,)))
        self._before = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, _exit if self.received else handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received:
            if number == signal.SIGHUP:
                return
            raise StoppedAtOnce
        self.received = number
        if os.isatty(2) and not self._silent:
            os.write(2, _STOPPING)
        self.stop.request()


def _exit(number: int, _frame: FrameType | None) -> None:
    """Exit at once: only reporting is left to do by now."""
    os._exit(exit_codes.SIGNALLED + number)


def run_and_exit(body: Callable[[Stop], int]) -> NoReturn:
    """Run the body of a command under signals, and exit with the code it returns.

    After a signal, a code of 0 becomes 128 plus the signal's number. A body that can report the work done until a
    second signal catches StoppedAtOnce itself.
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
