"""Deliveries to a Python function: what it returns is the verdict."""

from __future__ import annotations

import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

from rmqkit.errors import HandlerError, OutputError, SettingsError
from rmqkit.handlers.handler import HandledBatch, Source, readers_are_gone
from rmqkit.message import Delivery, Verdict
from rmqkit.messaging.rpc_server import OnFailure
from rmqkit.stop import Stop

Function = Callable[[Delivery], object]  # None or a Verdict, if it is right
ACK_WITHIN_S = 0.02  # an acknowledgement waits this long at most for others to go with it


def load(target: str) -> Function:
    """Import `module:function`, from the current folder too.

    Raises SettingsError when that is not there, or cannot be called with a delivery.
    """
    name, _, attribute = target.partition(":")
    if not name or not attribute:
        raise SettingsError(f"--handler {target}: write module:function, like orders:bill")
    if os.getcwd() not in sys.path:  # noqa: PTH109 - text, as sys.path holds
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found: Any = import_module(name)
        for each in attribute.split("."):
            found = getattr(found, each)
        inspect.signature(found).bind(None)
    except (Exception, SystemExit) as exc:
        raise SettingsError(f"--handler {target}: {type(exc).__name__}: {exc}") from exc
    if inspect.iscoroutinefunction(found):
        raise SettingsError(f"--handler {target}: it is a coroutine function; an ordinary one is called")
    return found  # type: ignore[no-any-return]


class FunctionHandler:
    """Calls a function with each delivery, one after the other; what it printed is out before it counts.

    None is taken for Verdict.ACK. A message on which it raises is rejected, to be dead-lettered; the failure names the
    exception and its place, and not its text, which may hold a piece of the body. `on_failure` gets the exception.
    """

    def __init__(self, function: Function, on_failure: OnFailure = lambda _delivery, _error: None) -> None:
        self._function = function
        self._on_failure = on_failure

    def handle(self, source: Source, stop: Stop) -> Iterator[HandledBatch]:
        """Call the function with what comes; a call that runs is always waited for.

        Raises HandlerError when it cannot go on with that function, OutputError when its output takes no more.
        """
        for batch in source.batches():
            yield from self._call_each(batch, stop)

    def close(self) -> None:
        """Do nothing: a call cannot be ended."""

    def _call_each(self, batch: Sequence[Delivery], stop: Stop) -> Iterator[HandledBatch]:
        done: list[Delivery] = []
        since_s = time.monotonic()
        for delivery in batch:
            if stop.requested:
                break
            verdict, failure, detail = self._call(delivery)
            if verdict is Verdict.ACK:
                done.append(delivery)
                if time.monotonic() - since_s < ACK_WITHIN_S:
                    continue
            if done:
                _flush()
                yield HandledBatch(done)
            if verdict is not Verdict.ACK:
                yield HandledBatch((delivery,), verdict, failure, detail)
            done, since_s = [], time.monotonic()
        if done:
            _flush()
            yield HandledBatch(done)

    def _call(self, delivery: Delivery) -> tuple[Verdict, str, str]:
        try:
            verdict = self._function(delivery)
        except Exception as exc:  # noqa: BLE001 - whatever the user's code raises
            _flush()
            self._on_failure(delivery, exc)
            last_line = traceback.format_exception_only(exc)[-1].strip()
            return Verdict.REJECT, f"the handler raised {name_of(exc)}", last_line
        except SystemExit as exc:
            raise HandlerError(f"the handler ended the run: it raised {name_of(exc)}") from exc
        if verdict is None:
            return Verdict.ACK, "", ""
        if not isinstance(verdict, Verdict):
            what = f"the handler returned a value of type {type(verdict).__name__}"
            raise HandlerError(f"{what}, and neither a Verdict nor None; its message is queued again")
        return verdict, "", ""


def _flush() -> None:
    """Write out what was printed; a reader that is gone is no fault of a message."""
    reason = ""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
            reason = "its reader is gone" if readers_are_gone(1) else ""
    except OSError as exc:
        reason = exc.strerror or ""
    if reason:
        raise OutputError(f"the output of the handler takes no more: {reason}")


def name_of(exc: BaseException) -> str:
    """Name an exception and the line it comes from; its traceback's last line without the text."""
    place = traceback.extract_tb(exc.__traceback__)[-1]
    return f"{type(exc).__name__} in {place.filename}, line {place.lineno}"
