"""What an operation did, as numbers and outcomes that add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from rmqkit.errors import Location, NotConfirmed, Problem, RmqkitError, Unroutable
from rmqkit.message import Delivery, Message
from rmqkit.model import Target
from rmqkit.plan import Plan, Step


class Fate(Enum):
    """What became of a published message, as far as the publisher can know."""

    CONFIRMED = "confirmed"  # the broker took responsibility
    RETURNED = "returned"  # no queue was bound for it (basic.return)
    NACKED = "nacked"  # the broker took no responsibility, at every try (basic.nack)
    REFUSED = "refused"  # it closed the channel: no such exchange, no permission, too large
    UNKNOWN = "unknown"  # no answer came: it may or may not be there


@dataclass(frozen=True, slots=True)
class Failure:
    """A message that was not confirmed: its place in the input (from 0), the message, and why."""

    index: int
    message: Message = field(repr=False)
    fate: Fate
    reason: str


@dataclass(frozen=True, slots=True)
class PublishReport:
    """What became of every message: published = confirmed + returned + nacked + refused + unknown.

    `republished` counts copies sent again, after a lost connection, a nack or a closed channel; `failures` holds the
    first hundred messages that were not confirmed, in the order their fate was known; `interrupted` tells that a
    stop was requested before the input ended. With confirms off, `confirmed` stays 0 and `unknown` counts all.
    """

    published: int = 0
    confirmed: int = 0
    returned: int = 0
    nacked: int = 0
    refused: int = 0
    unknown: int = 0
    republished: int = 0
    seconds: float = 0.0
    failures: tuple[Failure, ...] = ()
    confirms: bool = True
    interrupted: bool = False

    @property
    def complete(self) -> bool:
        """Tell whether every message is known to be where it was sent."""
        return self.published == (self.confirmed if self.confirms else self.unknown)

    def error(self) -> NotConfirmed | Unroutable | None:
        """Return the error that makes the run a failure; a message for an exchange without bindings is none."""
        unknown = self.unknown if self.confirms else 0
        error: NotConfirmed | Unroutable | None = None
        returned = (each.message for each in self.failures if each.fate is Fate.RETURNED)
        missing = sorted({each.routing_key for each in returned if not each.exchange})
        if failed := self.nacked + self.refused + unknown:
            reasons = {failure.reason for failure in self.failures if failure.fate is not Fate.RETURNED}
            error = NotConfirmed(
                f"{failed} of {self.published} messages were not confirmed: {'; '.join(sorted(reasons))}"
            )
        elif missing:
            error = Unroutable(
                f"{self.returned} of {self.published} messages reached no queue: there is no queue {missing[0]!r}",
                advice="Declare it first: `connection.apply(topology)`, or `rmqkit apply FILE`.",
            )
        if error:
            error.report = self
        return error


@dataclass(frozen=True, slots=True)
class ConsumeReport:
    """What a consumer did: settled deliveries by verdict, and how many came a second time.

    `failed` counts deliveries that the handler failed on, which were rejected, and `unmatched` those that the filter
    left out, which have any verdict or, at the end, none. `invalid` counts those that broke the contract, which were
    rejected, or sent on and acknowledged. `retried` counts those that failed and wait to be tried again, `parked` those
    that went where their retry ends; both were acknowledged once a copy of them was confirmed. `shares` counts
    deliveries by consumer, in the order the consumers were started.
    """

    consumed: int = 0
    acknowledged: int = 0
    rejected: int = 0
    requeued: int = 0
    redelivered: int = 0
    failed: int = 0
    unmatched: int = 0
    invalid: int = 0
    retried: int = 0
    parked: int = 0
    seconds: float = 0.0
    shares: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MoveGroup:
    """Messages that died in one way and came from one place: `queue` and `reason` are empty for those that never died.

    `target` is where they go; where it is None, `trouble` says why they stay. `oldest` and `newest` tell when they
    died, or else their timestamps; None if that is not known.
    """

    reason: str = ""
    queue: str = ""
    exchange: str = ""
    routing_keys: tuple[str, ...] = ()
    target: Target | None = None
    trouble: str = ""
    messages: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None


@dataclass(frozen=True, slots=True)
class MoveReport:
    """What became of the messages that were in a queue: looked = moved + unmatched + stayed.

    `ready` is how many there were at the start, `redelivered` counts those of the moved ones that had been delivered
    before: no others may be there twice. `unmatched` were not to be moved, `stayed` counts by reason those that could
    not be. Of a `dry_run`, `moved` counts what would be, and `groups` has all that matches, the largest group first.
    """

    ready: int = 0
    moved: int = 0
    redelivered: int = 0
    unmatched: int = 0
    stayed: Mapping[str, int] = field(default_factory=dict)
    groups: tuple[MoveGroup, ...] = ()
    dry_run: bool = False
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def looked(self) -> int:
        """Count the messages that were looked at."""
        return self.moved + self.unmatched + sum(self.stayed.values())


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request: the replies, in the order they came, and the first thing that went wrong, if any.

    A reply that says that the server failed is among the replies.
    """

    request: Message
    replies: tuple[Delivery, ...] = ()
    error: RmqkitError | None = None

    @property
    def reply(self) -> Delivery:
        """Return the first reply; raise the error, if there is one."""
        if self.error is not None:
            raise self.error
        return self.replies[0]


