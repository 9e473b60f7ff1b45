"""Whether messages go where scenarios expect them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from rmqkit.errors import Problem
from rmqkit.report import ScenarioResult
from rmqkit.topology.dead_letters import dead_letter, dead_letters
from rmqkit.topology.death_cycles import Reason
from rmqkit.topology.file.scenarios import Case, Scenario, ScenarioStep
from rmqkit.topology.policies import unread
from rmqkit.topology.routing import Leg, Path, Route, route


@dataclass(frozen=True, slots=True)
class Observation:
    """Where a message is after the last step of a case: its queues, sorted, each as often as it has a copy.

    `unknown` says what could not be told, `note` why it was looked at in another way than asked.
    """

    queues: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    note: str = ""


_LEAVING: Mapping[Reason, str] = {
    "rejected": "rejected in",
    "expired": "expired in",
    "maxlen": "pushed out of",
    "delivery_limit": "delivered too often from",
}
Follow = Callable[[Scenario, Case], Observation]
"""How to find out where a message goes: on the router, as `offline` does, or on a broker."""


def offline(scenario: Scenario, case: Case) -> Observation:
    """Follow a message on the router."""
    found = _trace(scenario, case.steps)
    return Observation(found.queues, found.unknown)


def judge(scenario: Scenario, follow: Follow = offline) -> ScenarioResult:
    """Compare what is expected of a message with where it goes.

    A case is left out if one that leads to it failed. Raises what `follow` raises.
    """
    problems: list[Problem] = []
    notes: list[str] = []
    failed: list[tuple[ScenarioStep, ...]] = []
    for case in scenario.cases:
        if any(case.steps[: len(steps)] == steps for steps in failed):
            continue
        message = _impossible(scenario, case)
        reasons: list[str] = []
        if not message:
            seen = follow(scenario, case)
            notes += [f"{case.where}: {seen.note}"] if seen.note else []
            message, reasons = _difference(scenario, case, seen)
        if message:
            problems.append(Problem(case.where, message, "\n".join([_story(scenario, case), *reasons])))
            failed.append(case.steps)
    return ScenarioResult(scenario.name, scenario.where, tuple(problems), tuple(notes))


def _trace(scenario: Scenario, steps: Iterable[ScenarioStep]) -> Route:
    found = route(scenario.topology, scenario.target, scenario.headers)
    for step in steps:
        found = dead_letter(scenario.topology, found, step.queue, step.when)
    return found


def _impossible(scenario: Scenario, case: Case) -> str:
    """Say why the last step of a case cannot happen, or nobody can tell what it does; nothing if it can."""
    if not case.steps:
        return ""
    topology, step = scenario.topology, case.steps[-1]
    if step.queue not in {queue.name for queue in topology.queues}:
        return f"queue {step.queue!r} is external: where its dead letters go is not known"
    there = replace(_trace(scenario, case.steps[:-1]), queues=(step.queue,))
    leaving = (letter for letter in dead_letters(topology, there) if letter.queue == step.queue)
    reasons = {reason for letter in leaving for reason in letter.reasons}
    if ("rejected" if step.when == "expired" else step.when) in reasons:  # a message may have a TTL of its own
        return ""
    return dead_letter(topology, there, step.queue, step.when).why


def _difference(scenario: Scenario, case: Case, seen: Observation) -> tuple[str, list[str]]:
    """Say how what is seen differs from what is expected, and why; nothing if it does not."""
    if seen.unknown:
        message = f"expected {_names(case.queues)}, but offline it cannot be told where it goes"
        advice = [] if seen.note or unread(scenario.topology) else ["A broker may know: run the test with --live."]
        return message, [*seen.unknown, *advice]
    if seen.queues == tuple(sorted(case.queues)):
        return "", []
    reasons = _reasons(scenario, case, seen, _trace(scenario, case.steps))
    return f"expected {_names(case.queues)}, but it reached {_names(seen.queues)}", list(reasons)


def _reasons(scenario: Scenario, case: Case, seen: Observation, router: Route) -> Iterator[str]:
    """Yield, a line each, why queues are reached and others not, and what tells more."""
    for queue in dict.fromkeys(seen.queues):
        if queue not in case.queues or seen.queues.count(queue) > 1:
            ways = [_way(path) for path in router.paths if path[-1].destination == queue]
            yield f"{queue!r} is reached by {'; or by '.join(ways)}" if ways else f"{queue!r} is reached"
    for queue in case.queues:
        if queue not in seen.queues:
            bindings = [str(each) for each in scenario.topology.bindings if each.destination == queue]
            yield f"{queue!r} is not reached; bound to it: {', '.join(bindings) or 'nothing'}"
    if router.why and not seen.queues:
        yield router.why
    if router.queues != seen.queues and not router.unknown:
        yield f"Offline it reaches {_names(router.queues)}: please report the difference, and RabbitMQ's version."
    yield f"The whole way: {_command(scenario)}"


def _way(path: Path) -> str:
    return ", then ".join(map(_leg, path))


def _leg(leg: Leg) -> str:
    if leg.binding:
        return str(leg.binding)
    return f"{leg.source or 'default exchange'} -> {leg.destination}" + (" (alternate)" if leg.to_exchange else "")


def _story(scenario: Scenario, case: Case) -> str:
    """Say what happens to the message."""
    headers = f", headers {', '.join(scenario.headers)}" if scenario.headers else ""
    steps = "".join(f"; {_LEAVING[step.when]} {step.queue!r}" for step in case.steps)
    return f"Published to {scenario.target}{headers}{steps}."


def _names(queues: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(queues))) or "no queue"


def _command(scenario: Scenario) -> str:
    """Return the command that shows the whole way of a scenario's message."""
    exchange, key = scenario.target.exchange, scenario.target.routing_key
    words = ["rmqkit", "route", *scenario.files, *(["-e", exchange, "-r", key] if exchange else ["-q", key])]
    for name, value in scenario.headers.items():
        words += ["-H", f"{name}={value}" if isinstance(value, str) else f"{name}:={json.dumps(value)}"]
    return shlex.join(words)
