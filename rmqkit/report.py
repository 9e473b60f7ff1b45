"""Reports of operations: numbers and outcomes that add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from copy import copy
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from rmqkit.errors import BrokerError, Location, NotConfirmed, Problem, RmqkitError, Unroutable
from rmqkit.message import Delivery, Message
from rmqkit.model import Target
from rmqkit.plan import Plan, Step


class Fate(Enum):
    """The outcome of a published message, as far as the publisher can know."""

    CONFIRMED = "confirmed"  # the broker took responsibility
    RETURNED = "returned"  # it reached no queue (basic.return)
    NACKED = "nacked"  # the broker rejected it at every try (basic.nack)
    REFUSED = "refused"  # the broker closed the channel: no such exchange, no permission, too large
    UNKNOWN = "unknown"  # the broker did not answer: it may or may not have the message


@dataclass(frozen=True, slots=True)
class Failure:
    """A message that was not confirmed: its index in the input (from 0), the message, its fate and the reason.

    `cause` is the error of the broker or the connection, if there was one.
    """

    index: int
    message: Message = field(repr=False)
    fate: Fate
    reason: str
    cause: RmqkitError | None = field(default=None, repr=False, compare=False)

    def error(self) -> RmqkitError:
        """Return the error of this message alone: its cause, or Unroutable, or NotConfirmed."""
        numbers: dict[str, Any] = {self.fate.value: 1}
        return PublishReport(published=1, failures=(self,), **numbers).error() or NotConfirmed(self.reason)


@dataclass(frozen=True, slots=True)
class PublishReport:
    """The outcome of publishing: published = confirmed + returned + nacked + refused + unknown.

    `republished` counts copies sent again, after a lost connection, a nack or a closed channel; `failures` holds the
    messages that were not confirmed, in the order their fate was known, or the first hundred of each fate if each was
    passed to `on_failure`; `interrupted` tells that a stop was requested before the input ended. Without confirms,
    `confirmed` stays 0 and `unknown` counts all messages.
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
        """Tell whether every message is confirmed or, without confirms, was sent."""
        return self.published == (self.confirmed if self.confirms else self.unknown)

    def error(self) -> RmqkitError | None:
        """Return the error that makes the run a failure: NotConfirmed, else Unroutable, else None.

        If it published only one message, the cause of its failure is the error, such as NotFound.
        """
        if self.complete:
            return None
        cause = self.failures[0].cause if self.published == 1 and self.failures else None
        error = copy(cause) or self.unconfirmed() or self.unroutable()
        if isinstance(error, BrokerError):
            error.report = self
        return error

    def unconfirmed(self) -> NotConfirmed | None:
        """Return the error of messages that were refused, nacked, or not confirmed."""
        unknown = self.unknown if self.confirms else 0
        if not (failed := self.nacked + self.refused + unknown):
            return None
        reasons = sorted({failure.reason for failure in self.failures if failure.fate is not Fate.RETURNED})
        message = f"{failed:,} of {self.published:,} messages were not confirmed"
        advice = "They may or may not have reached their queues." if unknown else ""
        return NotConfirmed(": ".join(filter(None, [message, "; ".join(reasons)])), advice=advice)

    def unroutable(self) -> Unroutable | None:
        """Return the error of messages that reached no queue; it names a queue that does not exist, if there is one."""
        returned = [failure.message for failure in self.failures if failure.fate is Fate.RETURNED]
        if not returned:
            return None
        first = min(returned, key=lambda message: bool(message.exchange))
        where = f"there is no queue {first.routing_key!r}"
        if first.exchange:
            where = f"exchange {first.exchange!r} has no binding for routing key {first.routing_key!r}"
        advice = "Declare it first: `connection.apply(topology)`, or `rmqkit apply FILE`; or publish with"
        return Unroutable(
            f"{self.returned:,} of {self.published:,} messages reached no queue: {where}",
            advice=f"{advice} `PublishOptions(mandatory=False)`.",
        )


