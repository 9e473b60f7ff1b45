"""The exit code of each outcome: one table, one pure function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmqkit import errors

if TYPE_CHECKING:
    from rmqkit.plan import Plan
    from rmqkit.report import MoveReport, ScenarioReport, WaitReport

DONE = 0
BUG = 1
BAD_INPUT = 2
PARTLY_DONE = 3
UNREACHABLE = 4
REFUSED = 5
NOT_CONFIRMED = 6
CANCELLED = 7
HANDLER_FAILED = 8
TEST_FAILED = 9
SIGNALLED = 128  # plus the signal's number: 130 for SIGINT, 143 for SIGTERM

MEANINGS: dict[int, str] = {
    DONE: "done",
    BUG: "a bug in rmqkit: please report it",
    BAD_INPUT: "bad usage or bad input; nothing was sent or declared",
    PARTLY_DONE: "partly done: the output or the input failed midway, and unhandled messages are still queued;"
    " with --detailed-exit-code: changes are pending; diff: there are differences",
    UNREACHABLE: "the broker is unreachable, the connection was lost, or the login was refused",
    REFUSED: "refused by the broker: missing, forbidden, locked, or declared with different properties",
    NOT_CONFIRMED: "a message was not confirmed, reached no queue, or got no reply in time; bench: or was lost",
    CANCELLED: "the broker cancelled the consumer: its queue was deleted",
    HANDLER_FAILED: "a handler failed, locally or on the called server; a consumed message broke its contract;"
    " or messages were lost with --no-ack",
    TEST_FAILED: "a test failed: a message was not routed as its scenario expects, or with trace --check as predicted;"
    " wait: the queue did not reach the state in time; check: something is wrong, or cannot be checked;"
    " bench --compare: a number is worse than before",
    SIGNALLED + 1: "stopped by SIGHUP (the terminal was closed), after finishing cleanly",
    SIGNALLED + 2: "stopped by SIGINT (Ctrl-C), after finishing cleanly",
    SIGNALLED + 15: "stopped by SIGTERM, after finishing cleanly",
}

_ERRORS: dict[int, tuple[type[errors.RmqkitError], ...]] = {
    BAD_INPUT: (errors.InputError,),
    PARTLY_DONE: (errors.OutputError,),
    UNREACHABLE: (errors.NodeError, errors.Unreachable, errors.AuthenticationFailed, errors.ConnectionLost),
    CANCELLED: (errors.ConsumerCancelled,),
    NOT_CONFIRMED: (errors.NotConfirmed, errors.Unroutable, errors.ReplyTimeout),
    REFUSED: (errors.Refused,),
    HANDLER_FAILED: (errors.HandlerError,),
}


def exit_code(
    outcome: BaseException | MoveReport | Plan | ScenarioReport | WaitReport | None, *, changes_count: bool = False
) -> int:
    """Return the exit code of the process for an outcome; None means done.

    With `changes_count` a plan with pending changes is PARTLY_DONE.
    """
    if outcome is None:
        return DONE
    if isinstance(outcome, BaseException):
        return next((code for code, classes in _ERRORS.items() if isinstance(outcome, classes)), BUG)
    return _report_code(outcome, changes_count=changes_count)


def _report_code(report: MoveReport | Plan | ScenarioReport | WaitReport, *, changes_count: bool) -> int:
    from rmqkit.plan import Plan  # noqa: PLC0415 - they load the model, which `--help` and an error do without
    from rmqkit.report import MoveReport, ScenarioReport  # noqa: PLC0415

    match report:
        case Plan():
            pending = PARTLY_DONE if changes_count and report.changes else DONE
            return REFUSED if report.conflicts or report.missing or report.unsupported else pending
        case ScenarioReport():
            return TEST_FAILED if report.failed else DONE
        case MoveReport():
            return NOT_CONFIRMED if report.stayed else DONE
        case _:
            return DONE if report.met else TEST_FAILED
