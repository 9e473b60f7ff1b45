"""Run a load in child processes, and collect their counts."""

from __future__ import annotations

import os
import secrets
import selectors
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from rmqkit.bench.entities import BenchEntities
from rmqkit.bench.latency import Counts
from rmqkit.bench.load import Lane, Load, lay_out
from rmqkit.bench.load_clients import Times
from rmqkit.bench.sequences import Reader, published_bits
from rmqkit.bench.worker import TICK_NS, Job
from rmqkit.child_process import ChildProcess, end_all, error_from_json
from rmqkit.errors import OutputError, RmqkitError
from rmqkit.options import shares
from rmqkit.settings import Settings
from rmqkit.stop import Stop

_SECOND_NS = 1_000_000_000
_START_NS = 100_000_000  # after all processes are ready
_WAIT_S = 0.05
_STALLED_S = 5.0  # without a delivery, after which missing messages count as lost or left
_TICKS = _SECOND_NS // TICK_NS
_BUSY = 0.9  # of a core
_LIMITED = (
    "a process of {} used {:.0%} of a core: rmqkit, not the broker, may be the limit. Use more producers or consumers"
)


@dataclass
class Measured:
    """The counts of a run: in each second, from 0 at the start of the measurement, and in all seconds from 0 on.

    `publish_s` and `consume_s` are the seconds in which the messages were published and confirmed, and delivered;
    deliveries may begin `consume_from_s` after the start.
    `check` compares the messages of the whole run, warm-up included: confirmed + unconfirmed = published; of the
    `expected` deliveries, `lost` were neither received nor `left` in their queues. `cpu_s` has the CPU seconds of the
    clients.
    """

    load: Load
    broker: str = ""
    seconds: dict[int, Counts] = field(default_factory=lambda: defaultdict(Counts))
    total: Counts = field(default_factory=Counts)
    publish_s: float = 0.0
    consume_s: float = 0.0
    consume_from_s: float = 0.0
    check: Counter[str] = field(default_factory=Counter)
    cpu_s: dict[str, float] = field(default_factory=dict)
    blocked: str = ""
    interrupted: bool = False


class _BenchProcess(ChildProcess):
    """A worker, whether it is ready, and its results."""

    def __init__(self, name: str, job: Job) -> None:
        super().__init__(name, "rmqkit.bench.worker")
        self.ready = False
        self.results: list[dict[str, Any]] | None = None
        self.send(job)


