"""Check that messages reach the queues that scenarios expect."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from rmqkit.errors import Problem
from rmqkit.report import ScenarioResult
from rmqkit.topology.dead_letters import dead_letter, dead_letters
from rmqkit.topology.file.scenarios import Case, Scenario, ScenarioStep
from rmqkit.topology.policies import unread
from rmqkit.topology.routing import DeathReason, Leg, Route, route


@dataclass(frozen=True, slots=True)
class Observation:
    """The queues that hold a message after the last step of a case, sorted, each once per copy.

    `unknown` says what could not be found out, `note` why it was found out in another way than requested.
    """

    queues: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    note: str = ""


_LEAVING: Mapping[DeathReason, str] = {
    "rejected": "rejected from",
    "expired": "expired in",
    "maxlen": "pushed out of",
    "delivery_limit": "over the delivery limit of",
}
Observe = Callable[[Scenario, Case], Observation]
"""Observe a message, on the router as `offline` does, or on a broker."""


def offline(scenario: Scenario, case: Case) -> Observation:
    """Observe a message on the router."""
    found = _trace(scenario, case.steps)
    return Observation(found.queues, found.unknown)


def judge(scenario: Scenario, observe: Observe = offline) -> ScenarioResult:
    """Compare the observed queues of each case with the expected ones; raise what `observe` raises.

    A case is skipped if one that leads to it failed.
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
            observed = observe(scenario, case)
            notes += [f"{case.where}: {observed.note}"] if observed.note else []
            message, reasons = _difference(scenario, case, observed)
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
    """Explain why the last step of a case cannot happen, or its effect is unknown; an empty string if it can."""
    if not case.steps:
        return ""
    topology, step = scenario.topology, case.steps[-1]
    if step.queue not in {queue.name for queue in topology.queues}:
        return f"queue {step.queue!r} is external: the destination of its dead letters is unknown"
    arrival = replace(_trace(scenario, case.steps[:-1]), queues=(step.queue,))
    leaving = (letter for letter in dead_letters(topology, arrival) if letter.queue == step.queue)
    reasons = {reason for letter in leaving for reason in letter.reasons}
    if ("rejected" if step.when == "expired" else step.when) in reasons:  # any message may have a TTL
        return ""
    return dead_letter(topology, arrival, step.queue, step.when).why


def _difference(scenario: Scenario, case: Case, observed: Observation) -> tuple[str, list[str]]:
    """Say how the observed queues differ from the expected ones, and why; nothing if they do not."""
    if observed.unknown:
        message = f"expected {_names(case.queues)}, but offline the queues are unknown"
        advice = [] if observed.note or unread(scenario.topology) else ["Run the test against a broker."]
        return message, [*observed.unknown, *advice]
    if observed.queues == tuple(sorted(case.queues)):
        return "", []
    reasons = _reasons(scenario, case, observed, _trace(scenario, case.steps))
    return f"expected {_names(case.queues)}, but it reached {_names(observed.queues)}", list(reasons)


def _reasons(scenario: Scenario, case: Case, observed: Observation, router: Route) -> Iterator[str]:
    """Yield lines that explain why each queue is reached or not, and a command that shows more."""
    for queue in dict.fromkeys(observed.queues):
        if queue not in case.queues or observed.queues.count(queue) > 1:
            paths = [", then ".join(map(_leg, path)) for path in router.paths if path[-1].destination == queue]
            yield f"{queue!r} is reached by {'; or by '.join(paths)}" if paths else f"{queue!r} is reached"
    for queue in case.queues:
        if queue not in observed.queues:
            bindings = [str(each) for each in scenario.topology.bindings if each.destination == queue]
            yield f"{queue!r} is not reached; bound to it: {', '.join(bindings) or 'nothing'}"
    if router.why and not observed.queues:
        yield router.why
    if router.queues != observed.queues and not router.unknown:
        yield f"Offline it reaches {_names(router.queues)}. Please report this difference with your RabbitMQ version."
    yield f"Full route: {_command(scenario)}"


def _leg(leg: Leg) -> str:
    if leg.binding:
        return str(leg.binding)
    return f"{leg.source or 'default exchange'} -> {leg.destination}" + (" (alternate)" if leg.to_exchange else "")


def _story(scenario: Scenario, case: Case) -> str:
    headers = f", headers {', '.join(scenario.headers)}" if scenario.headers else ""
    steps = "".join(f"; {_LEAVING[step.when]} {step.queue!r}" for step in case.steps)
    return f"Published to {scenario.target}{headers}{steps}."


def _names(queues: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(queues))) or "no queue"


def _command(scenario: Scenario) -> str:
    """Return the command that shows the full route of a scenario's message."""
    exchange, key = scenario.target.exchange, scenario.target.routing_key
    words = ["rmqkit", "route", *scenario.files, *(["-e", exchange, "-r", key] if exchange else ["-q", key])]
    for name, value in scenario.headers.items():
        words += ["-H", f"{name}={value}" if isinstance(value, str) else f"{name}:={json.dumps(value)}"]
    return shlex.join(words)