@dataclass(frozen=True, slots=True)
class ConsumeReport:
    """The outcome of consuming: settled deliveries by verdict, and how many were redelivered.

    `failed` counts deliveries whose handler failed, and which were not retried; `unmatched` those that the filter
    excluded, with any verdict or, at the end, none; `invalid` those that broke the contract. `stayed` counts the failed
    and invalid ones that ended the run and are still queued, `dropped` the rejected ones of a queue that has no
    dead-letter exchange, as far as this is known. `retried` counts failed deliveries that wait for another try,
    `parked` those moved to the queue after their last one; both were acknowledged once a copy was confirmed, but for
    the `delayed` ones, which a quorum queue with a native retry took back: `requeued` includes these. `lost`
    counts deliveries that `no_ack` acknowledged and that were not handled, `in_doubt` those that were handled and may
    be redelivered, because the connection was lost at the end. `shares` counts deliveries by consumer, in the order
    the consumers were started. `idle_s` is the part of `seconds` in which no message arrived or was handled.
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
    delayed: int = 0
    parked: int = 0
    stayed: int = 0
    dropped: int = 0
    lost: int = 0
    in_doubt: int = 0
    seconds: float = 0.0
    idle_s: float = 0.0
    shares: Mapping[str, int] = field(default_factory=dict)


def add_up(reports: Mapping[str, ConsumeReport], seconds: float) -> ConsumeReport:
    """Add up reports by name; the share of each is the number of messages it acknowledged."""
    totals: Counter[str] = Counter()
    for report in reports.values():
        numbers: dict[str, Any] = asdict(report)
        totals.update({name: number for name, number in numbers.items() if isinstance(number, int)})
    shares = {name: report.acknowledged for name, report in reports.items()}
    idle_s = min((report.idle_s for report in reports.values()), default=0.0)  # of all at once, at most
    return ConsumeReport(**totals, seconds=seconds, idle_s=idle_s, shares=shares)


@dataclass(frozen=True, slots=True)
class MoveGroup:
    """Messages with one cause of death and one origin; `queue` and `reason` are empty for those that never died.

    `target` is their destination; if it is None, `trouble` says why they stay. `oldest` and `newest` are their times of
    death, or else their timestamps; None if neither is known.
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
    """The outcome of moving: scanned = moved + unmatched + stayed.

    `ready` is the number of messages at the start. `redelivered` counts the moved messages that had been delivered
    before: only these may be duplicates. `unmatched` were excluded by the filter; `stayed` counts by reason those that
    could not be moved. Of a `copy`, all stay in the queue, and `side_effects` says how they were changed. Of a
    `dry_run`, `moved` counts what a move would move, and `groups` has all matching messages, the largest group first.
    """

    ready: int = 0
    moved: int = 0
    redelivered: int = 0
    unmatched: int = 0
    stayed: Mapping[str, int] = field(default_factory=dict)
    groups: tuple[MoveGroup, ...] = ()
    dry_run: bool = False
    copy: bool = False
    side_effects: str = ""
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def scanned(self) -> int:
        """Count the messages that were inspected."""
        return self.moved + self.unmatched + sum(self.stayed.values())


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """The outcome of purging: the `ready` messages at the start, and those `purged`, or that a `dry_run` would purge.

    `unmatched` were excluded by the filter. After a lost connection, a message may be purged and counted twice.
    """

    ready: int = 0
    purged: int = 0
    unmatched: int = 0
    dry_run: bool = False
    interrupted: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class WaitReport:
    """The outcome of waiting for a queue: whether it has the wanted state, and its last `state` in words.

    `unseen` says why unacknowledged messages could not be counted; empty if they were.
    """

    queue: str
    met: bool
    state: str
    unseen: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a request: the replies, in the order they arrived, and the first error, if any.

    The replies include those that report an error of the server.
    """

    request: Message
    replies: tuple[Delivery, ...] = ()
    error: RmqkitError | None = None

    @property
    def reply(self) -> Delivery:
        """Return the first reply; raise the error, if any."""
        if self.error is not None:
            raise self.error
        return self.replies[0]


@dataclass(frozen=True, slots=True)
class ServeReport:
    """The outcome of serving: requests received, and replies confirmed.

    `failed` counts requests whose function failed, `unaddressed` those without `reply_to`, `undelivered` replies that
    reached no requester, `redelivered` requests that another server may have handled before.
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
    """A queue at one moment: its ready messages, without unacknowledged ones, and its consumers."""

    name: str
    ready: int
    consumers: int


