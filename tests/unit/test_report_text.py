"""Reports as errors, warnings, summaries and exit codes; expirations of the command line."""

import os
import signal
from pathlib import Path

import pytest
import typer

from rmqkit.cli import report_text
from rmqkit.cli.commands.publish import WORK
from rmqkit.cli.publish_input import parse_expiration
from rmqkit.cli.signals import run_and_exit
from rmqkit.errors import AccessRefused, NotConfirmed, NotFound, PayloadError, Unroutable
from rmqkit.message import Message, Verdict
from rmqkit.report import ConsumeReport, Failure, Fate, MoveReport, PublishReport
from rmqkit.stop import Stop
from rmqkit.topology.file.loader import load


def _failed(fate: Fate, reason: str = "why", exchange: str = "") -> Failure:
    return Failure(0, Message(b"hunter2", "key", exchange), fate, reason)


@pytest.mark.parametrize(
    ("report", "mandatory", "error", "code"),
    [
        (PublishReport(3, 3), False, None, 0),
        (PublishReport(3, unknown=3, confirms=False), False, None, 0),
        (PublishReport(3, 2, unknown=1), False, NotConfirmed, 6),
        (PublishReport(3, 2, nacked=1, failures=(_failed(Fate.NACKED),)), False, NotConfirmed, 6),
        (PublishReport(3, 2, returned=1, failures=(_failed(Fate.RETURNED),)), False, Unroutable, 6),
        (PublishReport(3, 2, returned=1, failures=(_failed(Fate.RETURNED, exchange="x"),)), False, None, 0),
        (PublishReport(3, 2, returned=1, failures=(_failed(Fate.RETURNED, exchange="x"),)), True, Unroutable, 6),
        (PublishReport(3, 2, returned=1, failures=(_failed(Fate.RETURNED, exchange="x"),)), None, Unroutable, 6),
        (PublishReport(3, 3), None, None, 0),
        (PublishReport(3, 3), True, None, 0),
        (PublishReport(3, 2, refused=1, failures=(_failed(Fate.REFUSED, "404 NOT_FOUND"),)), False, NotFound, 5),
        (PublishReport(3, 2, refused=1, failures=(_failed(Fate.REFUSED, "403 ACCESS"),)), False, AccessRefused, 5),
    ],
)
def test_a_run_with_unconfirmed_messages_is_an_error_of_its_kind(
    report: PublishReport, mandatory: bool | None, error: type[Exception] | None, code: int
) -> None:
    found = report_text.error_of(report, mandatory=mandatory)
    assert (type(found) if found else None) is error
    assert report_text.exit_code(report, found) == code
    assert "hunter2" not in str(found)


def test_failing_input_is_bad_input_before_the_first_message_and_partly_done_after_it() -> None:
    assert report_text.exit_code(PublishReport(0), PayloadError("bad")) == 2
    assert report_text.exit_code(PublishReport(1, 1), PayloadError("bad")) == 3


@pytest.mark.parametrize(
    ("report", "code"), [(PublishReport(1, 1, interrupted=True), 143), (PublishReport(2, 1, unknown=1), 6)]
)
def test_a_signal_determines_the_exit_code_only_if_everything_sent_was_confirmed(
    report: PublishReport, code: int
) -> None:
    def body(_: Stop) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return report_text.exit_code(report, report_text.error_of(report, mandatory=False))

    with pytest.raises(typer.Exit) as caught:
        run_and_exit(body)
    assert caught.value.exit_code == code


@pytest.mark.parametrize(
    ("count", "seconds", "idle_s", "text"),
    [
        (1_000, 2.0, 0.0, "2.00 s, 500/s"),
        (1_000, 3_602.0, 3_600.0, "3602.00 s (3600.00 s idle), 500/s"),  # the rate is that of the two busy seconds
        (19, 0.03, 0.0, "0.03 s"),  # a handful has no rate
        (0, 5.0, 5.0, "5.00 s"),
    ],
)
def test_rates_leave_out_idle_time(count: int, seconds: float, idle_s: float, text: str) -> None:
    report = ConsumeReport(count, count, seconds=seconds, idle_s=idle_s)
    summary = report_text.consume_summary(report, Verdict.REQUEUE, Verdict.REJECT, None)
    assert summary == f"Consumed {count:,} messages in {text}."


def test_the_summary_adds_up_and_omits_zeros() -> None:
    report = PublishReport(1_003, 1_000, returned=2, unknown=1, republished=7, seconds=2.0)
    assert report_text.publish_summary(report) == (
        "Published 1,003 messages in 2.00 s, 502/s: 1,000 confirmed, 2 returned, 1 unknown, 7 republished."
    )
    assert report_text.publish_summary(PublishReport()) == "Published 0 messages in 0.00 s."
    stopped = report_text.publish_summary(PublishReport(1, 1, interrupted=True))
    assert stopped == "Stopped: published 1 message in 0.00 s: 1 confirmed."


def test_the_summary_of_a_move_adds_up_and_omits_zeros() -> None:
    report = MoveReport(ready=1_010, moved=1_000, redelivered=5, unmatched=2, seconds=2.0)
    assert report_text.move_summary(report, "parked") == (
        "Moved 1,000 messages in 2.00 s, 500/s; 5 redelivered (duplicates are possible only if an earlier move was"
        " interrupted); 2 do not match; scanned 1,002 of 1,010 messages in 'parked'."
    )
    assert report_text.move_summary(MoveReport(interrupted=True), "q") == "Stopped: moved 0 messages in 0.00 s."
    assert report_text.move_summary(MoveReport(ready=1, moved=1, dry_run=True), "q") == "Would move 1 message."


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", "0"), ("4294967295", "4294967295"), ("250ms", "250"), ("5s", "5000"), ("2m", "120000"), ("1h", "3600000"),
     ("49d", "4233600000")],
)  # fmt: skip
def test_an_expiration_is_milliseconds_or_a_duration(text: str, expected: str) -> None:
    assert parse_expiration(text) == expected


@pytest.mark.parametrize("text", ["", "-1", "1.5", "5x", "s", "5 s", "٣", "4294967296", "50d", "9" * 300])
def test_an_expiration_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(PayloadError, match=r"--expiration: expected milliseconds \(0 to 4294967295\), or a duration"):
        parse_expiration(text)


def test_the_last_default_target_is_that_of_the_packaged_work_topology() -> None:
    assert load(Path(__file__).parents[2] / "topologies" / "work.yaml").publish == WORK
