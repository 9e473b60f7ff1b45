"""`rmqkit demo retry`: tasks that succeed at once, at the third try, or never."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from itertools import pairwise
from typing import Any

from rmqkit.cli import output
from rmqkit.cli.demos.runner import ENVELOPES, DemoRunner, Result
from rmqkit.errors import HandlerError
from rmqkit.message import Delivery
from rmqkit.topology.examples import find

_QUEUE, _PARKED = "tasks", "tasks_parked"
_SHIPPED, _SHORTER = "5s, 30s, 2m", "500ms, 1s, 2s"  # no demo takes so long
_DONE = "done"
_DELAYS_S = (0.5, 1, 2)
_TRIES = {"easy": 1, "flaky": 3, "hopeless": 4}  # the kinds of task, and how often each is tried


def handle(task: Delivery) -> None:
    """Fail on a hopeless task always, on a flaky one twice; say what was tried, and when."""
    kind = task.body.decode().split()[0]
    attempt = 1 + int((task.properties.headers or {}).get("x-rmqkit-attempts", 0))
    output.out(json.dumps([task.body.decode(), time.monotonic()]))
    if attempt < _TRIES[kind] or kind == "hopeless":
        raise HandlerError(f"no luck at try {attempt}")


def run(stage: DemoRunner) -> Result:
    """Publish tasks of each kind, and see when they were tried, and what became of them."""
    shorter = find("retry").read_text("utf-8").replace(_SHIPPED, _SHORTER)
    (stage.place.folder / "retry.yaml").write_text(shorter, "utf-8")
    stage.note(f"$ sed 's/{_SHIPPED}/{_SHORTER}/' topologies/retry.yaml >retry.yaml")
    stage.apply("retry.yaml")
    for kind in _TRIES:
        stage.publish("-n", str(stage.count), "--template", f"{kind} {{{{ n }}}}")
    handler = f"{__name__}:{handle.__name__}"
    worker = stage.start("worker", "consume", _QUEUE, "--handler", handler, comment="fails often")
    stage.wait_for_lines({worker: stage.count * sum(_TRIES.values())})
    stage.wait(lambda: stage.connection.queue_state(_PARKED).ready == stage.count, worker)
    stage.end()
    parked = stage.run("consume", _PARKED, "--idle-timeout", "0.5", unseen=ENVELOPES, comment="what was parked")
    return _result(stage.count, worker.lines(), [json.loads(line) for line in parked.splitlines()])


def _result(count: int, lines: list[bytes], parked: list[dict[str, Any]]) -> Result:
    times: dict[str, list[float]] = defaultdict(list)
    for line in lines:
        body, at_s = json.loads(line)
        times[body].append(at_s)
    reasons = {envelope["body"]: envelope["headers"]["x-rmqkit-reason"] for envelope in parked}
    rows, numbers, complete = [], {}, len(parked) == len(reasons)
    for kind, tries in _TRIES.items():
        bodies = [f"{kind} {number}" for number in range(count)]
        waits_s = [[after - before for before, after in pairwise(times[body])] for body in bodies]
        ended = [reasons.get(body, _DONE) for body in bodies]
        as_promised = all(len(each) == tries - 1 and _is_late_enough(each) for each in waits_s)
        as_promised &= all((reason != _DONE) == (kind == "hopeless") for reason in ended)
        means_s = [round(sum(each) / len(each), 3) for each in zip(*waits_s, strict=False)]
        again = ", ".join(f"{mean:.1f} s" for mean in means_s)
        rows.append(
            (f"{count:,} {kind}", f"{sum(len(times[body]) for body in bodies) / count:g}", again, _short(ended[0]))
        )
        numbers[kind] = {"tries": tries, "waits_s": means_s, "ended": ended[0], "as_promised": as_promised}
        complete &= as_promised
    header = ("tasks", "tries each", "again after", "in the end")
    text = output.table(rows, header=header, numbers=(1,))
    return Result(complete and len(reasons) == count, text, {"published": count * len(_TRIES), **numbers})


def _is_late_enough(waits_s: list[float]) -> bool:
    return all(wait >= delay for wait, delay in zip(waits_s, _DELAYS_S, strict=False))


def _short(reason: str) -> str:
    """Leave out where the handler failed."""
    return f"parked: {reason.rpartition(': ')[2]}" if reason != _DONE else reason
