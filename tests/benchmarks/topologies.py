"""The benchmark of topologies: 1,000 queues and 10,000 bindings, checked, planned, applied, and imported by others.

    python -m tests.benchmarks.topologies [--quick] [--write docs/performance.md]

Each run has its own virtual host on one private node; the contestants take turns, in an order that changes each
round, and the declared entities are counted. Exits 1 if a requirement is not met.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from rmqkit.node.node import Node
from tests.benchmarks.benchmark import BenchmarkNode, main, medians, run_in_turns
from tests.benchmarks.clients import RMQKIT
from tests.benchmarks.results import Requirement, require_most

QUEUES, BINDINGS_EACH = 1000, 10
SECONDS = 10.0  # "in seconds"
PIKA = Path(__file__).parent / "peers" / "declare_with_pika.py"


@dataclass(frozen=True)
class TopologyRun:
    """A node, a folder with the same topology in every peer's format, and the virtual host of the run."""

    node: Node
    api: str
    folder: Path
    vhost: str
    url: str

    def call(self, method: str, path: str, body: bytes | None = None) -> Any:
        login = b64encode(b"guest:guest").decode()
        headers = {"authorization": f"Basic {login}", "content-type": "application/json"}
        request = Request(f"{self.api}/api/{path}", body, headers, method=method)
        with urlopen(request, timeout=120) as response:
            content = response.read()
        return json.loads(content) if content else None

    def rmqkit(self, *arguments: str, api: bool = True) -> None:
        env = os.environ | {"RMQKIT_URL": self.url, "XDG_STATE_HOME": str(self.folder)}
        env |= {"RMQKIT_API_URL": self.api if api else ""}
        command = [RMQKIT, arguments[0], str(self.folder / "topology.yaml"), *arguments[1:]]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")

    def declared(self) -> tuple[int, int]:
        queues = self.call("GET", f"queues/{self.vhost}?columns=name")
        bindings = self.call("GET", f"bindings/{self.vhost}")
        return len(queues), sum(1 for each in bindings if each["source"])


@dataclass(frozen=True)
class Contestant:
    """A job and a client that does it; `declares` if the virtual host is empty before it and full after it."""

    name: str
    run: Callable[[TopologyRun], object]
    declares: bool = True

    def __str__(self) -> str:
        return self.name


def import_with_ctl(run_context: TopologyRun) -> None:
    """Import and wait for the end: rabbitmqctl says itself that it comes back earlier."""
    run_context.node.ctl("import_definitions", str(run_context.folder / f"{run_context.vhost}.json"))
    while run_context.declared() != (QUEUES, QUEUES * BINDINGS_EACH):
        time.sleep(0.05)


def import_over_http(run_context: TopologyRun) -> None:
    run_context.call("POST", "definitions", (run_context.folder / f"{run_context.vhost}.json").read_bytes())


def declare_with_pika(run_context: TopologyRun) -> None:
    command = [sys.executable, str(PIKA), run_context.url, str(run_context.folder / f"{run_context.vhost}.json")]
    subprocess.run(command, check=True)


VALIDATE = Contestant("`rmqkit validate`", lambda run_context: run_context.rmqkit("validate"), declares=False)
PLAN = Contestant("`rmqkit plan`, nothing there", lambda run_context: run_context.rmqkit("plan"), declares=False)
APPLY = Contestant("`rmqkit apply`", lambda run_context: run_context.rmqkit("apply"))
AMQP_ALONE = Contestant("`rmqkit apply`, AMQP alone", lambda run_context: run_context.rmqkit("apply", api=False))
CTL = Contestant("`rabbitmqctl import_definitions`, until all is there", import_with_ctl)
HTTP = Contestant("`POST /api/definitions`", import_over_http)
BLOCKING = Contestant("pika script, one declaration after the other", declare_with_pika)
CONTESTANTS = (VALIDATE, PLAN, APPLY, AMQP_ALONE, CTL, HTTP, BLOCKING)


