"""What a publish report means, as an error, a warning, a line and an exit code."""

from pathlib import Path

import pytest

from rmqkit.cli import report_text
from rmqkit.cli.commands.publish import WORK
from rmqkit.errors import AccessRefused, NotConfirmed, NotFound, PayloadError, Unroutable
from rmqkit.message import Message
from rmqkit.report import Failure, Fate, PublishReport
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
        (PublishReport(3, 2, refused=1, failures=(_failed(Fate.REFUSED, "404 NOT_FOUND"),)), False, NotFound, 5),
        (PublishReport(3, 2, refused=1, failures=(_failed(Fate.REFUSED, "403 ACCESS"),)), False, AccessRefused, 5),
    ],
)
def test_what_was_not_confirmed_is_an_error_of_its_kind(
    report: PublishReport, mandatory: bool, error: type[Exception] | None, code: int
) -> None:
    trouble = report_text.trouble(report, mandatory=mandatory)
    assert (type(trouble) if trouble else None) is error
    assert report_text.exit_code(report, trouble, 0) == code
    assert "hunter2" not in str(trouble)


def test_input_that_fails_is_bad_input_before_the_first_message_and_partly_done_after_it() -> None:
    assert report_text.exit_code(PublishReport(0), PayloadError("bad"), 0) == 2
    assert report_text.exit_code(PublishReport(1, 1), PayloadError("bad"), 0) == 3


def test_a_signal_shows_in_the_exit_code_only_if_all_that_was_sent_is_confirmed() -> None:
    assert report_text.exit_code(PublishReport(1, 1), None, 15) == 143
    report = PublishReport(2, 1, unknown=1)
    assert report_text.exit_code(report, report_text.trouble(report, mandatory=False), 2) == 6


def test_the_summary_adds_up_and_leaves_zeros_out() -> None:
    report = PublishReport(1_003, 1_000, returned=2, unknown=1, republished=7, seconds=2.0)
    assert report_text.summary(report) == (
        "Published 1,003 messages in 2.00 s, 502/s: 1,000 confirmed, 2 returned, 1 unknown, 7 republished."
    )
    assert report_text.summary(PublishReport()) == "Published 0 messages in 0.00 s."


def test_the_target_of_last_resort_is_that_of_the_packaged_work_topology() -> None:
    assert load(Path(__file__).parents[2] / "topologies" / "work.yaml").publish == WORK