@dataclass(frozen=True, slots=True)
class QueueStatus(QueueState):
    """A queue in RabbitMQ's HTTP API: messages by state, consumers, and rates in messages a second.

    `waiting` counts delayed messages, and dead letters that their target has not confirmed yet. Without the HTTP API
    only `ready` and `consumers` are known; the rest is None.
    """

    type: str | None = None
    state: str | None = None  # running, idle, down, ...
    unacknowledged: int | None = None
    waiting: int | None = None
    published_per_s: float | None = None
    delivered_per_s: float | None = None
    acknowledged_per_s: float | None = None
    vhost: str | None = None


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """The outcome of one scenario: it passed if it has no problems; `notes` list checks that were not made as asked."""

    name: str
    where: Location
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ScenarioReport:
    """The outcomes of scenarios in the order they ran; on a broker if `live`."""

    results: tuple[ScenarioResult, ...] = ()
    live: bool = False

    @property
    def failed(self) -> int:
        """Count the scenarios that failed."""
        return sum(bool(result.problems) for result in self.results)


_PLAIN: Mapping[type, str] = {
    PublishReport: "published confirmed returned nacked refused unknown republished",
    WaitReport: "queue met state unseen",
    PurgeReport: "dry_run ready purged unmatched",
    ServeReport: "requests replied failed unaddressed undelivered redelivered",
}
Report = PublishReport | ConsumeReport | MoveReport | PurgeReport | WaitReport | ServeReport | Plan | ScenarioReport


def as_json(report: Report) -> dict[str, Any]:
    """Return a report as `--json` prints it, without failures and places in files."""
    match report:
        case PublishReport() | PurgeReport() | WaitReport() | ServeReport():
            return _numbers(report, _PLAIN[type(report)])
        case ConsumeReport():
            settled = _numbers(report, "consumed acknowledged rejected requeued redelivered")
            numbers = settled | _numbers(
                report, "failed unmatched invalid retried delayed parked stayed dropped lost in_doubt"
            )
            return numbers | {"shares": dict(report.shares)}
        case MoveReport():
            numbers = _numbers(report, "ready scanned moved redelivered unmatched")
            if report.copy:
                numbers |= {"copied": numbers.pop("moved"), "side_effects": report.side_effects}
            groups = [_group_as_json(group) for group in report.groups]
            return {"dry_run": report.dry_run, **numbers, "stayed": dict(report.stayed), "groups": groups}
        case Plan():
            entities = [_step_as_json(step) for step in report.steps]
            return {"applied": report.applied, "entities": entities, "unseen": list(report.unseen)}
        case ScenarioReport():
            scenarios = [_scenario_as_json(result) for result in report.results]
            counts = {"passed": len(scenarios) - report.failed, "failed": report.failed}
            return {"live": report.live, **counts, "scenarios": scenarios}


def problem_as_json(problem: Problem) -> dict[str, Any]:
    """Return a problem as `--json` prints it."""
    return {**asdict(problem.where), "message": problem.message, "advice": problem.advice}


def _numbers(report: Any, names: str) -> dict[str, Any]:
    return {name: getattr(report, name) for name in names.split()} | {"seconds": round(report.seconds, 3)}


def _group_as_json(group: MoveGroup) -> dict[str, Any]:
    times = {name: time and time.isoformat() for name, time in (("oldest", group.oldest), ("newest", group.newest))}
    return asdict(group) | times


def _step_as_json(step: Step) -> dict[str, Any]:
    remarks = {"differences": [asdict(each) for each in step.differences], "note": step.note}
    entry = {"kind": step.kind, "name": step.name, "outcome": step.outcome.value}
    return entry | {name: value for name, value in remarks.items() if value}


def _scenario_as_json(result: ScenarioResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "passed": not result.problems,
        **asdict(result.where),
        "problems": [problem_as_json(each) for each in result.problems],
        "notes": list(result.notes),
        "seconds": round(result.seconds, 3),
    }
