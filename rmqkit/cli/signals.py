"""Run a command under signals: the first one requests a stop, a second one ends the command at once."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, Self

import typer

from rmqkit import exit_codes
from rmqkit.stop import Stop, StoppedAtOnce, StopRequested

_RECEIVED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_NUDGE = signal.SIGURG  # ignored by default
_NUDGE_EVERY_S = 0.1
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
        ignored = [number for number in (signal.SIGHUP,) if signal.getsignal(number) is signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._receive) for number in _RECEIVED if number not in ignored}
        self._nudger = _Nudger()
        return self

    def __exit__(self, *_: object) -> None:
        self._nudger.close()
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


class _Nudger:
    """Have the main thread handle each signal soon, even one that arrived just before a system call blocked it.

    Python calls handlers between two instructions of the main thread; a further signal interrupts the system call.
    """

    def __init__(self) -> None:
        self._handled = self._closed = False
        self._main = threading.get_ident()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = (
            signal.signal(_NUDGE, self._handle),
            signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False),
        )
        threading.Thread(target=self._run, name="rmqkit-signals", daemon=True).start()

    def close(self) -> None:
        """Stop; signals are handled as before."""
        handler, descriptor = self._before
        signal.set_wakeup_fd(descriptor)
        signal.signal(_NUDGE, handler)
        self._closed = True
        os.close(self._writer)  # ends the thread

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._handled = True  # and so were the others: Python calls handlers in the order of their numbers

    def _run(self) -> None:
        while numbers := os.read(self._reader, 1024):  # written when they arrive
            if {*_RECEIVED}.isdisjoint(numbers):
                continue
            self._handled = False
            while not (self._handled or self._closed):
                signal.pthread_kill(self._main, _NUDGE)
                time.sleep(_NUDGE_EVERY_S)
        os.close(self._reader)


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
