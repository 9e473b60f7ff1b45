"""Handlers without a broker: timeouts, back-off, and options that are refused before anything is consumed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import typer

from rmqkit.cli.handler_options import HandlerOptions, PrintFormat
from rmqkit.errors import RmqkitError, SettingsError
from rmqkit.handlers import command, function
from rmqkit.handlers.command import CommandHandler
from rmqkit.handlers.handler import HandledBatch
from rmqkit.message import Delivery, Verdict
from rmqkit.messaging.acknowledger import RequeueBackoff
from rmqkit.stop import Stop
from tests.support.interrupt import interrupt
from tests.support.origin import FakeOrigin
from tests.support.wait import wait_until


class _Source:
    """Yields one batch, then waits for a stop."""

    def __init__(self, stop: Stop, *bodies: bytes) -> None:
        self._stop = stop
        self._batch = [Delivery(body, tag, False, FakeOrigin()) for tag, body in enumerate(bodies, 1)]
        self._woken = threading.Event()

    def batches(self, *, busy: Callable[[], bool] = lambda: False) -> Iterator[list[Delivery]]:  # noqa: ARG002
        yield self._batch
        while not self._stop.requested:
            self._woken.wait(0.01)
            self._woken.clear()
            yield []

    def is_lost(self, _delivery: Delivery) -> bool:
        return False

    def handling(self, _deliveries: Sequence[Delivery]) -> AbstractContextManager[object]:
        return nullcontext()

    def wake(self, _after_s: float = 0.0) -> None:
        self._woken.set()


def _run(handler: CommandHandler, stop: Stop, *bodies: bytes) -> list[HandledBatch]:
    return list(handler.handle(_Source(stop, *bodies), stop))


def test_an_interrupt_at_any_step_of_starting_a_command_leaves_none_running() -> None:
    class Started(Exception):
        pass

    def on_slow() -> None:
        raise Started

    reached = False
    for step in range(1, 1000):
        before = _children()
        handler = CommandHandler(("/bin/sleep", "sleep", "60"), "q")
        delivery = Delivery(b"", 1, False, FakeOrigin())
        try:
            interrupt(lambda: handler.run(delivery, on_slow=on_slow), step)  # noqa: B023 - called at once
        except Started:
            reached = True
        finally:
            handler.close()
        for process in _children() - before:
            try:
                wait_until(lambda: os.waitpid(process, os.WNOHANG)[0], f"step {step}", timeout_s=10)  # noqa: B023
            except BaseException:
                os.kill(process, signal.SIGKILL)
                raise
        if reached:
            break
    assert reached
    assert step > 10


def _children() -> set[int]:
    return {int(child) for file in Path("/proc/self/task").glob("*/children") for child in file.read_text().split()}


def test_commands_that_outlast_the_grace_period_are_ended_and_their_messages_requeued(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "KILL_AFTER_S", 0.3)
    ready = tmp_path / "ready"
    stubborn = f"trap '' TERM; touch {ready}; while :; do sleep 0.1; done"
    handler = CommandHandler(("/bin/sh", "sh", "-c", stubborn), "q", grace_s=0.3)
    stop = Stop()

    def request() -> None:
        while not ready.exists():
            time.sleep(0.01)
        stop.request()

    threading.Thread(target=request).start()
    assert [each.verdict for each in _run(handler, stop, b"begun", b"not begun")] == [Verdict.REQUEUE]


def test_a_command_that_ignores_sigterm_after_its_timeout_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "KILL_AFTER_S", 0.2)
    handler = CommandHandler(("/bin/sh", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"), "q", timeout_s=0.2)
    [delivery] = next(_Source(Stop(), b"x").batches())
    handled = handler.run(delivery)
    assert handled.verdict is Verdict.REJECT
    assert "timed out after 0.2 s" in handled.failure


def test_closing_the_handler_requeues_the_running_message_and_starts_no_other_command() -> None:
    handler = CommandHandler(("/bin/sh", "sh", "-c", "sleep 60"), "q")
    [delivery] = next(_Source(Stop(), b"x").batches())
    threading.Timer(0.2, handler.close).start()
    assert handler.run(delivery) == HandledBatch((delivery,), Verdict.REQUEUE)
    assert handler.run(delivery) == HandledBatch((delivery,), Verdict.REQUEUE)


def test_a_command_receives_the_signals_that_python_ignores() -> None:
    handler = CommandHandler(("/bin/sh", "sh", "-c", "kill -PIPE $$"), "q")
    [delivery] = next(_Source(Stop(), b"x").batches())
    assert handler.run(delivery).failure == f"the command was killed by {signal.SIGPIPE.name}"


@pytest.mark.parametrize("words", ["", "  ", "a 'b", "no-such-program-here", "/etc/passwd", "/"])
def test_a_command_that_cannot_be_run_is_refused(words: str) -> None:
    with pytest.raises(SettingsError, match=r"command|program|quotation"):
        command.parse(words)


def test_messages_requeued_repeatedly_wait_longer_each_time_until_there_is_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 1000.0
    monkeypatch.setattr("rmqkit.messaging.acknowledger.time.monotonic", lambda: now_s)
    backoff = RequeueBackoff()
    pauses = []
    for _ in range(6):
        backoff.hold([2, 1])
        pauses.append(backoff.due_in_s())
        assert (backoff.take_due(), 1 in backoff) == ([], True)
        now_s += pauses[-1]
        assert backoff.take_due() == [1, 2]
    backoff.reset()
    backoff.hold([3])
    assert [*pauses, backoff.due_in_s()] == [1, 2, 4, 8, 10, 10, 1]


FUNCTIONS = """
import sys
value = 1
def fine(delivery): ...
def none(): ...
async def later(delivery): ...
class Kind:
    def __call__(self, delivery): ...
