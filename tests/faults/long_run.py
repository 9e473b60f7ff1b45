"""Run the scenarios of the fault tests for hours, at random moments, one after the other, on private nodes.

python -m tests.faults.long_run [--rounds 50] [--seed N] [--only WORDS] [--write docs/reliability.md]
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import platform
import random
import signal
import statistics
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rmqkit.errors import NodeError
from rmqkit.node.cluster import Cluster
from rmqkit.node.node import Node
from rmqkit.node.process import wait_until
from rmqkit.node.reaper import reap_when_done
from tests.faults import scenarios_broker as broker
from tests.faults import scenarios_cluster as cluster
from tests.faults import scenarios_input_output as input_output
from tests.faults import scenarios_network as network
from tests.faults import scenarios_pipes as pipes
from tests.faults import scenarios_process as process
from tests.faults import scenarios_services as services
from tests.faults import scenarios_topology as topology
from tests.faults import scenarios_volume as volume
from tests.faults.fault_run import FaultSetup, Result, io_threads, open_files
from tests.faults.scenarios_cluster import ClusterSetup

BEGIN, END = "<!-- faults: begin (written by tests/faults/long_run.py) -->", "<!-- faults: end -->"


class FaultBrokers:
    """The node and the cluster that the runs kill; new ones are started if one did not restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._node: Node | None = None
        self._cluster: Cluster | None = None

    def node(self) -> FaultSetup:
        if self._node is None:
            self._node = Node(self._new("node"))
            self._node.start(port=0)
        return FaultSetup.of_node(self._node, self._new("round"))

    def cluster(self) -> FaultSetup:
        if self._cluster is None:
            self._cluster = Cluster(self._new("cluster"))
            self._cluster.start(port=0)
        return ClusterSetup(self._cluster, self._new("round"))

    def discard(self) -> None:
        """Let new ones be started for the next round."""
        for each in (self._node, self._cluster):
            with suppress(NodeError, OSError):
                if each is not None:
                    each.discard()
        self._node = self._cluster = None

    def _new(self, name: str) -> Path:
        return self._folder / f"{name}-{uuid.uuid4().hex[:12]}"


@dataclass
class Fault:
    """A fault, its number and its results; a long scenario runs once in `every` rounds."""

    number: str
    words: str
    scenario: Callable[[Any, random.Random], Result]
    place: Callable[[FaultBrokers], FaultSetup] = FaultBrokers.node
    every: int = 1
    most_s: int = 180  # for a round: what takes longer hangs
    results: list[Result] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    void: int = 0  # rounds that RabbitMQ itself did not survive

    def row(self) -> str:
        """Return the fault's row of the table."""
        total = {
            name: sum(getattr(each, name) for each in self.results)
            for name in ("messages", "lost", "duplicated", "unknown")
        }
        times = [each.recovery_s for each in self.results if each.recovery_s is not None]
        recovery = f"{statistics.median(times):.1f} | {max(times):.1f}" if times else "|"
        numbers = " | ".join(f"{number:,}" for number in total.values())
        return f"| {self.number} | {self.words} | {len(self.results)} | {numbers} | {recovery} |"


FAULTS = (
    Fault("1", "the broker is killed while publishing", broker.killed_while_publishing),
    Fault("2", "the broker is killed while consuming", broker.killed_while_consuming),
    Fault("1", "the broker is killed under twenty threads that share a connection", services.killed_under_threads),
    Fault("1, 2", "the broker is killed under tasks that publish and consume", services.killed_under_tasks),
    Fault("5", "the connection that twenty threads share is cut", services.cut_under_threads),
    Fault("1, 2", "the broker is killed under tasks that pipe", pipes.killed_under_piping_tasks),
    Fault("5", "the connections of tasks that pipe are cut", pipes.cut_under_piping_tasks),
    Fault("3", "an operator closes all connections, again and again", broker.connections_closed),
    Fault("3", "the broker's application is stopped and started", broker.application_stopped),
    Fault("4", "the broker is frozen for 5 s", broker.frozen),
    Fault("4", "it is frozen for 14 s, the heartbeat being 1 s", broker.frozen_for_long, every=5),
    Fault("5", "cut at 20 bytes of publishes or confirms", network.cut_publishing),
    Fault("5", "cut at 10 bytes of deliveries or acknowledgements", network.cut_consuming),
    Fault("6", "a blackhole, the heartbeat being 1 s", network.swallowed),
    Fault("17", "one key in ten is bound to nothing", volume.one_in_ten_unbound, every=5),
    Fault("26", "SIGINT or SIGTERM while publishing", process.interrupted_publishing),
    Fault("26", "SIGINT or SIGTERM while consuming", process.interrupted_consuming),
    Fault("27", "`publish --resume` is killed three times", process.killed_publishing),
    Fault("", "`consume` is killed, printing or saving", process.killed_consuming),
    Fault("", "`move` is killed three times", process.killed_moving),
    Fault("", "the broker is killed under a move", process.broker_killed_moving),
    Fault("28", "the output fails", input_output.output_fails),
    Fault("29", "the input fails", input_output.input_fails),
    Fault("29", "a file is cut short while it is read", input_output.file_cut_while_read),
    Fault(
        "30", "a million messages, three consumers, one slow, one killed", volume.three_consumers, every=10, most_s=900
    ),
    Fault("32", "a fanout to five queues, one full", volume.fanout_with_one_full),
    Fault("34", "`apply` is killed twice", topology.killed_applying),
    Fault("34", "two `apply` at once", topology.applied_twice_at_once),
    Fault("34", "the broker is killed under an apply", topology.broker_killed_applying),
    Fault("34", "a replacement is killed at a step", topology.killed_replacing),
    Fault("34", "a replacement is killed in mid-move", topology.killed_replacing_in_mid_move),
    Fault("34", "the broker is killed under a replacement", topology.broker_killed_replacing),
    Fault("35", "the leader of a quorum queue is killed", cluster.leader_killed, FaultBrokers.cluster, every=2),
    Fault("35", "the leader is frozen", cluster.leader_frozen, FaultBrokers.cluster, every=2),
    Fault("35", "the leader is cut off from its peers", cluster.leader_cut_off, FaultBrokers.cluster, every=2),
    Fault("35", "the only node that is known is killed", cluster.own_node_killed, FaultBrokers.cluster, every=2),
    Fault("35", "two of three nodes are killed", cluster.two_of_three_killed, FaultBrokers.cluster, every=2),
    Fault("35", "a queue has no leader, its nodes being well", cluster.without_leader, FaultBrokers.cluster, every=2),
    Fault("36", "connections reset every 300 ms, for a minute", network.reset_for_a_minute, every=5),
)


