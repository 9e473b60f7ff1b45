"""Demos of the order of deliveries: a log with several readers, priorities, a single active consumer."""

import json
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from rmqkit.cli import output
from rmqkit.cli.demos.runner import ENVELOPES, DemoProcess, DemoRunner, Result, count_deliveries, totals

_LOG, _JOBS, _LEDGER = "events", "jobs", "ledger"
_BAR = 24  # characters, for the whole log
_DIGITS = 20
_PUBLISH_S = 2  # so long that readers and consumers can start, or be killed, meanwhile
_PRIORITIES = (0, 9, 5)  # in the order of publishing
_Job = tuple[int, int]  # a priority, and the number of the job within it


def streams(runner: DemoRunner) -> Result:
    """Publish, read from several offsets, publish more, and read the whole log once more."""
    runner.apply()
    runner.publish()
    middle, total = runner.count // 2, 2 * runner.count
    first = _read(runner, "from the first", "--offset", "first")
    half = _read(runner, "from the middle", "--offset", str(middle))
    late = _read(runner, "from now on")
    runner.wait_for_lines({first: runner.count, half: runner.count - middle})  # no API lists the readers of a stream
    runner.publish("--rate", _slow(runner.count))
    again = _read(runner, "all of it again", "--offset", "first")
    readers = (first, half, late, again)
    runner.wait(lambda: all(_offsets(reader)[-1:] == [total - 1] for reader in readers), *readers)
    runner.end()
    attached = min([each for each in _offsets(late) if each >= runner.count], default=runner.count)
    rows, numbers, complete = [], {}, True
    for reader, start in zip(readers, (0, middle, attached, 0), strict=True):
        offsets, wanted = _offsets(reader), range(start, total)
        counts, in_order = count_deliveries(offsets, wanted), offsets == sorted(offsets)
        before = _BAR * start // total
        bar = " " * before + "█" * (_BAR - before)
        row = (reader.name, bar, _span(offsets), f"{len(offsets):,}", f"{counts.lost:,}", "yes" if in_order else "no")
        rows.append(row)
        numbers[reader.name] = {"received": len(offsets), "in_order": in_order, **counts.faults}
        complete &= offsets == list(wanted)
    text = output.table(rows, header=("reader", "the log", "events", "", "lost", "in order"), numbers=(3, 4))
    return Result(complete, text, {"published": total, "readers": numbers})


def _read(runner: DemoRunner, name: str, *offset: str) -> DemoProcess:
    return runner.start(name, "consume", _LOG, *offset, hidden=ENVELOPES, comment=name)


def _offsets(reader: DemoProcess) -> list[int]:
    return [json.loads(line)["headers"]["x-stream-offset"] for line in reader.lines()]


def _slow(count: int) -> str:
    """Return the rate at which publishing takes a while."""
    return str(max(count // _PUBLISH_S, 1))


def _span(numbers: list[int]) -> str:
    return f"{numbers[0]:,} to {numbers[-1]:,}" if numbers else "none"


def priority(runner: DemoRunner) -> Result:
    """Queue jobs of several priorities, and see in which order a worker gets them."""
    runner.apply()
    for priority in _PRIORITIES:
        runner.publish("--priority", str(priority))
    published = [(priority, number) for priority in _PRIORITIES for number in range(runner.count)]
    worker = runner.start("worker", "consume", _JOBS, hidden=ENVELOPES, comment="starts when all jobs are queued")
    runner.wait_for_lines({worker: len(published)})
    runner.end()
    envelopes = [json.loads(line) for line in worker.lines()]
    received = [(envelope["priority"], int(envelope["body"])) for envelope in envelopes]
    in_order = received == sorted(published, key=lambda job: -job[0])  # within a priority, as published
    lost = count_deliveries(received, published).lost
    rows = [("published", _runs(published)), ("received", _runs(received)), ("lost", str(lost))]
    numbers = {"published": len(published), "received": len(received), "in_order": in_order, "lost": lost}
    return Result(in_order, output.table(rows), numbers)


def _runs(jobs: list[_Job]) -> str:
    """Draw jobs in their order, by priority: a digit for each if they are few."""
    runs = [(str(priority), len(list(group))) for priority, group in groupby(priority for priority, _ in jobs)]
    return "  ".join(digit * length if length <= _DIGITS else f"{length:,} of {digit}" for digit, length in runs)


def single_active(runner: DemoRunner) -> Result:
    """Publish while several consume, and kill the active one."""
    runner.apply()
    consumers: list[DemoProcess] = []
    for number in range(1, runner.workers + 1):
        comment = "the first is active" if number == 1 else "stands by"
        consumers.append(runner.start(f"consumer {number}", "consume", _LEDGER, comment=comment))
        runner.wait_for_consumers(_LEDGER, *consumers)
    first, *others = consumers
    publish = ("publish", "-n", str(runner.count), "--rate", _slow(runner.count))
    runner.start("publisher", *publish, comment="in the background")
    if others:
        runner.wait(lambda: len(first.lines()) >= runner.count // 3, first)
        runner.kill(first, "the active one")
    last = [b"%d" % (runner.count - 1)]
    runner.wait(lambda: any(each.lines()[-1:] == last for each in consumers), *(others or consumers))
    runner.end()
    return _takeover(runner.count, {each.name: [int(line) for line in each.lines()] for each in consumers})


def _takeover(count: int, received: Mapping[str, list[int]]) -> Result:
    counts = count_deliveries((number for numbers in received.values() for number in numbers), range(count))
    in_order = all(numbers == sorted(numbers) for numbers in received.values())
    one_at_a_time = not any(list(received.values())[2:])  # the second took over, so no later one had a turn
    remarks = {"duplicated": "printed by the killed one, but not yet acknowledged" if counts.duplicated else ""}
    rows = [(name, _span(numbers), f"{len(numbers):,}") for name, numbers in received.items()]
    order = "Each received its messages in order." if in_order else "Messages arrived out of order."
    table = output.table(rows, header=("consumer", "messages", ""), numbers=(2,))
    text = f"{table}\n\n{totals({'published': count, **counts.faults}, remarks)}\n\n{order}"
    by_consumer = {name: len(numbers) for name, numbers in received.items()}
    numbers: dict[str, Any] = {"published": count, "received": by_consumer, "in_order": in_order, **counts.faults}
    return Result(counts.complete and in_order and one_at_a_time, text, numbers)