def entities() -> dict[str, list[dict[str, Any]]]:
    """Return the topology in the shape of RabbitMQ's definitions."""
    kinds = ("topic", "direct", "fanout", "headers")
    common = {"durable": True, "auto_delete": False}
    exchanges = [{"name": kind, "type": kind, "internal": False, "arguments": {}, **common} for kind in kinds]
    queues = [
        {"name": f"queue.{number:04}", "arguments": {"x-max-length": number + 1}, **common} for number in range(QUEUES)
    ]
    bindings = [
        {
            "source": kinds[number % len(kinds)],
            "destination": queue["name"],
            "destination_type": "queue",
            "routing_key": f"key.{number}.{queue['name']}",
            "arguments": {},
        }
        for queue in queues
        for number in range(BINDINGS_EACH)
    ]
    return {"exchanges": exchanges, "queues": queues, "bindings": bindings}


def as_yaml(found: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["exchanges:", *(f"  {each['name']}: {{type: {each['type']}}}" for each in found["exchanges"])]
    lines += [
        "queues:",
        *(f"  {each['name']}: {{arguments: {json.dumps(each['arguments'])}}}" for each in found["queues"]),
    ]
    kept = ("source", "destination", "routing_key")
    lines += ["bindings:", *(f"  - {json.dumps({key: each[key] for key in kept})}" for each in found["bindings"])]
    return "\n".join(lines) + "\n"


def run(each: Contestant, run_context: TopologyRun, found: dict[str, list[dict[str, Any]]]) -> float:
    """Let a contestant do its job on a virtual host of its own; return the seconds."""
    run_context.call("PUT", f"vhosts/{run_context.vhost}")
    in_vhost = {kind: [{**one, "vhost": run_context.vhost} for one in some] for kind, some in found.items()}
    (run_context.folder / f"{run_context.vhost}.json").write_text(json.dumps(in_vhost))
    begun = time.perf_counter()
    each.run(run_context)
    seconds = time.perf_counter() - begun
    expected = (QUEUES, QUEUES * BINDINGS_EACH) if each.declares else (0, 0)
    if run_context.declared() != expected:
        sys.exit(f"after {each} there are {run_context.declared()} queues and bindings, not {expected}")
    run_context.call("DELETE", f"vhosts/{run_context.vhost}")
    return seconds


def measure_all(node: BenchmarkNode) -> tuple[list[str], list[Requirement]]:
    found, numbers = entities(), count()
    (node.folder / "topology.yaml").write_text(as_yaml(found))

    def run_in_vhost(each: Contestant) -> float:
        vhost = f"run-{next(numbers)}"
        url = f"{node.url.rstrip('/')}/{vhost}"
        return run(each, TopologyRun(node.node, node.status.management_url.rstrip("/"), node.folder, vhost, url), found)

    seconds = run_in_turns(CONTESTANTS, node.rounds, run_in_vhost, "s")
    median = medians(seconds)
    table = ["| 1,000 queues, 10,000 bindings | median s | fastest to slowest s | |", "|---|---:|---:|---|"]
    for each in sorted(seconds, key=lambda each: median[each]):
        ratio = "" if each is APPLY or not each.declares else f"{median[each] / median[APPLY]:.2f} times `rmqkit apply`"
        spread = f"{min(seconds[each]):.2f} to {max(seconds[each]):.2f}"
        table.append(f"| {each} | {median[each]:.2f} | {spread} | {ratio} |")
    requirements = [require_most(str(each), median[each], SECONDS, "s") for each in (VALIDATE, PLAN, APPLY, AMQP_ALONE)]
    against = f"{APPLY} against {CTL}"
    return table, [*requirements, require_most(against, median[APPLY] / median[CTL], 1.5, "times its seconds")]


if __name__ == "__main__":
    sys.exit(main(measure_all, "Check, plan and apply a large topology, and import it otherwise.", "one round"))
