"""Consuming with several processes that share one standard output.

A worker is `python -m rmqkit.cli.worker_processes`. It gets its job, the login included, as a pickle on standard
input, where no other process can see it, and takes the end of that input for the end of its parent. It reports
over a pipe, in lines of JSON. It has its own process group, so that Ctrl-C reaches the parent, which passes it on.
"""

from __future__ import annotations

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
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Any

from rmqkit import errors
from rmqkit.cli import consume_job
from rmqkit.cli.consume_job import ConsumeRequest, ConsumeResult
from rmqkit.cli.frame import Signals, StoppedAtOnce
from rmqkit.errors import OutputError, RmqkitError
from rmqkit.handlers.runner import combine
from rmqkit.report import ConsumeReport
from rmqkit.stop import Stop

_WAIT_S = 0.5  # an endless wait, in slices: a signal that comes just before a wait does not end it
_PATIENCE_S = 5.0  # how long a worker that was told to stop at once may still run


class _WorkerProcess:
    """A child process, and what it reported so far."""

    def __init__(self, number: int, lock_fd: int) -> None:
        self.name = f"worker {number}"
        self.report = ConsumeReport()
        self.error: RmqkitError | None = None
        self.started = self.consuming = self.finished = False
        reports_fd, child_fd = os.pipe()
        command = [sys.executable, "-P", "-m", "rmqkit.cli.worker_processes", str(child_fd), str(lock_fd)]
        self.process = subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=subprocess.PIPE, pass_fds=(child_fd, lock_fd), process_group=0
        )
        os.close(child_fd)
        self.reports = os.fdopen(reports_fd, "rb", buffering=0)
        self._unread = b""

    def start(self, job: ConsumeRequest) -> None:
        """Hand the job over; standard input stays open as long as we live."""
        self.started = True
        with suppress(BrokenPipeError):  # it died: the end of its reports tells
            self._stdin.write(pickle.dumps(job))
            self._stdin.flush()

    def dismiss(self) -> None:
        """Close standard input, which ends it."""
        with suppress(BrokenPipeError):
            self._stdin.close()

    def read(self) -> bool:
        """Take in what it reports; False at the end of that."""
        data = self.reports.read(65_536)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line))
        return bool(data)

    def end(self, *, stopping: bool) -> None:
        """Wait for its end, and note one that it did not report; `stopping` before it was ready is no fault."""
        self.reports.close()
        self.dismiss()
        code = self.process.wait()
        if self.started and not self.finished and (self.consuming or not stopping):
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            self.error = OutputError(f"{self.name} {how}; what it had not acknowledged is queued again")

    @property
    def _stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None  # noqa: S101 - it is a pipe
        return self.process.stdin

    def _take(self, event: dict[str, Any]) -> None:
        self.consuming = True
        if "report" in event:
            self.report = ConsumeReport(**event["report"])
            self.error = _error_from_json(event["error"])
            self.finished = True
        elif "printed" in event:
            self.report = ConsumeReport(consumed=event["printed"], acknowledged=event["printed"])


def run(
    job: ConsumeRequest, workers: int, stop: Stop, *, on_progress: Callable[[int], None] = lambda _: None
) -> ConsumeResult:
    """Consume with so many processes; a worker that dies leaves the others at work.

    They subscribe one after the other, so that RabbitMQ deals to them in the order of their numbers. Each takes its
    part of the count, so that together they take exactly that many.
    """
    started_s = time.monotonic()
    jobs = job.split(workers)
    crew: list[_WorkerProcess] = []
    with tempfile.TemporaryFile() as lock:
        try:
            with stop.waking(lambda: _signal(crew)):
                crew += [_WorkerProcess(number, lock.fileno()) for number in range(1, len(jobs) + 1)]
                _attend(crew, jobs, stop, on_progress)
        finally:
            _end_all(crew)
    error = next((worker.error for worker in crew if worker.error), None)
    return ConsumeResult(combine({worker.name: worker.report for worker in crew}, time.monotonic() - started_s), error)


def _attend(
    crew: list[_WorkerProcess], jobs: list[ConsumeRequest], stop: Stop, on_progress: Callable[[int], None]
) -> None:
    """Start each worker when the one before it is subscribed, and take in what they report until all have ended."""
    waiting = list(zip(crew, jobs, strict=True))
    with selectors.DefaultSelector() as selector:
        for worker in crew:
            selector.register(worker.reports, selectors.EVENT_READ, worker)
        while selector.get_map():
            if stop.requested or any(worker.error for worker in crew):
                while waiting:
                    waiting.pop()[0].dismiss()
            elif waiting and all(worker.consuming for worker in crew if worker.started):
                worker, job = waiting.pop(0)
                worker.start(job)
            for key, _ in selector.select(_WAIT_S):
                worker = key.data
                if not worker.read():
                    selector.unregister(key.fileobj)
                    worker.end(stopping=stop.requested)
            on_progress(sum(worker.report.acknowledged for worker in crew))


def _signal(crew: list[_WorkerProcess], number: signal.Signals = signal.SIGTERM) -> None:
    for worker in crew:
        if worker.process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(worker.process.pid, number)


def _end_all(crew: list[_WorkerProcess]) -> None:
    """See to it that no child outlives us: only needed after an exception, for most have ended."""
    # The second signal, if we got ours; another one, for two SIGTERMs at once may come as one.
    _signal([worker for worker in crew if not worker.finished], signal.SIGINT)
    deadline_s = time.monotonic() + _PATIENCE_S
    for worker in crew:
        try:
            worker.process.wait(max(deadline_s - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.reports.close()
        worker.dismiss()


# The child's side.


def _error_to_json(error: RmqkitError | None) -> dict[str, str] | None:
    if error is None:
        return None
    return {"type": type(error).__name__, "message": error.message, "advice": error.advice}


def _error_from_json(written: dict[str, str] | None) -> RmqkitError | None:
    """Make an error of the same class, for its exit code, and with the same words."""
    if written is None:
        return None
    kind = getattr(errors, written["type"], OutputError)
    error: RmqkitError = kind.__new__(kind)
    RmqkitError.__init__(error, written["message"], advice=written["advice"])
    return error


def main() -> None:
    """Work as a worker: the job comes on standard input, reports go to the descriptor named first."""
    reports_fd, lock_fd = map(int, sys.argv[1:])

    def tell(**event: Any) -> None:
        with suppress(BrokenPipeError):
            os.write(reports_fd, json.dumps(event).encode() + b"\n")

    with Signals() as signals:
        try:
            job = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
            threading.Thread(target=_leave_with_parent, daemon=True).start()
            outcome = consume_job.run(
                job,
                signals.stop,
                lock_fd=lock_fd,
                on_consuming=lambda: tell(consuming=True),
                on_progress=lambda printed: tell(printed=printed),
            )
        except EOFError:  # dismissed before there was anything to do
            return
        except StoppedAtOnce:
            os._exit(128 + signals.received)
        tell(report=asdict(outcome.report), error=_error_to_json(outcome.error))


def _leave_with_parent() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
