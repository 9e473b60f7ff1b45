"""`rmqkit demo streams`: several readers of one log, each from a place of its own.

Comes in: a Stage. Goes out: a Result. Room: cli.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from rmqkit.cli import output
from rmqkit.cli.demos.stage import ENVELOPES, Process, Result, Stage

_QUEUE = "events"
_BAR = 24  # characters, for the whole log


class _Reader(NamedTuple):
    """A reader, and the first event that it is to get."""

    process: Process
    first: int


def run(stage: Stage) -> Result:
    """Publish, read from several places, publish more, and read all of it once more."""
    stage.apply("topologies/stream.yaml")
    stage.publish("-n", str(stage.count))
    middle = stage.count // 2
    readers = [
        _read(stage, "from the first", 0, "--offset", "first"),
        _read(stage, "from the middle", middle, "--offset", str(middle)),
        _read(stage, "from now on", stage.count),
    ]
    stage.wait_for_consumers(_QUEUE, *(reader.process for reader in readers))
    stage.publish("-n", str(stage.count))
    total = 2 * stage.count
    readers.append(_read(stage, "all of it again", 0, "--offset", "first"))
    stage.wait_for_lines({reader.process: total - reader.first for reader in readers})
    stage.end()
    return _result(readers, total)


def _read(stage: Stage, name: str, first: int, *offset: str) -> _Reader:
    process = stage.start(name, "consume", _QUEUE, *offset, unseen=ENVELOPES, comment=name)
    return _Reader(process, first)


def _result(readers: Sequence[_Reader], total: int) -> Result:
    rows, numbers, complete = [], {}, True
    for process, first in readers:
        offsets = [json.loads(line)["headers"]["x-stream-offset"] for line in process.lines()]
        wanted = list(range(first, total))
        in_order = offsets == sorted(offsets)
        lost, unexpected = len(set(wanted) - set(offsets)), len(set(offsets) - set(wanted))
        before = _BAR * first // total
        bar = " " * before + "█" * (_BAR - before)
        span = f"{offsets[0]} to {offsets[-1]}" if offsets else "none"
        rows.append((process.name, span, f"{len(offsets):,}", "yes" if in_order else "no", str(lost), bar))
        numbers[process.name] = {
            "first": first,
            "came": len(offsets),
            "in_order": in_order,
            "lost": lost,
            "unexpected": unexpected,
        }
        complete &= offsets == wanted
    header = ("reader", "events", "", "in order", "lost", "the log")
    text = output.table(rows, header=header, numbers=(2, 4))
    return Result(complete, text, {"published": total, "readers": numbers})