@contextmanager
def bounded(seconds: int) -> Iterator[None]:
    """Raise TimeoutError where the block is after so many seconds."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"a round took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def play(fault: Fault, brokers: FaultBrokers, rng: random.Random) -> str:
    """Play one round, note how it went, and return that in words."""
    files = open_files()
    started_s = time.monotonic()
    try:
        with bounded(fault.most_s):
            setup = fault.place(brokers)
            try:
                result = fault.scenario(setup, rng)
            finally:
                setup.kill_programs()
            setup.clean_up()
    except NodeError as exc:
        fault.void += 1
        brokers.discard()
        return f"RabbitMQ did not start again: {exc.message}"
    except Exception:  # noqa: BLE001 - the next rounds go on
        fault.failures.append(traceback.format_exc())
        brokers.discard()
        return f"FAILED: {fault.failures[-1]}"
    gc.collect()
    if not wait_until(lambda: not io_threads() and not open_files() - files, 10):
        result.violations.append(f"leak: left open: {io_threads()} {open_files() - files}")
    fault.results.append(result)
    fault.failures += result.violations
    recovery = "" if result.recovery_s is None else f", recovery {result.recovery_s:.1f} s"
    numbers = f"{result.messages:,} messages, {result.lost} lost, {result.duplicated:,} duplicated"
    said = "".join(f"\n    {each}" for each in result.violations)
    return f"{numbers}, {result.unknown} unknown{recovery} ({time.monotonic() - started_s:.0f} s){said}"


def table(faults: Sequence[Fault], rounds: int, seed: int) -> str:
    """Return the table, and what it was measured with, as markdown."""
    models = [line.partition(":")[2].strip() for line in _cpu() if line.startswith("model name")]
    machine = f"{models[0] if models else platform.processor()}, {os.cpu_count()} cores"
    void = sum(fault.void for fault in faults)
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, `make test-faults ROUNDS={rounds} SEED={seed}`, {machine}.",
        *([f"RabbitMQ itself did not start again in {void} more rounds."] if void else []),
        "",
        "| | fault | rounds | messages | lost | duplicated | unknown | recovery, s: median | longest |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
        *(fault.row() for fault in faults),
    ]
    return "\n".join(lines)


def _cpu() -> list[str]:
    info = Path("/proc/cpuinfo")
    return info.read_text().splitlines() if info.exists() else []


def write(file: Path, text: str) -> None:
    """Replace what stands between the markers."""
    before, found, rest = file.read_text().partition(BEGIN)
    if not found:
        sys.exit(f"{file} has no line {BEGIN}")
    file.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--only", default="", help="faults that have these words, or this number")
    parser.add_argument("--write", type=Path, help="a file with markers to write the table between")
    return parser.parse_args()


def main() -> int:
    """Play all rounds; return the exit code."""
    wanted = arguments()
    logging.disable()  # pika tells of every lost connection
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background; our children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    faults = [each for each in FAULTS if wanted.only in (each.number, "") or wanted.only in each.words]
    sys.stdout.reconfigure(line_buffering=True)
    sys.stdout.write(f"seed {wanted.seed}\n")
    with reap_when_done(Path(tempfile.mkdtemp(prefix="rmqkit-faults-"))) as folder, suppress(KeyboardInterrupt):
        brokers = FaultBrokers(folder)
        for number in range(wanted.rounds):  # all faults in turn, so that a run that is stopped has seen all of them
            for fault in (each for each in faults if number % each.every == 0):
                rng = random.Random(f"{wanted.seed} {fault.words} {number}")
                said = play(fault, brokers, rng)
                sys.stdout.write(f"{number + 1:>3} of {wanted.rounds}: {fault.number:>2} {fault.words}: {said}\n")
    text = table(faults, wanted.rounds, wanted.seed)
    sys.stdout.write(f"\n{text}\n")
    if wanted.write:
        write(wanted.write, text)
    return 1 if any(fault.failures for fault in faults) else 0


if __name__ == "__main__":
    sys.exit(main())
