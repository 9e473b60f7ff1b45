"""Call a Python function with each delivery; its result is the verdict."""

import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, TypeVar

from rmqkit.errors import HandlerError, OutputError, SettingsError
from rmqkit.handlers.handler import OUTPUT_CLOSED, HandledBatch, Handler, Source, is_output_closed
from rmqkit.message import Delivery, Verdict
from rmqkit.messaging.consumer import ACK_WITHIN_S
from rmqkit.messaging.rpc_server import OnFailure
from rmqkit.stop import Stop

HandlerFunction = Callable[[Delivery], Verdict | None]
F = TypeVar("F", bound=Callable[..., object])


def load(target: str) -> HandlerFunction:
    """Import `module:function`, also from the current folder. Raises SettingsError if it cannot take a delivery."""
    name, _, attribute = target.partition(":")
    if not name or not attribute:
        raise SettingsError(f"handler {target}: expected MODULE:FUNCTION, such as orders:bill")
    if os.getcwd() not in sys.path:  # noqa: PTH109 - text, as sys.path holds
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found: Any = import_module(name)
        for each in attribute.split("."):
            found = getattr(found, each)
        inspect.signature(found).bind(None)
    except (Exception, SystemExit) as exc:
        raise SettingsError(f"handler {target}: {type(exc).__name__}: {exc}") from exc
    function: HandlerFunction = require_plain(found)
    return function


class FunctionHandler(Handler):
    """Calls a function with one delivery after another; its output is flushed before a delivery counts as handled.

    A result of None means Verdict.ACK. If the function raises, the message is rejected, to be dead-lettered; the
    failure names the exception and its place but not its text, which may contain a part of the body. `on_failure` gets
    the exception. Raises SettingsError for a coroutine function.
    """

    def __init__(self, function: HandlerFunction, on_failure: OnFailure = lambda _delivery, _error: None) -> None:
        self._function = require_plain(function)
        self._on_failure = on_failure

    def handle(self, source: Source, stop: Stop) -> Iterator[HandledBatch]:
        """Call the function with the deliveries; a running call is always awaited.

        Raises HandlerError for a function that cannot be called again, OutputError when its output cannot be written.
        """
        for batch in source.batches():
            yield from self._call_each(batch, source, stop)

    def _call_each(self, batch: Sequence[Delivery], source: Source, stop: Stop) -> Iterator[HandledBatch]:
        done: list[Delivery] = []
        since_s = time.monotonic()
        for delivery in batch:
            if stop.requested or source.is_lost(delivery):
                break
            verdict, failure, detail = self._call(delivery, source)
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

    def _call(self, delivery: Delivery, source: Source) -> tuple[Verdict, str, str]:
        try:
            with source.handling((delivery,)):
                verdict = self._function(delivery)
        except Exception as exc:  # noqa: BLE001 - the user's code may raise anything
            _flush()
            self._on_failure(delivery, exc)
            last_line = traceback.format_exception_only(exc)[-1].strip()
            return Verdict.REJECT, f"the handler raised {name_and_line(exc)}", last_line
        except SystemExit as exc:
            raise HandlerError(f"the handler raised {name_and_line(exc)}") from exc
        return as_verdict(verdict, self._function), "", ""


def as_verdict(returned: object, function: Callable[..., object]) -> Verdict:
    """Return the verdict that a function returned; None means Verdict.ACK. Raises HandlerError for anything else."""
    if returned is None:
        return Verdict.ACK
    if isinstance(returned, Verdict):
        return returned
    raise wrong_result(returned, function, "a Verdict or None")


def wrong_result(returned: object, function: Callable[..., object], wanted: str) -> HandlerError:
    """Return the error about a value that means nothing: it names the function, and not the value."""
    return HandlerError(
        f"handler {name_of(function)} returned a value of type {type(returned).__name__} instead of {wanted};"
        " its message was requeued",
        advice="Return None to acknowledge the message, else Verdict.REJECT or Verdict.REQUEUE.",
    )


def require_plain(function: F) -> F:
    """Return a function that is called on a thread. Raises SettingsError for a coroutine function."""
    if inspect.iscoroutinefunction(function):
        raise SettingsError(
            f"handler {name_of(function)} is a coroutine function",
            advice="Coroutine functions run on an event loop: see `rmqkit.aio`.",
        )
    return function


def name_of(function: Callable[..., object]) -> str:
    """Return the module and the name of a function, or of the class of another callable."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _flush() -> None:
    """Flush the function's output. Raises OutputError: a closed output is not the message's fault."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError as exc:
        raise OutputError(OUTPUT_CLOSED) from exc
    except OSError as exc:
        raise OutputError(f"cannot write the output of the handler: {exc.strerror}") from exc
    if is_output_closed(1):
        raise OutputError(OUTPUT_CLOSED)


def name_and_line(exc: BaseException) -> str:
    """Return the name of an exception and the line that raised it, without its text."""
    place = traceback.extract_tb(exc.__traceback__)[-1]
    return f"{type(exc).__name__} in {place.filename}, line {place.lineno}"