class Run:
    """One run of a load; `on_second` gets the number of each second that has ended, and its counts."""

    def __init__(
        self,
        settings: Settings,
        load: Load,
        *,
        stop: Stop,
        on_second: Callable[[int, Counts, str], None] = lambda _number, _counts, _blocked: None,
        on_warning: Callable[[str], None] = lambda _: None,
    ) -> None:
        load.check()
        self._settings = settings
        self._load = load
        self._stop = stop
        self._on_second = on_second
        self._warn = on_warning
        self._warned: set[str] = set()
        self._layout = lay_out(load, secrets.token_hex(4))
        self._entities = BenchEntities(settings, load, self._layout)
        self._measured = Measured(load)
        self._received = 0  # in the whole run
        self._received_s = 0.0  # the time of the last ones
        self._error: RmqkitError | None = None
        self._shown = 0
        self._times = Times(0, 0, None)

    def run(self, folder: Path) -> Measured:
        """Run the load, and return what was measured; `BenchEntities.declared` explains the folder.

        Raises the error of a client or of a declaration, and OutputError for a process that was killed.
        """
        processes: list[_BenchProcess] = []
        with self._entities.declared(folder, self._warn):
            try:
                processes += self._start()
                self._work(processes)
            finally:
                for process in processes:
                    if process.results is None:
                        process.signal(signal.SIGTERM)
                end_all(processes)
            if self._error is not None:
                raise self._error
            self._judge(processes)
        return self._measured

    def _start(self) -> list[_BenchProcess]:
        load, layout, cores = self._load, self._layout, os.cpu_count() or 1
        counts = shares(load.count, load.producers)
        counts += [0] * (load.producers - len(counts))  # fewer messages than producers
        producers = [(number, lanes, counts[number]) for number, lanes in enumerate(layout.lanes)]
        consumers = list(enumerate(layout.consumed))
        jobs = [Job(self._settings, load, producers=producers[first::cores]) for first in range(cores)]
        jobs += [Job(self._settings, load, consumers=consumers[first::cores]) for first in range(cores)]
        return [
            _BenchProcess("producers" if job.producers else "consumers", job)
            for job in jobs
            if job.producers or job.consumers
        ]

    def _work(self, processes: Sequence[_BenchProcess]) -> None:
        """Start the processes together once all are ready, and stop the consumers once all messages were received."""
        publishing, consuming = processes[: self._publishing], processes[self._publishing :]
        with selectors.DefaultSelector() as selector:
            for process in processes:
                selector.register(process.reports, selectors.EVENT_READ, process)
            self._read_until(selector, lambda: all(each.ready for each in processes))
            if self._ended:
                self._measured.interrupted = self._stop.requested
                return
            start = time.monotonic_ns() + _START_NS
            measured = start + round(self._load.warm_up_s * 1e9)
            end = None if self._load.count is not None else measured + round(self._load.duration_s * 1e9)
            self._times = Times(start, measured, end)
            self._shown = -int(-(-self._load.warm_up_s // 1))
            for process in publishing if self._load.fill_first else processes:
                process.send(self._times)
            self._read_until(selector, lambda: all(each.results is not None for each in publishing))
            if self._error is None and self._stop.requested:
                self._measured.interrupted = True
                for process in publishing:
                    process.send("stop")
                self._read_until(selector, lambda: all(each.results is not None for each in publishing), stopping=True)
            filled_ns = time.monotonic_ns()
            if self._load.fill_first:
                for process in consuming:
                    process.send(self._times)
            self._drain(selector, publishing)
            for process in consuming:
                process.send("stop")
            self._read_until(selector, lambda: all(each.results is not None for each in consuming), stopping=True)
        self._measure_time(processes, filled_ns)

    @property
    def _publishing(self) -> int:
        return min(self._load.producers, os.cpu_count() or 1)

    @property
    def _ended(self) -> bool:
        return self._stop.requested or self._error is not None

    def _drain(self, selector: selectors.BaseSelector, publishing: Sequence[_BenchProcess]) -> None:
        """Wait until all confirmed messages were received, or none arrives for some seconds."""
        if not self._load.consumers or self._load.calls:
            return
        consumers = Counter(self._layout.consumed)
        expected = 0
        for lane, count, failed in self._published(publishing):
            copies = sum(consumers[queue] for queue in lane.queues) if self._load.streams else len(lane.queues)
            expected += (count - len(failed)) * copies
        self._received_s = time.monotonic() + self._load.delay_s
        self._read_until(
            selector,
            lambda: self._received >= expected or time.monotonic() - self._received_s > _STALLED_S,
            stopping=True,
        )

    def _published(self, processes: Sequence[_BenchProcess]) -> Iterator[tuple[Lane, int, list[int]]]:
        """Yield each lane, the number of its messages, and the numbers of those that were not confirmed."""
        lanes = {str(lane.number): lane for lane in chain.from_iterable(self._layout.lanes)}
        for result in chain.from_iterable(process.results or () for process in processes):
            for name, count in result.get("published", {}).items():
                yield lanes[name], count, result["failed"].get(name, [])

    def _read_until(
        self, selector: selectors.BaseSelector, done: Callable[[], bool], *, stopping: bool = False
    ) -> None:
        """Read reports until `done`, until a client fails or, unless `stopping`, until a stop is requested."""
        while not (done() or self._error or (self._ended and not stopping)):
            for key, _ in selector.select(_WAIT_S):
                process = key.data
                events = process.read()
                for event in events or ():
                    self._take(process, event)
                if events is None:
                    selector.unregister(key.fileobj)
                    if process.results is None:
                        self._error = self._error or OutputError(f"a process of {process.name} {process.wait()}")
            self._show()
            self._entities.renew()

    def _take(self, process: _BenchProcess, event: dict[str, Any]) -> None:
        match event:
            case {"ready": version}:
                process.ready = True
                self._measured.broker = ".".join(map(str, version))
            case {"tick": tick, "counts": counts, "blocked": blocked}:
                second = int(tick) // _TICKS
                self._measured.seconds[second].add(counts)
                self._measured.blocked = blocked or self._measured.blocked
                if second >= 0:
                    self._measured.total.add(counts)
                if counts["received"]:
                    self._received += counts["received"]
                    self._received_s = max(time.monotonic(), self._received_s)
            case {"done": results, "cpu_s": cpu_s, "error": error}:
                process.results = results
                self._measured.cpu_s[process.name] = self._measured.cpu_s.get(process.name, 0.0) + cpu_s
                seconds = (time.monotonic_ns() - self._times.start) / 1e9
                if seconds > 1 and cpu_s > _BUSY * seconds:
                    self._warn_once(_LIMITED.format(process.name, cpu_s / seconds))
                self._error = self._error or error_from_json(error)
            case {"warning": text}:
                self._warn_once(text)

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._warn(text)

    def _show(self) -> None:
        """Pass on the seconds of which all samples have arrived by now."""
        if not self._times.start:
            return
        ended = (time.monotonic_ns() - self._times.measured - TICK_NS) // _SECOND_NS
        while self._shown < ended:
            self._on_second(self._shown, self._measured.seconds[self._shown], self._measured.blocked)
            self._shown += 1

    def _measure_time(self, processes: Sequence[_BenchProcess], filled_ns: int) -> None:
        """Note how long publishing and consuming took, from the start of the measurement to the last message."""
        start, end = self._times.measured, self._times.end
        results = [result for each in processes for result in each.results or ()]
        published = max((each["last_ns"] for each in results if "published" in each), default=start)
        received = max((each["last_ns"] for each in results if "queue" in each), default=start)
        if end is not None and not self._measured.interrupted:  # a slow load may have had nothing to do at the end
            published, received = max(published, end), max(received, end)
        first = filled_ns if self._load.fill_first else start + self._load.delay_s * _SECOND_NS
        self._measured.publish_s = max(published - start, 1) / 1e9
        self._measured.consume_s = max(received - first, 1) / 1e9
        self._measured.consume_from_s = max(first - start, 0) / 1e9

    def _judge(self, processes: Sequence[_BenchProcess]) -> None:
        """Compare what was published with what was received."""
        check = self._measured.check
        of_queues = {queue.name: Reader({}) for queue in self._layout.topology.queues}
        readers = list(of_queues.items())
        if self._load.streams and self._load.consumers:  # each of them receives all
            readers = []
        for result in chain.from_iterable(process.results or () for process in processes):
            check["republished"] += result.get("republished", 0)
            check["redelivered"] += result.get("redelivered", 0)
            if "queue" in result:
                if self._load.streams:
                    of_queues[result["queue"]] = Reader({})
                    readers.append((result["queue"], of_queues[result["queue"]]))
                of_queues[result["queue"]].add(result["lanes"])
        missing = 0
        for lane, count, failed in self._published(processes):
            confirmed = published_bits(count, failed)
            check["published"] += count
            check["confirmed"] += count - len(failed)
            for reader in (reader for queue, reader in readers if queue in lane.queues):
                check["expected"] += count - len(failed)
                missing += reader.missing(lane.number, confirmed)
        check["unconfirmed"] = check["published"] - check["confirmed"]
        in_queues = missing and not (self._load.streams and self._load.consumers)
        check["left"] = min(self._entities.ready(), missing) if in_queues else 0
        check["lost"] = missing - check["left"]
        check["duplicated"] = sum(reader.duplicated for _, reader in readers)
        check["out_of_order"] = sum(reader.out_of_order for _, reader in readers)
