"""`rmqkit demo streams`: several readers of one log, each from a place of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rmqkit.cli import output
from rmqkit.cli.demos.runner import ENVELOPES, DemoProcess, DemoRunner, Result

_QUEUE = "events"
_BAR = 24  # characters, for the whole log
_SECONDS = 2  # that the second half takes, for whom it may take a while to be there


def run(stage: DemoRunner) -> Result:
    """Publish, read from several places, publish more, and read all of it once more."""
    stage.apply("topologies/stream.yaml")
    stage.publish("-n", str(stage.count))
    middle, total = stage.count // 2, 2 * stage.count
    places = {"from the first": ["--offset", "first"], "from the middle": ["--offset", str(middle)], "from now on": []}
    first, half, late = (_read(stage, name, *offset) for name, offset in places.items())
    stage.wait_for_lines(
        {first: stage.count, half: stage.count - middle}
    )  # the broker does not tell who reads a stream
    stage.publish("-n", str(stage.count), "--rate", str(max(stage.count // _SECONDS, 1)))
    again = _read(stage, "all of it again", "--offset", "first")
    readers = (first, half, late, again)
    stage.wait(lambda: all(_offsets(reader)[-1:] == [total - 1] for reader in readers), *readers)
    stage.end()
    came = {reader.name: _offsets(reader) for reader in readers}
    begin = min([each for each in came[late.name] if each >= stage.count], default=stage.count)  # when it was there
    return _result(came, dict(zip(came, (0, middle, begin, 0), strict=True)), total)


def _read(stage: DemoRunner, name: str, *offset: str) -> DemoProcess:
    return stage.start(name, "consume", _QUEUE, *offset, unseen=ENVELOPES, comment=name)


def _offsets(reader: DemoProcess) -> list[int]:
    return [json.loads(line)["headers"]["x-stream-offset"] for line in reader.lines()]


def _result(came: Mapping[str, list[int]], firsts: Mapping[str, int], total: int) -> Result:
    """Compare the offsets that came to each reader with those from its first one on."""
    rows, numbers, complete = [], {}, True
    for name, offsets in came.items():
        wanted = range(firsts[name], total)
        lost, unexpected = len(set(wanted) - set(offsets)), len(set(offsets) - set(wanted))
        in_order = offsets == sorted(offsets)
        before = _BAR * firsts[name] // total
        bar = " " * before + "█" * (_BAR - before)
        span = f"{offsets[0]:,} to {offsets[-1]:,}" if offsets else "none"
        rows.append((name, bar, span, f"{len(offsets):,}", f"{lost:,}", "yes" if in_order else "no"))
        numbers[name] = {"came": len(offsets), "in_order": in_order, "lost": lost, "unexpected": unexpected}
        complete &= offsets == list(wanted)
    text = output.table(rows, header=("reader", "the log", "events", "", "lost", "in order"), numbers=(3, 4))
    return Result(complete, text, {"published": total, "readers": numbers})
