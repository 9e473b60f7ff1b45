"""The benchmark of topologies: 1,000 queues and 10,000 bindings, checked, planned, applied, and imported by others.

    python tests/benchmarks/topologies.py [--quick] [--write docs/performance.md]

Each run has a virtual host of its own on one private node; the contestants take turns, in an order that changes each
round, and what each declared is counted. Exits 1 if a requirement is not met.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from contestants import RMQKIT
from report import Judged, judge_most, judged_table, machine, write

from rmqkit.node import Node

ROUNDS = 5
QUEUES, BINDINGS_EACH = 1000, 10
SECONDS = 10.0  # "in seconds"
PIKA = Path(__file__).parent / "peers" / "declare_with_pika.py"


@dataclass(frozen=True)
class Place:
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
    """Somebody's way to do a job; `declares` tells whether the broker is empty before and full after it."""

    name: str
    run: Callable[[Place], object]
    declares: bool = True

    def __str__(self) -> str:
        return self.name


def import_with_ctl(place: Place) -> None:
    """Import and wait for the end: rabbitmqctl says itself that it comes back earlier."""
    place.node.ctl("import_definitions", str(place.folder / f"{place.vhost}.json"))
    while place.declared() != (QUEUES, QUEUES * BINDINGS_EACH):
        time.sleep(0.05)


def import_over_http(place: Place) -> None:
    place.call("POST", "definitions", (place.folder / f"{place.vhost}.json").read_bytes())


def declare_with_pika(place: Place) -> None:
    command = [sys.executable, str(PIKA), place.url, str(place.folder / f"{place.vhost}.json")]
    subprocess.run(command, check=True)


VALIDATE = Contestant("`rmqkit validate`", lambda place: place.rmqkit("validate"), declares=False)
PLAN = Contestant("`rmqkit plan`, nothing there", lambda place: place.rmqkit("plan"), declares=False)
APPLY = Contestant("`rmqkit apply`", lambda place: place.rmqkit("apply"))
AMQP_ALONE = Contestant("`rmqkit apply`, AMQP alone", lambda place: place.rmqkit("apply", api=False))
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
            "source": kinds[turn % len(kinds)],
            "destination": queue["name"],
            "destination_type": "queue",
            "routing_key": f"key.{turn}.{queue['name']}",
            "arguments": {},
        }
        for queue in queues
        for turn in range(BINDINGS_EACH)
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


def measure(node: Node, api: str, url: str, folder: Path, rounds: int) -> dict[Contestant, list[float]]:
    found = entities()
    (folder / "topology.yaml").write_text(as_yaml(found))
    seconds: dict[Contestant, list[float]] = {each: [] for each in CONTESTANTS}
    for turn in range(rounds):
        for each in random.Random(turn).sample(CONTESTANTS, len(CONTESTANTS)):
            vhost = f"round-{turn}-{CONTESTANTS.index(each)}"
            place = Place(node, api, folder, vhost, f"{url.rstrip('/')}/{vhost}")
            place.call("PUT", f"vhosts/{vhost}")
            in_vhost = {kind: [{**one, "vhost": vhost} for one in some] for kind, some in found.items()}
            (folder / f"{vhost}.json").write_text(json.dumps(in_vhost))
            begun = time.perf_counter()
            each.run(place)
            seconds[each].append(time.perf_counter() - begun)
            expected = (QUEUES, QUEUES * BINDINGS_EACH) if each.declares else (0, 0)
            if place.declared() != expected:
                sys.exit(f"after {each} there are {place.declared()} queues and bindings, not {expected}")
            place.call("DELETE", f"vhosts/{vhost}")
            print(f"round {turn + 1} of {rounds}  {seconds[each][-1]:6.2f} s  {each}", file=sys.stderr, flush=True)
    return seconds


def judge(seconds: dict[Contestant, list[float]]) -> list[Judged]:
    medians = {each: statistics.median(found) for each, found in seconds.items()}
    judged = [judge_most(str(each), medians[each], SECONDS, "s") for each in (VALIDATE, PLAN, APPLY, AMQP_ALONE)]
    against = f"{APPLY} against {CTL}"
    return [*judged, judge_most(against, medians[APPLY] / medians[CTL], 1.5, "times its seconds")]


def render(seconds: dict[Contestant, list[float]], judged: list[Judged], version: str) -> str:
    own = statistics.median(seconds[APPLY])
    rows = []
    for each, found in sorted(seconds.items(), key=lambda item: statistics.median(item[1])):
        median = statistics.median(found)
        ratio = "" if each is APPLY or not each.declares else f"{median / own:.2f} times `rmqkit apply`"
        rows.append(f"| {each} | {median:.2f} | {min(found):.2f} to {max(found):.2f} | {ratio} |")
    command = " ".join(["python", "tests/benchmarks/topologies.py", *sys.argv[1:]])
    head = [f"{datetime.now(UTC):%Y-%m-%d}, `{command}`. {machine()}. RabbitMQ {version}.", ""]
    head += ["| 1,000 queues, 10,000 bindings | median s | fastest to slowest s | |", "|---|---:|---:|---|"]
    return "\n".join([*head, *rows, "", *judged_table(judged)])


def main() -> int:
    parser = argparse.ArgumentParser(description="Check, plan and apply a large topology, and import it otherwise.")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the markers of FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rmqkit-bench-") as folder:
        node = Node(Path(folder, "node"))
        status = node.start(0)
        try:
            api = status.management_url.rstrip("/")
            seconds = measure(node, api, status.url, Path(folder), 1 if options.quick else ROUNDS)
        finally:
            node.discard()
    judged = judge(seconds)
    text = render(seconds, judged, status.version)
    print(text)
    if options.write:
        write(options.write, text, "topologies.py")
    return 0 if all(each.met for each in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