@dataclass(frozen=True, slots=True)
class ServeReport:
    """What a server did: requests it got, and replies that were confirmed.

    `failed` counts requests the function failed at, `unaddressed` those that named nobody to reply to, `undelivered`
    replies that reached nobody, `redelivered` requests that another may have handled before.
    """

    requests: int = 0
    replied: int = 0
    failed: int = 0
    unaddressed: int = 0
    undelivered: int = 0
    redelivered: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class QueueState:
    """What a queue holds at a moment: messages that are ready, not those out for delivery, and its consumers."""

    name: str
    ready: int
    consumers: int


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """A queue as RabbitMQ's HTTP API sees it: messages by state, consumers, and messages a second in and out.

    Without the HTTP API only `ready` and `consumers` are known, and the rest is None.
    """

    name: str
    ready: int
    consumers: int
    type: str | None = None
    state: str | None = None  # running, idle, down, ...
    unacknowledged: int | None = None
    published_per_s: float | None = None
    delivered_per_s: float | None = None
    acknowledged_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """How one scenario ended: it passed if it has no problems; `notes` say what was not looked at as asked."""

    name: str
    where: Location
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ScenarioReport:
    """How the scenarios ended that were run, in their order; on a broker if `live`."""

    results: tuple[ScenarioResult, ...] = ()
    live: bool = False

    @property
    def failed(self) -> int:
        """Count the scenarios that did not pass."""
        return sum(bool(result.problems) for result in self.results)


def as_json(report: PublishReport | ConsumeReport | MoveReport | ServeReport | Plan | ScenarioReport) -> dict[str, Any]:
    """Turn a report into what `--json` prints; failures and places in files are left out."""
    match report:
        case PublishReport():
            return _numbers(report, "published confirmed returned nacked refused unknown republished")
        case ConsumeReport():
            settled = _numbers(report, "consumed acknowledged rejected requeued redelivered")
            numbers = settled | _numbers(report, "failed unmatched invalid retried parked")
            return numbers | {"shares": dict(report.shares)}
        case MoveReport():
            numbers = _numbers(report, "ready looked moved redelivered unmatched")
            groups = [_group_as_json(group) for group in report.groups]
            return {"dry_run": report.dry_run, **numbers, "stayed": dict(report.stayed), "groups": groups}
        case ServeReport():
            return _numbers(report, "requests replied failed unaddressed undelivered redelivered")
        case Plan():
            entities = [_step_as_json(step) for step in report.steps]
            return {"applied": report.applied, "entities": entities, "unseen": list(report.unseen)}
        case ScenarioReport():
            scenarios = [_scenario_as_json(result) for result in report.results]
            counts = {"passed": len(scenarios) - report.failed, "failed": report.failed}
            return {"live": report.live, **counts, "scenarios": scenarios}


def problem_as_json(problem: Problem) -> dict[str, Any]:
    """Turn a problem into what `--json` prints of it."""
    return {**asdict(problem.where), "message": problem.message, "advice": problem.advice}


def _numbers(report: PublishReport | ConsumeReport | MoveReport | ServeReport, names: str) -> dict[str, Any]:
    return {name: getattr(report, name) for name in names.split()} | {"seconds": round(report.seconds, 3)}


def _group_as_json(group: MoveGroup) -> dict[str, Any]:
    times = {name: time and time.isoformat() for name, time in (("oldest", group.oldest), ("newest", group.newest))}
    return asdict(group) | times


def _step_as_json(step: Step) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": step.kind, "name": step.name, "outcome": step.outcome.value}
    if step.differences:
        entry["differences"] = [
            {"property": each.property, "actual": each.actual, "expected": each.expected} for each in step.differences
        ]
    if step.note:
        entry["note"] = step.note
    return entry


def _scenario_as_json(result: ScenarioResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "passed": not result.problems,
        **asdict(result.where),
        "problems": [problem_as_json(each) for each in result.problems],
        "notes": list(result.notes),
        "seconds": round(result.seconds, 3),
    }
