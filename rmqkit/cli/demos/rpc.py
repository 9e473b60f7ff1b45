"""`rmqkit demo rpc`: calls to several servers, one of which is killed half-way, and a count of what was answered."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence

from rmqkit.cli import output
from rmqkit.cli.demos.runner import DemoProcess, DemoRunner, Result
from rmqkit.cli.demos.work import share_table
from rmqkit.message import Delivery, Message, Properties

_QUEUE = "rpc_requests"
_WINDOW = 100
_NUMBER = "RMQKIT_DEMO_SERVER"


def double(request: Delivery) -> Message:
    """Answer a number with its double, and say in a header which server it was; what the servers of the demo run."""
    headers = {"server": int(os.environ[_NUMBER])}
    return Message(b"%d" % (2 * int(request.body)), properties=Properties(headers=headers))


def run(stage: DemoRunner) -> Result:
    """Call servers, kill one of several half-way, and count."""
    stage.apply("topologies/rpc.yaml")
    command = ("serve", _QUEUE, "--handler", f"{__name__}:{double.__name__}", "--prefetch", "20")
    numbers = range(1, stage.workers + 1)
    servers = [stage.start(f"server {number}", *command, **{_NUMBER: str(number)}) for number in numbers]
    stage.wait_for_consumers(_QUEUE, *servers)
    stage.show("serve", _QUEUE, "...", comment=f"{len(servers)} server processes, ready")
    stage.show("call", _QUEUE, "--lines", "...", comment=f"{stage.count:,} calls, {_WINDOW} at once")
    return _call(stage, servers)


def _call(stage: DemoRunner, servers: Sequence[DemoProcess]) -> Result:
    shares: Counter[int] = Counter()
    wrong = unanswered = 0
    started_s = time.monotonic()
    requests = (Message(b"%d" % number, _QUEUE) for number in range(stage.count))
    with output.progress("answered", stage.count) as show:
        for number, answer in enumerate(stage.connection.call_many(requests, window=_WINDOW)):
            if answer.error is not None:
                unanswered += 1
                continue
            shares[int((answer.reply.properties.headers or {}).get("server", 0))] += 1
            wrong += answer.reply.body != b"%d" % (2 * number)
            show(number + 1, "")
            if number == stage.count // 2 and len(servers) > 1:
                servers[-1].kill()
                stage.note(f"$ kill -9 {servers[-1].pid}", f"{servers[-1].name}; others answer")
    seconds = max(time.monotonic() - started_s, 1e-6)
    by_name = {server.name: shares[number] for number, server in enumerate(servers, 1)}
    return _result(stage.count, by_name, wrong, unanswered, seconds)


def _result(calls: int, shares: dict[str, int], wrong: int, unanswered: int, seconds: float) -> Result:
    answered = sum(shares.values())
    totals = [
        ("calls", f"{calls:,}", f"{calls / seconds:,.0f} a second, {_WINDOW} at once"),
        ("answered", f"{answered:,}", ""),
        ("wrong", f"{wrong:,}", ""),
        ("unanswered", f"{unanswered:,}", ""),
    ]
    numbers = {
        "calls": calls,
        "answered": answered,
        "wrong": wrong,
        "unanswered": unanswered,
        "shares": shares,
        "call_rate": round(calls / seconds),
        "seconds": round(seconds, 3),
    }
    text = f"{share_table('server', 'replies', shares)}\n\n{output.table(totals)}"
    return Result(not wrong and not unanswered and answered == calls, text, numbers)
