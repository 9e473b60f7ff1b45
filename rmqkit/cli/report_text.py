"""Reports of publishing and moving as text, errors, warnings and exit codes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rmqkit import exit_codes
from rmqkit.amqp import error_mapping
from rmqkit.cli import output
from rmqkit.errors import REFUSALS, InputError, Refused, RmqkitError, Unroutable
from rmqkit.message import Verdict
from rmqkit.model import Target
from rmqkit.options import FailurePolicy
from rmqkit.plural import plural, span
from rmqkit.report import ConsumeReport, Failure, Fate, MoveGroup, MoveReport, PublishReport, ServeReport

if TYPE_CHECKING:
    from rmqkit.payload.resume import Resume

_COUNTS = ("confirmed", "returned", "nacked", "refused", "unknown", "republished")
_GROUPS_SHOWN = 40
_LEAST_RATED = 20  # messages; with fewer, a rate is meaningless


def error_of(report: PublishReport, *, mandatory: bool | None) -> RmqkitError | None:
    """Return the error of a run in which a message was refused, not confirmed, or unroutable.

    Unroutable is an error through the default exchange, and with `mandatory` through any. If that is None, it is an
    error for messages with a routing key or headers; those of a fanout exchange need neither, and may have no reader.
    """
    if refused := next((each for each in report.failures if each.fate is Fate.REFUSED), None):
        return _refusal(report, refused)
    if error := report.unconfirmed():
        return error
    returned = [each.message for each in report.failures if each.fate is Fate.RETURNED]
    if unroutable := report.unroutable():
        # A fanout exchange needs no key and no headers.
        addressed = any(each.routing_key or each.properties.headers for each in returned)
        if not all(each.exchange for each in returned):
            unroutable.advice = "Declare it with `rmqkit apply FILE`, or name another with --queue."
        elif mandatory or (mandatory is None and addressed):
            unroutable.advice = "Bind a queue in a topology file, and `rmqkit apply` it; or add --allow-unroutable."
        else:
            return None
    return unroutable


def warning(report: PublishReport, error: RmqkitError | None) -> str:
    """Report messages that reached no queue, where that is not an error; empty when all did."""
    unroutable = report.unroutable()
    return unroutable.message if unroutable and not isinstance(error, Unroutable) else ""


def exit_code(report: PublishReport, error: RmqkitError | None) -> int:
    """Return the exit code of a run."""
    if isinstance(error, InputError) and report.published:
        return exit_codes.PARTLY_DONE
    return exit_codes.exit_code(error)


def publish_summary(report: PublishReport) -> str:
    """Summarize a run in a line that adds up, without zeros."""
    counts = [f"{getattr(report, name):,} {name}" for name in _COUNTS if getattr(report, name)]
    line = _done("published", report.published, report.seconds, interrupted=report.interrupted)
    return f"{line}: {', '.join(counts)}." if counts else f"{line}."


def move_summary(report: MoveReport, source: str) -> str:
    """Summarize a move in a line."""
    if report.dry_run:
        parts = [f"{'Stopped: would' if report.interrupted else 'Would'} move {plural(report.moved, 'message')}"]
    else:
        parts = [
            _done("copied" if report.copy else "moved", report.moved, report.seconds, interrupted=report.interrupted)
        ]
        if report.redelivered and not report.copy:
            duplicates = "duplicates are possible only if an earlier move was interrupted"
            parts.append(f"{report.redelivered:,} redelivered ({duplicates})")
    if report.unmatched:
        parts.append(f"{report.unmatched:,} {'does' if report.unmatched == 1 else 'do'} not match")
    if report.side_effects and report.scanned:
        parts.append(f"the originals are {report.side_effects}")
    if report.scanned < report.ready:
        parts.append(f"scanned {report.scanned:,} of {plural(report.ready, 'message')} in {source!r}")
    return f"{'; '.join(parts)}."


def move_table(report: MoveReport) -> str:
    """Tabulate the groups of a dry run: how messages died, and where they would go."""
    now = datetime.now(UTC)
    rows = [_row(group, now) for group in report.groups[:_GROUPS_SHOWN]]
    header = ("messages", "reason", "died in", "exchange", "routing key", "age", "to")
    table = output.table(rows, header=header, numbers=(0,))
    more = report.groups[_GROUPS_SHOWN:]
    hidden = f"\nand {sum(group.messages for group in more):,} more, in {len(more):,} groups" if more else ""
    return table + hidden


def resuming(resume: Resume) -> str:
    """Report the place a run resumes from; empty when it starts from the beginning."""
    if not (resume.place.n or resume.doubtful):
        return ""
    parts = [f"Resuming after line {resume.place.line:,}: {plural(resume.skipped, 'message')} already confirmed"]
    if resume.retried:
        parts.append(f"{resume.retried:,} failed and will be sent again first")
    if resume.doubtful:
        parts.append(f"up to {resume.doubtful:,} that follow may have arrived already, and would be duplicates")
    return "; ".join(parts) + "."


def _done(verb: str, count: int, seconds: float, *, interrupted: bool) -> str:
    begin = f"Stopped: {verb}" if interrupted else verb.capitalize()
    return f"{begin} {plural(count, 'message')} in {time_and_rate(count, seconds)}"


def time_and_rate(count: int, seconds: float, idle_s: float = 0.0) -> str:
    """Return the time that messages took and, unless they were only a handful, their rate without idle time."""
    busy_s = seconds - idle_s
    rate = f", {count / busy_s:,.0f}/s" if count >= _LEAST_RATED and busy_s > 0 else ""
    return f"{seconds:.2f} s{f' ({idle_s:.2f} s idle)' if idle_s and rate else ''}{rate}"


def _refusal(report: PublishReport, failure: Failure) -> Refused:
    code, _, text = failure.reason.partition(" ")
    number = int(code) if code.isdecimal() else 0
    where = Target(failure.message.exchange, failure.message.routing_key)
    subject = f"{report.refused:,} of {report.published:,} messages to {where}"
    advice = "Run `rmqkit apply FILE` to declare it." if number == 404 else ""  # noqa: PLR2004 - not found
    error = REFUSALS.get(number, Refused)(number, text, subject, advice=advice)
    error_mapping.add_permission_advice(error, error_mapping.PUBLISH)
    return error


def _row(group: MoveGroup, now: datetime) -> tuple[str, ...]:
    ages = [age(time, now) for time in (group.oldest, group.newest) if time]
    return (
        f"{group.messages:,}",
        group.reason or "-",
        group.queue or "-",
        group.exchange or "(default)",
        ", ".join(group.routing_keys) or "-",
        " to ".join(dict.fromkeys(ages)) or "-",
        str(group.target) if group.target else f"stays: {group.trouble}",
    )


def age(time: datetime, now: datetime | None = None) -> str:
    """Return how long ago a time was, like `5 min`."""
    return span(max(((now or datetime.now(UTC)) - time).total_seconds(), 0))


# Consuming and serving.

_PAST = {Verdict.ACK: "acknowledged", Verdict.REJECT: "rejected", Verdict.REQUEUE: "requeued"}


def consume_summary(report: ConsumeReport, unmatched: Verdict, invalid: Verdict, failed: FailurePolicy | None) -> str:
    """Summarize a consume report in one line; messages that were delivered and not settled are back in the queue."""
    requeues = failed is FailurePolicy.REQUEUE
    rejected = "DROPPED" if report.dropped else "rejected"
    fate = "still queued" if report.stayed else "requeued" if requeues else rejected
    sent_on = report.invalid * (invalid is Verdict.ACK)
    given_up = report.failed + report.invalid - sent_on

    def handled(settled: int, verdict: Verdict) -> int:
        return settled - report.unmatched * (verdict is unmatched)

    done = handled(report.acknowledged, Verdict.ACK) - sent_on - (report.retried - report.delayed) - report.parked
    counts = {
        "redelivered": report.redelivered if done else 0,
        rejected: handled(report.rejected, Verdict.REJECT) - given_up * (fate == rejected),
        "requeued": report.requeued - report.delayed - given_up * (fate == "requeued"),
        f"failed ({fate})": report.failed,
        "failed (to be retried)": report.retried,
        "parked (not to be retried)": report.parked,
        f"broke the contract ({'sent on with the reason' if invalid is Verdict.ACK else fate})": report.invalid,
        f"did not match ({_PAST[unmatched]})": report.unmatched,
        "lost (acknowledged, not handled)": report.lost,
        "in doubt (handled, and may be redelivered)": report.in_doubt,
    }
    time = time_and_rate(done, report.seconds, report.idle_s)
    return f"Consumed {plural(done, 'message')} in {time}{_listed(counts)}."


def consumer_shares(report: ConsumeReport) -> str:
    """Return a table of the messages that each consumer acknowledged."""
    total = max(report.acknowledged, 1)
    rows = [(name, f"{share:,}", f"{share / total:.1%}") for name, share in report.shares.items()]
    return output.table([("consumer", "messages", "share"), *rows])


def serve_summary(report: ServeReport) -> str:
    """Summarize a serve report in one line."""
    counts = {
        "failed": report.failed,
        "had no reply_to": report.unaddressed,
        "undeliverable (the requester was gone)": report.undelivered,
        "redelivered": report.redelivered,
    }
    return f"Served {plural(report.requests, 'request')} in {report.seconds:.2f} s{_listed(counts)}."


def _listed(counts: Mapping[str, int]) -> str:
    return "".join(f"; {count:,} {label}" for label, count in counts.items() if count > 0)
