"""What a publish report means: an error, a warning, a line of text, an exit code. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rmqkit import exit_codes
from rmqkit.amqp import error_mapping
from rmqkit.cli import output
from rmqkit.errors import REFUSALS, InputError, NotConfirmed, Refused, RmqkitError, Unroutable
from rmqkit.message import Message, Verdict
from rmqkit.model import Target
from rmqkit.report import ConsumeReport, Failure, Fate, PublishReport, ServeReport

if TYPE_CHECKING:
    from rmqkit.payload.resume import Resume

_COUNTS = ("confirmed", "returned", "nacked", "refused", "unknown", "republished")


def trouble(report: PublishReport, *, mandatory: bool) -> RmqkitError | None:
    """Return the error a report amounts to: something was refused, not confirmed, or unroutable.

    Unroutable is an error through the default exchange, and with `mandatory` through any: publish/subscribe producers
    do not know their readers.
    """
    unknown = report.unknown if report.confirms else 0
    refused = _first(report, Fate.REFUSED)
    if refused is not None:
        return _refusal(report, refused)
    if report.nacked or report.refused or unknown:
        reasons = sorted({each.reason for each in report.failures if each.fate is not Fate.RETURNED})
        failed = f"{report.nacked + report.refused + unknown:,} of {report.published:,} messages were not confirmed"
        advice = "They may or may not be in their queues: only a confirm tells." if unknown else ""
        return NotConfirmed(": ".join([failed, *(["; ".join(reasons)] if reasons else [])]), advice=advice)
    lost = _queueless(report)
    if lost is not None:
        advice = "Declare it with `rmqkit apply FILE`, or name another with --queue."
        return Unroutable(f"{_unrouted(report)}: there is no queue {lost.routing_key!r}", advice=advice)
    if mandatory and report.returned:
        return Unroutable(_unbound(report), advice="Bind a queue in a topology file, and `rmqkit apply` it.")
    return None


def warning(report: PublishReport, error: RmqkitError | None) -> str:
    """Say that messages reached no queue, where that is no error; empty when all did."""
    return _unbound(report) if report.returned and not isinstance(error, Unroutable) else ""


def exit_code(report: PublishReport, error: RmqkitError | None, received: int) -> int:
    """Return the exit code; `received` is the signal that stopped us, 0 for none."""
    if isinstance(error, InputError) and report.published:
        return exit_codes.PARTLY_DONE
    return exit_codes.exit_code(error) or (exit_codes.SIGNALLED + received if received else exit_codes.DONE)


def summary(report: PublishReport) -> str:
    """Put a report in a line that adds up; what is 0 is left out."""
    rate = f", {report.published / report.seconds:,.0f}/s" if report.published and report.seconds else ""
    counts = [f"{getattr(report, name):,} {name}" for name in _COUNTS if getattr(report, name)]
    did = "Stopped; published" if report.interrupted else "Published"
    things = "message" if report.published == 1 else "messages"
    line = f"{did} {report.published:,} {things} in {report.seconds:.2f} s{rate}"
    return f"{line}: {', '.join(counts)}." if counts else f"{line}."


def going_on(resume: Resume) -> str:
    """Say what a run goes on from; empty when it begins anew."""
    if not (resume.place.n or resume.doubtful):
        return ""
    parts = [f"Going on after line {resume.place.line:,}: {resume.skipped:,} messages are confirmed"]
    if resume.retried:
        parts.append(f"{resume.retried:,} that failed are sent again first")
    if resume.doubtful:
        parts.append(f"of those that follow, up to {resume.doubtful:,} may be there already, and will be there twice")
    return "; ".join(parts) + "."


def resumed(resume: Resume) -> dict[str, int]:
    """Return what a run went on from, for `--json`."""
    return {"skipped": resume.skipped, "retried": resume.retried, "doubtful": resume.doubtful}


def _first(report: PublishReport, fate: Fate) -> Failure | None:
    return next((each for each in report.failures if each.fate is fate), None)


def _refusal(report: PublishReport, culprit: Failure) -> Refused:
    code, _, text = culprit.reason.partition(" ")
    number = int(code) if code.isdecimal() else 0
    where = Target(culprit.message.exchange, culprit.message.routing_key)
    subject = f"{report.refused:,} of {report.published:,} messages to {where}"
    advice = error_mapping.permission_advice(text, error_mapping.PUBLISH, subject)
    if number == 404:  # noqa: PLR2004 - not found
        advice = "`rmqkit apply FILE` declares what is missing."
    return REFUSALS.get(number, Refused)(number, text, subject, advice=advice)


def _queueless(report: PublishReport) -> Message | None:
    """Return a message for a queue, through the default exchange, that is not there."""
    returned = (each.message for each in report.failures if each.fate is Fate.RETURNED)
    return next((message for message in returned if not message.exchange), None)


def _unrouted(report: PublishReport) -> str:
    return f"{report.returned:,} of {report.published:,} messages reached no queue"


def _unbound(report: PublishReport) -> str:
    first = _first(report, Fate.RETURNED)
    if first is None:
        return _unrouted(report)
    exchange, key = first.message.exchange, first.message.routing_key
    where = f"exchange {exchange!r} has no binding" if exchange else "there is no queue"
    return f"{_unrouted(report)}: {where} for routing key {key!r}"


# Consuming and serving.

_PAST = {Verdict.ACK: "acknowledged", Verdict.REJECT: "rejected", Verdict.REQUEUE: "requeued"}


def consume_summary(report: ConsumeReport, unmatched: Verdict, invalid: Verdict) -> str:
    """Summarize what was consumed in one line; messages that were delivered and not settled are back in the queue."""

    def handled(settled: int, verdict: Verdict) -> int:
        return settled - report.unmatched * (verdict is unmatched) - report.invalid * (verdict is invalid)

    done = handled(report.acknowledged, Verdict.ACK) - report.retried - report.parked
    rate = f", {done / report.seconds:,.0f}/s" if done and report.seconds else ""
    counts = {
        "redelivered": report.redelivered if done else 0,
        "rejected": handled(report.rejected, Verdict.REJECT) - report.failed,
        "requeued": report.requeued,
        "failed (rejected)": report.failed,
        "failed (to be retried)": report.retried,
        "parked (not to be retried)": report.parked,
        f"broke the contract ({'sent on with the reason' if invalid is Verdict.ACK else 'rejected'})": report.invalid,
        f"did not match ({_PAST[unmatched]})": report.unmatched,
    }
    messages = "message" if done == 1 else "messages"
    return f"Consumed {done:,} {messages} in {report.seconds:.2f} s{rate}{_listed(counts)}."


def consumer_shares(report: ConsumeReport) -> str:
    """Return a table of the messages that each consumer acknowledged."""
    total = max(report.acknowledged, 1)
    rows = [(name, f"{share:,}", f"{share / total:.1%}") for name, share in report.shares.items()]
    return output.table([("consumer", "messages", "share"), *rows])


def serve_summary(report: ServeReport) -> str:
    """Summarize what was served in one line."""
    requests = "request" if report.requests == 1 else "requests"
    counts = {
        "failed": report.failed,
        "had no reply_to": report.unaddressed,
        "undeliverable (the requester was gone)": report.undelivered,
        "redelivered": report.redelivered,
    }
    return f"Served {report.requests:,} {requests} in {report.seconds:.2f} s{_listed(counts)}."


def _listed(counts: Mapping[str, int]) -> str:
    return "".join(f"; {count:,} {label}" for label, count in counts.items() if count > 0)
