"""What is wrong with a run of publishing, as an error. Pure.

Comes in: a PublishReport. Goes out: an error that names what was not confirmed, or none. Room: broker.
"""

from __future__ import annotations

from rmqkit.errors import NotConfirmed, Unroutable
from rmqkit.model import Target
from rmqkit.report import Fate, PublishReport


def of_run(report: PublishReport) -> NotConfirmed | Unroutable | None:
    """Return what makes a run a failure; that a message had no reader behind its exchange does not."""
    unknown = report.unknown if report.confirms else 0
    error: NotConfirmed | Unroutable | None = None
    returned = (each.message for each in report.failures if each.fate is Fate.RETURNED)
    absent = sorted({each.routing_key for each in returned if not each.exchange})
    if failed := report.nacked + report.refused + unknown:
        reasons = {failure.reason for failure in report.failures if failure.fate is not Fate.RETURNED}
        error = NotConfirmed(
            f"{failed} of {report.published} messages were not confirmed: {'; '.join(sorted(reasons))}"
        )
    elif absent:
        error = Unroutable(
            f"{report.returned} of {report.published} messages reached no queue: there is no queue {absent[0]!r}",
            advice="Declare it first: `connection.apply(topology)`, or `rmqkit apply FILE`.",
        )
    if error:
        error.report = report
    return error


def of_copies(report: PublishReport, what: str, advice: str) -> NotConfirmed | Unroutable | None:
    """Return what is wrong with the first copy that was not taken; `what` begins the sentence.

    One that a stop left without an answer is all right. The advice is for one that reached no queue.
    """
    for each in report.failures:
        where = f"{what} to {Target(each.message.exchange, each.message.routing_key)}"
        if each.fate is Fate.RETURNED:
            return Unroutable(f"{where}: it reached no queue", advice=advice)
        if each.fate is not Fate.UNKNOWN or not report.interrupted:
            return NotConfirmed(f"{where}: {each.reason}", advice="It is in its own queue still.")
    return None
