"""Results of demos of the order of deliveries: a log with several readers, priorities, a single active consumer."""

from itertools import groupby
from typing import Any

from rmqkit.cli import output
from rmqkit.cli.demos.runner import DemoProcess, DemoResult, DemoRunner, count_deliveries, totals

_BAR = 24  # characters, for the whole log
_DIGITS = 20
_Job = tuple[int, int]  # a priority, and the number of the job within it


def from_offsets(runner: DemoRunner) -> DemoResult:
    """Wait until all readers are at the end of the log, and check where each began, and the order."""
    total, readers = 2 * runner.count, runner.processes.values()
    runner.wait_until(lambda: all(_offsets(reader)[-1:] == [total - 1] for reader in readers))
    runner.end()
    late = _offsets(runner.processes["from now on"])
    attached = min([each for each in late if each >= runner.count], default=runner.count)
    rows, numbers, complete = [], {}, True
    for reader, start in zip(readers, (0, runner.count // 2, attached, 0), strict=True):
        offsets, wanted = _offsets(reader), range(start, total)
        counts, in_order = count_deliveries(offsets, wanted), offsets == sorted(offsets)
        before = _BAR * start // total
        bar = " " * before + "█" * (_BAR - before)
        row = (reader.name, bar, _span(offsets), f"{len(offsets):,}", f"{counts.lost:,}", "yes" if in_order else "no")
        rows.append(row)
        numbers[reader.name] = {"received": len(offsets), "in_order": in_order, **counts.faults}
        complete &= offsets == list(wanted)
    text = output.table(rows, header=("reader", "the log", "events", "", "lost", "in order"), numbers=(3, 4))
    return DemoResult(complete, text, {"published": total, "readers": numbers})


def _offsets(reader: DemoProcess) -> list[int]:
    return [envelope["headers"]["x-stream-offset"] for envelope in reader.printed()]


def _span(numbers: list[int]) -> str:
    return f"{numbers[0]:,} to {numbers[-1]:,}" if numbers else "none"


def by_priority(runner: DemoRunner) -> DemoResult:
    """Check in which order the worker gets the jobs."""
    priorities = [int(kind) for kind in runner.reports]
    published = [(priority, number) for priority in priorities for number in range(runner.count)]
    (worker,) = runner.processes.values()
    runner.wait({worker.name: str(len(published))})
    runner.end()
    received = [(envelope["priority"], int(envelope["body"])) for envelope in worker.printed()]
    in_order = received == sorted(published, key=lambda job: -job[0])  # within a priority, as published
    lost = count_deliveries(received, published).lost
    rows = [("published", _runs(published)), ("received", _runs(received)), ("lost", str(lost))]
    numbers = {"published": len(published), "received": len(received), "in_order": in_order, "lost": lost}
    return DemoResult(in_order, output.table(rows), numbers)


def _runs(jobs: list[_Job]) -> str:
    """Draw jobs in their order, by priority: a digit for each if they are few."""
    runs = [(str(priority), len(list(group))) for priority, group in groupby(priority for priority, _ in jobs)]
    return "  ".join(digit * length if length <= _DIGITS else f"{length:,} of {digit}" for digit, length in runs)


def takeover(runner: DemoRunner) -> DemoResult:
    """Wait for the last message, and check that one consumer after the other received all in order."""
    consumers = [each for name, each in runner.processes.items() if name.startswith("consumer")]
    last = [b"%d" % (runner.count - 1)]
    runner.wait_until(lambda: any(each.lines()[-1:] == last for each in consumers))
    runner.end()
    received = {each.name: [int(line) for line in each.lines()] for each in consumers}
    counts = count_deliveries((number for numbers in received.values() for number in numbers), range(runner.count))
    in_order = all(numbers == sorted(numbers) for numbers in received.values())
    one_at_a_time = not any(list(received.values())[2:])  # the second took over, so no later one had a turn
    remarks = {"duplicated": "printed by the killed one, but not yet acknowledged" if counts.duplicated else ""}
    rows = [(name, _span(numbers), f"{len(numbers):,}") for name, numbers in received.items()]
    order = "Each received its messages in order." if in_order else "Messages arrived out of order."
    table = output.table(rows, header=("consumer", "messages", ""), numbers=(2,))
    text = f"{table}\n\n{totals({'published': runner.count, **counts.faults}, remarks)}\n\n{order}"
    by_consumer = {name: len(numbers) for name, numbers in received.items()}
    numbers: dict[str, Any] = {"published": runner.count, "received": by_consumer, "in_order": in_order}
    return DemoResult(counts.complete and in_order and one_at_a_time, text, numbers | counts.faults)
