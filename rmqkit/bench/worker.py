"""A process of a benchmark: its clients, each on a thread, and samples of their counts four times a second.

It receives a `Job`, and reports that it is ready; it receives the `Times`, and later any value, which stops it. It
reports the counts of each quarter of a second, numbered from the start of the measurement, and finally the results.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rmqkit import child_process
from rmqkit.bench.latency import Counts
from rmqkit.bench.load import Lane, Load
from rmqkit.bench.load_clients import Caller, Client, LoadConsumer, Producer, Server, Times
from rmqkit.errors import RmqkitError
from rmqkit.settings import Settings

TICK_NS = 250_000_000


@dataclass(frozen=True, slots=True)
class Job:
    """The clients of a process: producers with their number, lanes and count; or consumers with number and queue."""

    settings: Settings
    load: Load
    producers: Sequence[tuple[int, Sequence[Lane], int | None]] = ()
    consumers: Sequence[tuple[int, str]] = ()


class _BenchWorker:
    def __init__(self, job: Job, reports_fd: int) -> None:
        self.report = partial(child_process.report, reports_fd)
        warn = self._warn
        producer, consumer = (Caller, Server) if job.load.calls else (Producer, LoadConsumer)
        self.clients: list[Client] = [
            *(
                producer(job.settings, job.load, lanes, number, warn, count=count)
                for number, lanes, count in job.producers
            ),
            *(consumer(job.settings, job.load, queue, number, warn) for number, queue in job.consumers),
        ]
        self._error: RmqkitError | None = None
        self._sampled = Counts()

    def _warn(self, text: str) -> None:
        self.report(warning=text)

    def run(self) -> None:
        """Open the clients, run them, and report."""
        try:
            versions = [client.open() for client in self.clients]
        except RmqkitError as error:
            self.report(done=[], cpu_s=0.0, error=child_process.error_as_json(error))
            return
        self.report(ready=versions[0])
        times: Times = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the parent process
        threading.Thread(target=self._await_stop, daemon=True).start()
        started_s = time.process_time()
        threads = [threading.Thread(target=self._run, args=(client, times)) for client in self.clients]
        for thread in threads:
            thread.start()
        tick = (time.monotonic_ns() - times.measured) // TICK_NS
        while any(thread.is_alive() for thread in threads):
            until = times.measured + (tick + 1) * TICK_NS
            for thread in threads:
                thread.join(max(until - time.monotonic_ns(), 0) / 1e9)
            if time.monotonic_ns() >= until:
                self._sample(tick)
                tick += 1
        self._sample(tick)
        results = [{**client.result(), "last_ns": client.last_ns} for client in self.clients]
        cpu_s = time.process_time() - started_s
        self.report(done=results, cpu_s=cpu_s, error=child_process.error_as_json(self._error))
        for client in self.clients:
            client.connection.close()

    def _run(self, client: Client, times: Times) -> None:
        time.sleep(max(times.start - time.monotonic_ns(), 0) / 1e9)
        try:
            client.run(times)
        except RmqkitError as error:
            self._error = self._error or error
            self._stop()

    def _sample(self, tick: int) -> None:
        """Report what was counted since the last sample."""
        total = Counts()
        for client in self.clients:
            total.add(client.counts.as_json())
        blocked = next((each.connection.blocked for each in self.clients if each.connection.blocked), "")
        self.report(tick=tick, counts=total.since(self._sampled), blocked=blocked)
        self._sampled = total

    def _stop(self) -> None:
        for client in self.clients:
            client.stop.request()

    def _await_stop(self) -> None:
        try:
            pickle.load(sys.stdin.buffer)  # noqa: S301 - from the parent process
        except EOFError:  # the parent has ended: no process waits for a result
            os._exit(1)
        self._stop()


def main() -> None:
    """Run as a worker, which reports to the descriptor given."""
    try:
        job = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the parent process
        _BenchWorker(job, int(sys.argv[1])).run()
    except EOFError:  # dismissed
        return
    sys.stderr.flush()
    os._exit(0)  # another thread still reads standard input


if __name__ == "__main__":
    main()
