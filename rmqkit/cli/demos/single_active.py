"""`rmqkit demo single-active`: one of several consumers gets everything; it is killed, and the next takes over."""

from __future__ import annotations

from collections.abc import Sequence

from rmqkit.cli import output
from rmqkit.cli.demos.delivery_count import count_deliveries
from rmqkit.cli.demos.runner import DemoProcess, DemoRunner, Result

_QUEUE = "ledger"
_SECONDS = 2  # that publishing takes


def run(stage: DemoRunner) -> Result:
    """Publish while several consume, and kill the active one in the middle."""
    stage.apply("topologies/single_active.yaml")
    consumers: list[DemoProcess] = []
    for number in range(1, stage.workers + 1):
        comment = "active, as it was first" if number == 1 else "waits"
        consumers.append(stage.start(f"consumer {number}", "consume", _QUEUE, comment=comment))
        stage.wait_for_consumers(_QUEUE, *consumers)
    first, *others = consumers
    rate = str(max(stage.count // _SECONDS, 1))
    stage.start("publisher", "publish", "-n", str(stage.count), "--rate", rate, comment="meanwhile")
    if others:
        stage.wait(lambda: first.count() >= stage.count // 3, first)
        first.kill()
        stage.note(f"$ kill -9 {first.pid}", comment="the active one")
    last = [b"%d" % (stage.count - 1)]
    stage.wait(lambda: any(each.lines()[-1:] == last for each in consumers), *(others or consumers))
    stage.end()
    return _result(stage.count, consumers)


def _result(count: int, consumers: Sequence[DemoProcess]) -> Result:
    came = {each.name: [int(line) for line in each.lines()] for each in consumers}
    ledger = count_deliveries((number for numbers in came.values() for number in numbers), range(count))
    in_order = all(numbers == sorted(numbers) for numbers in came.values())
    one_at_a_time = not any(list(came.values())[2:])  # those behind the second never had their turn
    rows = [
        (name, f"{numbers[0]:,} to {numbers[-1]:,}" if numbers else "none", f"{len(numbers):,}")
        for name, numbers in came.items()
    ]
    twice = "printed by the killed one, and not yet acknowledged" if ledger.duplicated else ""
    totals = [
        ("published", f"{count:,}", ""),
        ("lost", f"{ledger.lost:,}", ""),
        (
            "duplicated",
            f"{ledger.duplicated:,}",
            twice,
        ),
        ("in order", "yes" if in_order else "no", ""),
    ]
    text = f"{output.table(rows, header=('consumer', 'messages', ''), numbers=(2,))}\n\n{output.table(totals)}"
    numbers = {
        "published": count,
        "came": {name: len(numbers) for name, numbers in came.items()},
        "in_order": in_order,
        "lost": ledger.lost,
        "duplicated": ledger.duplicated,
        "unexpected": ledger.unexpected,
    }
    return Result(ledger.complete and in_order and one_at_a_time, text, numbers)