kind = Kind()
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "some_functions.py").write_text(FUNCTIONS)
    (tmp_path / "bad_syntax.py").write_text("def (")
    (tmp_path / "exits.py").write_text("import sys; sys.exit(0)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("some_functions", None)


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("name", ["fine", "kind", "kind.__call__"])
def test_a_function_in_the_current_folder_is_found(name: str) -> None:
    assert callable(function.load(f"some_functions:{name}"))


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("some_functions", "expected MODULE:FUNCTION"),
        ("some_functions:", "expected MODULE:FUNCTION"),
        (":fine", "expected MODULE:FUNCTION"),
        ("no_such_module:fine", "No module named 'no_such_module'"),
        ("some_functions:nosuch", "no attribute 'nosuch'"),
        ("some_functions:value", "not a callable object"),
        ("some_functions:none", "too many positional arguments"),
        ("some_functions:later", "coroutine"),
        ("bad_syntax:f", "SyntaxError"),
        ("exits:f", "SystemExit"),
        ("..:f", "ValueError|TypeError"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused(target: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        function.load(target)


@pytest.mark.parametrize(
    "options",
    [
        HandlerOptions(save_to="x", exec="true"),
        HandlerOptions(exec="true", handler="a:b"),
        HandlerOptions(handler="a:b", to_queue="q"),
        HandlerOptions(save_to="x", format=PrintFormat.JSON),
        HandlerOptions(to_url="amqp://localhost", format=PrintFormat.JSON),
        HandlerOptions(to_queue="q", to_exchange="e"),
        HandlerOptions(to_queue="q", to_routing_key="k"),
        HandlerOptions(timeout=1),
        HandlerOptions(handler="a:b", concurrency=2),
        HandlerOptions(unmatched=Verdict.ACK),
        HandlerOptions(filter="body =="),
    ],
)
def test_contradictory_options_are_refused(options: HandlerOptions) -> None:
    with pytest.raises((typer.BadParameter, RmqkitError)):
        options.check()


@pytest.mark.parametrize(
    ("options", "prefetch"),
    [
        (HandlerOptions(), 1000),
        (HandlerOptions(exec="true"), 2),
        (HandlerOptions(exec="true", concurrency=8), 16),
        (HandlerOptions(exec="true", concurrency=8, prefetch=4), 8),
        (HandlerOptions(exec="true", filter="true"), 1000),
        (HandlerOptions(prefetch=7), 7),
    ],
)
def test_the_prefetch_covers_all_commands(options: HandlerOptions, prefetch: int) -> None:
    assert options.consume_options().prefetch == prefetch
