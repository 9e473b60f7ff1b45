"""The demo of delayed retries: tasks that succeed at once, at the third try, or never."""

import json
import time
from collections import defaultdict
from itertools import pairwise

from rmqkit.cli import output
from rmqkit.cli.demos.runner import ENVELOPES, DemoRunner, Result
from rmqkit.errors import HandlerError
from rmqkit.message import Delivery
from rmqkit.topology.examples import find

_QUEUE, _PARKED = "tasks", "tasks_parked"
_EXAMPLE, _SHORTER = "5s, 30s, 2m", "500ms, 1s, 2s"  # a demo should not take minutes
_DELAYS_S = (0.5, 1, 2)
_TRIES = {"easy": 1, "flaky": 3, "hopeless": 4}  # by kind of task


def handle(task: Delivery) -> None:
    """Fail for a hopeless task always, for a flaky one twice; print the task and the time of the try."""
    kind = task.body.decode().split()[0]
    attempt = 1 + int((task.properties.headers or {}).get("x-rmqkit-attempts", 0))
    output.out(json.dumps([task.body.decode(), time.monotonic()]))
    if attempt < _TRIES[kind] or kind == "hopeless":
        raise HandlerError(f"no luck at try {attempt}")


def run(runner: DemoRunner) -> Result:
    """Publish tasks of each kind, and check when they were tried, and which were parked."""
    shorter = find("retry").read_text("utf-8").replace(_EXAMPLE, _SHORTER)
    (runner.broker.folder / "retry.yaml").write_text(shorter, "utf-8")
    runner.note(f"$ sed 's/{_EXAMPLE}/{_SHORTER}/' topologies/retry.yaml >retry.yaml")
    runner.apply("retry.yaml")
    for kind in _TRIES:
        runner.publish("--template", f"{kind} {{{{ n }}}}")
    handler = f"{__name__}:{handle.__name__}"
    worker = runner.start("worker", "consume", _QUEUE, "--handler", handler, comment="fails often")
    runner.wait_for_lines({worker: runner.count * sum(_TRIES.values())})
    runner.wait(lambda: runner.connection.queue_state(_PARKED).ready == runner.count, worker)
    runner.end()
    output_lines = runner.run("consume", _PARKED, "--idle-timeout", "0.5", hidden=ENVELOPES, comment="the parked tasks")
    parked = [json.loads(line) for line in output_lines.splitlines()]
    reasons = {envelope["body"]: envelope["headers"]["x-rmqkit-reason"] for envelope in parked}
    times: dict[str, list[float]] = defaultdict(list)
    for line in worker.lines():
        body, at_s = json.loads(line)
        times[body].append(at_s)
    return _result(runner.count, times, reasons, complete=len(parked) == len(reasons) == runner.count)


def _result(count: int, times: dict[str, list[float]], reasons: dict[str, str], *, complete: bool) -> Result:
    rows, numbers = [], {}
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
    return Result(complete, text, {"published": count * len(_TRIES), **numbers})
