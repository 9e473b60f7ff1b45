"""Consume with several processes that share one standard output.

A worker is `python -m rmqkit.cli.worker_processes`. It gets its command, including the credentials, as a pickle on
standard input, where no other process can see it; when that input ends, its parent has ended. It reports over a pipe,
in lines of JSON. It has its own process group, so that Ctrl-C reaches only the parent, which passes it on.
"""

import json
import os
import pickle
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from typing import IO, Any

from rmqkit import errors
from rmqkit.cli import consume_command, metrics, output
from rmqkit.cli.consume_command import ConsumeCommand, ConsumeResult
from rmqkit.cli.signals import Signals
from rmqkit.errors import OutputError, RmqkitError
from rmqkit.report import ConsumeReport, add_up
from rmqkit.stop import Stop, StoppedAtOnce

_WAIT_S = 0.5  # an endless wait, in slices: a signal that arrives just before a wait does not end it
_KILL_AFTER_S = 5.0  # from the second signal to SIGKILL


class _WorkerProcess:
    """A child process and its latest report."""

    def __init__(self, number: int, lock_fd: int) -> None:
        self.name = f"worker {number}"
        self.report = ConsumeReport()
        self.error: RmqkitError | None = None
        self.started = self.consuming = self.finished = False
        reports_fd, child_fd = os.pipe()
        command = [sys.executable, "-P", "-m", "rmqkit.cli.worker_processes", str(child_fd), str(lock_fd)]
        self.process = subprocess.Popen(  # noqa: S603 - this module
            command, stdin=subprocess.PIPE, pass_fds=(child_fd, lock_fd), process_group=0
        )
        os.close(child_fd)
        self.reports = os.fdopen(reports_fd, "rb", buffering=0)
        self._unread = b""

    def start(self, command: ConsumeCommand) -> None:
        """Send the command; standard input stays open as long as the parent lives."""
        self.started = True
        with suppress(BrokenPipeError):  # the worker died: the end of its reports shows it
            self._stdin.write(pickle.dumps(command))
            self._stdin.flush()

    def dismiss(self) -> None:
        """Close standard input, which ends the worker."""
        with suppress(BrokenPipeError):
            self._stdin.close()

    def read(self) -> bool:
        """Read its reports; return False when they have ended."""
        data = self.reports.read(65_536)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._handle(json.loads(line))
        return bool(data)

    def end(self, *, stopping: bool) -> None:
        """Wait for the worker to end; ending without a report is an error, unless it was stopping and not ready yet."""
        self.reports.close()
        self.dismiss()
        code = self.process.wait()
        if self.started and not self.finished and (self.consuming or not stopping):
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            self.error = OutputError(f"{self.name} {how}; its unacknowledged messages were requeued")

    @property
    def _stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None  # noqa: S101 - it is a pipe
        return self.process.stdin

    def _handle(self, event: dict[str, Any]) -> None:
        self.consuming = True
        if "report" in event:
            self.report = ConsumeReport(**event["report"])
            self.error = _error_from_json(event["error"])
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
                if not worker.read():
                    selector.unregister(key.fileobj)
                    worker.end(stopping=stop.requested)
            on_progress(sum(worker.report.acknowledged for worker in workers))


def _signal(workers: list[_WorkerProcess], number: signal.Signals = signal.SIGTERM) -> None:
    for worker in workers:
        if worker.process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(worker.process.pid, number)


def _end_all(workers: list[_WorkerProcess]) -> None:
    """Make sure that no child outlives its parent; after anything but an exception, all have ended."""
    # The second signal, if the parent got one; a different one, because two SIGTERMs at once may arrive as one.
    _signal([worker for worker in workers if not worker.finished], signal.SIGINT)
    deadline_s = time.monotonic() + _KILL_AFTER_S
    for worker in workers:
        try:
            worker.process.wait(max(deadline_s - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.reports.close()
        worker.dismiss()


# In the child.


def _error_from_json(written: dict[str, str] | None) -> RmqkitError | None:
    """Make an error of the same class, for its exit code, with the same message and advice."""
    if written is None:
        return None
    kind = getattr(errors, written["type"], OutputError)
    error: RmqkitError = kind.__new__(kind)
    RmqkitError.__init__(error, written["message"], advice=written["advice"])
    return error


def main() -> None:
    """Run as a worker: read the command from standard input, and report to the descriptor given first."""
    reports_fd, lock_fd = map(int, sys.argv[1:])

    def report(**event: Any) -> None:
        with suppress(BrokenPipeError):
            os.write(reports_fd, json.dumps(event).encode() + b"\n")

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
        written = (error := result.error) and {
            "type": type(error).__name__,
            "message": error.message,
            "advice": error.advice,
        }
        report(report=asdict(result.report), error=written)


def _end_with_parent() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
