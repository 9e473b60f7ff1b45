"""The ledger finds every kind of violation."""

from __future__ import annotations

from dataclasses import replace

from rmqkit.report import Fate, PublishReport
from tests.faults.ledger import FaultLedger, Receipt, body, identity

ALL = range(4)
REPORT = PublishReport(published=4, confirmed=4)


def ledger_of(found: list[int], fates: dict[int, Fate] | None = None) -> FaultLedger:
    """Make a ledger of four messages, confirmed unless given another fate."""
    ledger = FaultLedger("queue")
    list(ledger.messages(ALL))
    ledger.fates = [(number, (fates or {}).get(number, Fate.CONFIRMED)) for number in ALL]
    ledger.found = [Receipt(body(number)) for number in found]
    return ledger


def test_a_body_has_its_id_and_shows_any_damage() -> None:
    data = body(42, 10)
    assert identity(data) == 42
    damaged = [data[:-1], data + b".", data.replace(b"42", b"43", 1), b"", b"42", data[:30], b"x" + data]
    assert [identity(each) for each in damaged] == [None] * len(damaged)


def test_a_ledger_in_order_has_no_violations() -> None:
    assert ledger_of([0, 1, 2, 3]).violations(REPORT) == []


def test_a_missing_confirmed_message_counts_as_lost() -> None:
    assert ledger_of([0, 1, 3]).violations(REPORT) == ["lost: confirmed and lost: 1 (2)"]


def test_a_message_that_was_never_sent_is_unexpected() -> None:
    assert ledger_of([0, 1, 2, 3, 9]).violations(REPORT) == ["unexpected: never sent: 1 (9)"]


def test_every_message_has_one_fate_and_the_report_agrees() -> None:
    ledger = ledger_of([0, 1, 2, 3])
    ledger.fates[3] = (2, Fate.UNKNOWN)
    assert ledger.violations(REPORT) == [
        "accounting: reported with two fates: 1 (2)",
        "accounting: reported with no fate: 1 (3)",
        "accounting: 3 are confirmed, the report says 4",
        "accounting: 1 are unknown, the report says 0",
        "completeness: complete is True, and 4 sent: {<Fate.CONFIRMED: 'confirmed'>: 3, <Fate.UNKNOWN: 'unknown'>: 1}",
    ]


def test_a_report_that_does_not_add_up_is_found() -> None:
    violations = ledger_of([0, 1, 2, 3]).violations(replace(REPORT, published=5))
    assert "accounting: 4 taken, 5 published, the report adds up to 4" in violations


def test_duplicates_are_at_most_as_many_as_were_republished() -> None:
    ledger = ledger_of([0, 1, 1, 2, 3, 3])
    assert ledger.violations(replace(REPORT, republished=2)) == []
    assert ledger.violations(replace(REPORT, republished=1)) == ["duplicates: 2, but only 1 were republished"]


def test_first_occurrences_keep_the_order_of_the_input() -> None:
    again = replace(REPORT, republished=9)
    assert ledger_of([0, 1, 2, 0, 1, 2, 3]).violations(again) == []
    assert ledger_of([0, 2, 1, 3]).violations(again) == ["order: out of order, as 2 before 1"]


def test_damaged_bodies_and_properties_are_found() -> None:
    ledger = ledger_of([0, 1, 2, 3])
    ledger.found += [Receipt(body(1)[:20]), Receipt(body(2), intact=False)]
    violations = ledger.violations(replace(REPORT, republished=2))
    assert [each.split(" are damaged")[0] for each in violations] == ["damage: 1 bodies", "damage: properties"]


def test_a_failed_message_need_not_be_there_and_an_unknown_one_may() -> None:
    fates = {1: Fate.RETURNED, 2: Fate.UNKNOWN}
    report = replace(REPORT, confirmed=2, returned=1, unknown=1)
    assert ledger_of([0, 2, 3], fates).violations(report) == []
    assert ledger_of([0, 3], fates).violations(report) == []


def test_confirmed_messages_are_handled_and_repeats_are_marked_redelivered() -> None:
    ledger = ledger_of([])
    ledger.handled = [Receipt(body(number)) for number in (0, 1, 2)] + [Receipt(body(1), redelivered=True)]
    assert ledger.consumer_violations(0, 0) == ["handling: never handled: 1 (3)"]
    ledger.handled += [Receipt(body(3)), Receipt(body(2))]
    assert ledger.consumer_violations(0, 1) == [
        "handling: 0 ready and 1 unacknowledged messages are left",
        "handling: handled twice, not marked redelivered: 1 (2)",
    ]
    assert ledger.consumer_violations(0, 0, republished=1) == []
