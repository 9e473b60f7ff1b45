"""Read scenario files: messages, and the queues they should reach in a topology."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmqkit.errors import DocumentError, InputError, Location, Problem, TopologyError
from rmqkit.model import Target, Topology
from rmqkit.topology.file import loader, references
from rmqkit.topology.file.document import KeyPath, read
from rmqkit.topology.file.schema import SCENARIOS, check
from rmqkit.topology.file.text import headline
from rmqkit.topology.index import TopologyIndex
from rmqkit.topology.names import check_arguments, check_length, suggest
from rmqkit.topology.routing import DeathReason

SUFFIX = ".test.yaml"  # of a scenario file; any other is a topology


@dataclass(frozen=True, slots=True)
class ScenarioStep:
    """The reason why a message leaves a queue, and all queues that it should reach then."""

    queue: str
    when: DeathReason
    expect: tuple[str, ...]
    where: Location


@dataclass(frozen=True, slots=True)
class Case:
    """One expectation: the queues that hold a copy of the message after `steps`; without steps, after it is published.

    `queues` keep the order of the file; with none the message should reach no queue.
    """

    steps: tuple[ScenarioStep, ...]
    queues: tuple[str, ...]
    where: Location


@dataclass(frozen=True, slots=True)
class Scenario:
    """A message that is published, and its cases, each after those that lead to it.

    `files` are the paths of the topology, fit for another command.
    """

    name: str
    topology: Topology = field(repr=False)
    files: tuple[str, ...]
    target: Target
    headers: Mapping[str, Any]
    cases: tuple[Case, ...]
    where: Location


def load(*paths: str | Path) -> tuple[Scenario, ...]:
    """Read scenario files, and the topologies they name, in the order given.

    Raises DocumentError if a file cannot be read or is not YAML, and TopologyError if one breaks the rules; either way
    `problems` lists everything found.
    """
    scenarios: list[Scenario] = []
    errors: list[InputError] = []
    for path in paths:
        try:
            scenarios += _ScenarioFile(read(path)).scenarios()
        except InputError as error:
            errors.append(error)
    if errors:
        problems = [problem for error in errors for problem in error.problems]
        raise type(errors[0])(headline(problems), problems=problems)
    return tuple(scenarios)


class _ScenarioFile(loader.FileReader):
    def scenarios(self) -> list[Scenario]:
        """Return all scenarios; raise DocumentError or TopologyError with all problems."""
        self.problems += self.document.problems
        self.refuse_definitions("scenarios")
        if not self.document.data.keys().isdisjoint(("exchanges", "queues", "bindings")):
            fault = Problem(
                Location(self.document.file),
                "this is a topology file, not a scenario file",
                "Check it with `rmqkit validate`, and name it in a scenario file: `topology: FILE`.",
            )
            raise DocumentError("not scenarios", problems=[fault])
        self.faulty |= self.document.doubtful
        for path, problem in check(self.document, SCENARIOS):
            self.problems.append(problem)
            self.faulty.add(path)
        unusable = self.faulty & {(), ("scenarios",)} or self.is_faulty("topology")
        scenarios = [] if unusable else list(self._scenarios())
        if self.problems:
            file, error = self.document.file, DocumentError if self.document.problems else TopologyError
            problems = sorted(
                self.problems, key=lambda each: (each.where.file != file, each.where.line, each.where.column)
            )
            raise error(headline(problems), problems=problems)
        return scenarios

    def _scenarios(self) -> Iterator[Scenario]:
        names = self.document.data["topology"]
        folder = Path(self.document.file).parent
        files = tuple(str(folder / name) for name in ([names] if isinstance(names, str) else names))
        try:
            topology = loader.load(*files)
        except InputError as error:
            self.problems += map(self._unreadable, error.problems)
            return
        index = TopologyIndex(topology)
        for name, given in self.document.data["scenarios"].items():
            path: KeyPath = ("scenarios", name)
            if not self.is_faulty(*path):
                target, headers = self._publish(path, given, index)
                cases = tuple(self._cases(path, given, index, ()))
                yield Scenario(name, topology, files, target, headers, cases, self.document.where_key(path))

    def _unreadable(self, problem: Problem) -> Problem:
        """Point to the name of a topology file that cannot be read, since it has no lines to point to."""
        if problem.where.line:
            return problem
        where = self.document.where(("topology",))
        return Problem(where, f"topology {problem.where.file}: {problem.message}", problem.advice)

    def _publish(self, path: KeyPath, given: Mapping[str, Any], index: TopologyIndex) -> tuple[Target, dict[str, Any]]:
        publish = dict(given.get("publish", {}))
        headers = publish.pop("headers", {})
        for inner, argument_fault in check_arguments(headers):
            self.report((*path, "publish", "headers", *inner), argument_fault)
        if not publish:
            if not index.topology.publish:
                self.report(path, ("the topology has no publish target", "Write publish: {exchange: NAME}."))
            return index.topology.publish or Target(), headers
        target = Target(**publish)
        if target.exchange:
            self.report((*path, "publish", "exchange"), references.publish_fault(index, target.exchange))
        self.report((*path, "publish", "routing_key"), check_length("the routing key", target.routing_key))
        return target, headers

    def _cases(
        self, path: KeyPath, given: Mapping[str, Any], known: TopologyIndex, steps: tuple[ScenarioStep, ...]
    ) -> Iterator[Case]:
        """Yield the case of these steps, then the cases that follow it."""
        expected = tuple(given["expect"])
        for index, queue in enumerate(expected):
            self.report((*path, "expect", index), references.queue_fault(known, queue, "the queue"))
        yield Case(steps, expected, self.document.where((*path, "expect")))
        for index, entry in enumerate(given.get("then", ())):
            inner: KeyPath = (*path, "then", index)
            if entry["queue"] not in expected:
                guess = suggest(entry["queue"], expected)
                advice = f"Did you mean {guess!r}?" if guess else f"Expected queues: {', '.join(expected) or 'none'}."
                self.report((*inner, "queue"), (f"queue {entry['queue']!r} is not among those expected here", advice))
            step = ScenarioStep(entry["queue"], entry["when"], tuple(entry["expect"]), self.document.where(inner))
            yield from self._cases(inner, entry, known, (*steps, step))
