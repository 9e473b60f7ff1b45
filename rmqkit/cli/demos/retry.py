"""The demo of delayed retries: the handler, whose tasks succeed at once, at the third try, or never, and the result."""

import json
import time
from collections import defaultdict
from itertools import pairwise

from rmqkit.cli import output
from rmqkit.cli.demos.runner import ENVELOPES, DemoResult, DemoRunner
from rmqkit.errors import HandlerError
from rmqkit.message import Delivery

_PARKED = "tasks_parked"
_DELAYS_S = (0.5, 1, 2)
_TRIES = {"easy": 1, "flaky": 3, "hopeless": 4}  # by kind of task


def handle(task: Delivery) -> None:
    """Fail for a hopeless task always, for a flaky one twice; print the task and the time of the try."""
    kind = task.body.decode().split()[0]
    attempt = 1 + int((task.properties.headers or {}).get("x-rmqkit-attempts", 0))
    output.out(json.dumps([task.body.decode(), time.monotonic()]))
    if attempt < _TRIES[kind] or kind == "hopeless":
        raise HandlerError(f"no luck at try {attempt}")


def delays(runner: DemoRunner) -> DemoResult:
    """Wait for the last tries, and check when tasks were tried, and which were parked."""
    count, worker = runner.count, runner.processes["worker"]
    runner.wait({worker.name: str(count * sum(_TRIES.values()))})
    runner.wait_until(lambda: runner.connection.queue_state(_PARKED).ready == count)
    runner.end()
    printed = runner.run(f"consume {_PARKED} --idle-timeout 0.5", "the parked tasks", hidden=ENVELOPES).splitlines()
    parked = [json.loads(line) for line in printed]
    reasons = {envelope["body"]: envelope["headers"]["x-rmqkit-reason"] for envelope in parked}
    times: dict[str, list[float]] = defaultdict(list)
    for body, at_s in worker.printed():
        times[body].append(at_s)
    rows, numbers = [], {}
    complete = len(parked) == len(reasons) == count
    for kind, tries in _TRIES.items():
        bodies = [f"{kind} {number}" for number in range(count)]
        waits_s = [[after - before for before, after in pairwise(times[body])] for body in bodies]
        outcomes = [reasons.get(body, "done") for body in bodies]
        as_promised = all(len(each) == tries - 1 for each in waits_s)
        as_promised &= all(wait >= delay for each in waits_s for wait, delay in zip(each, _DELAYS_S, strict=False))
        as_promised &= all((outcome != "done") == (kind == "hopeless") for outcome in outcomes)
        means_s = [round(sum(each) / len(each), 3) for each in zip(*waits_s, strict=False)]
        tries_each = f"{sum(len(times[body]) for body in bodies) / count:g}"
        outcome = outcomes[0] if outcomes[0] == "done" else f"parked: {outcomes[0].rpartition(': ')[2]}"
        rows.append((f"{count:,} {kind}", tries_each, ", ".join(f"{mean:.1f} s" for mean in means_s), outcome))
        numbers[kind] = {"tries": tries, "waits_s": means_s, "ended": outcomes[0], "as_promised": as_promised}
        complete &= as_promised
    text = output.table(rows, header=("tasks", "tries each", "delays", "outcome"), numbers=(1,))
    return DemoResult(complete, text, {"published": count * len(_TRIES), **numbers})
