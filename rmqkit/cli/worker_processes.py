"""Consume with several processes that share one standard output.

A worker is a `ChildProcess`, which gets its command and reports how far it is.
"""

import os
import pickle
import selectors
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from rmqkit import child_process
from rmqkit.child_process import ChildProcess, end_all, error_as_json, error_from_json
from rmqkit.cli import consume_command, metrics, output
from rmqkit.cli.consume_command import ConsumeCommand, ConsumeResult
from rmqkit.cli.signals import Signals
from rmqkit.errors import OutputError, RmqkitError
from rmqkit.report import ConsumeReport, add_up
from rmqkit.stop import Stop, StoppedAtOnce

_WAIT_S = 0.5  # an endless wait, in slices: a signal that arrives just before a wait does not end it


class _WorkerProcess(ChildProcess):
    """A child process and its latest report."""

    def __init__(self, number: int, lock_fd: int) -> None:
        super().__init__(f"worker {number}", "rmqkit.cli.worker_processes", lock_fd)
        self.report = ConsumeReport()
        self.error: RmqkitError | None = None
        self.started = self.consuming = self.finished = False

    def start(self, command: ConsumeCommand) -> None:
        """Send the command."""
        self.started = True
        self.send(command)

    def update(self) -> bool:
        """Read its reports; return False when they have ended."""
        events = self.read()
        for event in events or ():
            self._handle(event)
        return events is not None

    def end(self, *, stopping: bool) -> None:
        """Wait for the worker to end; ending without a report is an error, unless it was stopping and not ready yet."""
        how = self.wait()
        if self.started and not self.finished and (self.consuming or not stopping):
            self.error = OutputError(f"{self.name} {how}; its unacknowledged messages were requeued")

    def _handle(self, event: dict[str, Any]) -> None:
        self.consuming = True
        if "report" in event:
            self.report = ConsumeReport(**event["report"])
            self.error = error_from_json(event["error"])
            self.finished = True
        elif "acknowledged" in event:
            self.report = ConsumeReport(consumed=event["acknowledged"], acknowledged=event["acknowledged"])


def run(command: ConsumeCommand, stop: Stop, *, as_json_object: bool) -> int:
    """Consume, in several processes if the command says so; show progress and report, and return the exit code."""
    # On a terminal the messages themselves are progress enough.
    total = command.job.options.count
    progress = nullcontext(lambda _done, _blocked: None) if os.isatty(1) else output.progress("consuming", total)
    with metrics.serving(command.metrics_port, processes=command.workers) as hooks, progress as update:

        def on_consuming() -> None:
            if not as_json_object:
                queue = command.job.queue  # none if the queue is temporary
                output.note_waiting(f"messages{queue and f' in {queue}'}")

        def on_progress(acknowledged: int) -> None:
            update(acknowledged, "")

        if command.workers == 1:
            observed = replace(command, settings=replace(command.settings, hooks=hooks))
            result = consume_command.run(observed, stop, on_consuming=on_consuming, on_progress=on_progress)
        else:
            result = _run_workers(command, stop, on_consuming, on_progress)
    consume_command.print_report(command, result, as_json_object=as_json_object)
    return result.exit_code


def _run_workers(
    command: ConsumeCommand, stop: Stop, on_consuming: Callable[[], None], on_progress: Callable[[int], None]
) -> ConsumeResult:
    """Consume with worker processes; if one dies, the others keep working.

    They subscribe one after another, so that RabbitMQ serves them in the order of their numbers. Each gets its part of
    the count, so that together they consume exactly that many.
    """
    started_s = time.monotonic()
    commands = [replace(command, job=part) for part in command.job.split(command.workers)]
    workers: list[_WorkerProcess] = []
    with tempfile.TemporaryFile() as lock:
        try:
            with stop.waking(lambda: _signal(workers)):
                workers += [_WorkerProcess(number, lock.fileno()) for number in range(1, len(commands) + 1)]
                _supervise(workers, commands, stop, on_consuming, on_progress)
        finally:
            _end_all(workers)
    error = next((worker.error for worker in workers if worker.error), None)
    reports = {worker.name: worker.report for worker in workers}
    return ConsumeResult(add_up(reports, time.monotonic() - started_s), error)


def _supervise(
    workers: list[_WorkerProcess],
    commands: list[ConsumeCommand],
    stop: Stop,
    on_consuming: Callable[[], None],
    on_progress: Callable[[int], None],
) -> None:
    """Start each worker once the previous one is subscribed, and read the reports until all workers have ended."""
    waiting = list(zip(workers, commands, strict=True))
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker.reports, selectors.EVENT_READ, worker)
        while selector.get_map():
            if stop.requested or any(worker.error for worker in workers):
                while waiting:
                    waiting.pop()[0].dismiss()
            elif waiting and all(worker.consuming for worker in workers if worker.started):
                worker, command = waiting.pop(0)
                worker.start(command)
                if not waiting:
                    on_consuming()
            for key, _ in selector.select(_WAIT_S):
                worker = key.data
                if not worker.update():
                    selector.unregister(key.fileobj)
                    worker.end(stopping=stop.requested)
            on_progress(sum(worker.report.acknowledged for worker in workers))


def _signal(workers: list[_WorkerProcess], number: signal.Signals = signal.SIGTERM) -> None:
    for worker in workers:
        worker.signal(number)


def _end_all(workers: list[_WorkerProcess]) -> None:
    """Make sure that no child outlives its parent; after anything but an exception, all have ended."""
    # The second signal, if the parent got one; a different one, because two SIGTERMs at once may arrive as one.
    _signal([worker for worker in workers if not worker.finished], signal.SIGINT)
    end_all(workers)


# In the child.


def main() -> None:
    """Run as a worker: read the command from standard input, and report to the descriptor given first."""
    reports_fd, lock_fd = map(int, sys.argv[1:])
    report = partial(child_process.report, reports_fd)

    with Signals(silent=True) as signals:  # the parent prints the notice
        try:
            command = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the parent process
            if command.metrics_port:
                command = replace(command, settings=replace(command.settings, hooks=metrics.hooks_of_worker()))
            threading.Thread(target=_end_with_parent, daemon=True).start()
            result = consume_command.run(
                command,
                signals.stop,
                lock_fd=lock_fd,
                on_consuming=lambda: report(consuming=True),
                on_progress=lambda acknowledged: report(acknowledged=acknowledged),
            )
        except EOFError:  # dismissed before it was started
            return
        except StoppedAtOnce:
            os._exit(128 + signals.received)
        report(report=asdict(result.report), error=error_as_json(result.error))


def _end_with_parent() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
