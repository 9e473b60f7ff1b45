"""The ledger finds what it is there to find."""

from __future__ import annotations

from dataclasses import replace

from rmqkit.report import Fate, PublishReport
from tests.faults.ledger import Ledger, Seen, body, identity

ALL = range(4)
REPORT = PublishReport(published=4, confirmed=4)


def books(found: list[int], fates: dict[int, Fate] | None = None) -> Ledger:
    """Make the books of four messages: all confirmed, unless said otherwise."""
    ledger = Ledger("queue")
    list(ledger.messages(ALL))
    ledger.fates = [(number, (fates or {}).get(number, Fate.CONFIRMED)) for number in ALL]
    ledger.found = [Seen(body(number)) for number in found]
    return ledger


def test_a_body_tells_its_id_and_every_damage() -> None:
    data = body(42, 10)
    assert identity(data) == 42
    damaged = [data[:-1], data + b".", data.replace(b"42", b"43", 1), b"", b"42", data[:30], b"x" + data]
    assert [identity(each) for each in damaged] == [None] * len(damaged)


def test_books_in_order_have_no_violations() -> None:
    assert books([0, 1, 2, 3]).violations(REPORT) == []


def test_a_confirmed_message_that_is_not_there_is_lost() -> None:
    assert books([0, 1, 3]).violations(REPORT) == ["I1: confirmed and lost: 1 (2)"]


def test_a_message_nobody_sent_is_unexpected() -> None:
    assert books([0, 1, 2, 3, 9]).violations(REPORT) == ["I2: never sent: 1 (9)"]


def test_every_message_has_one_fate_and_the_report_agrees() -> None:
    ledger = books([0, 1, 2, 3])
    ledger.fates[3] = (2, Fate.UNKNOWN)
    assert ledger.violations(REPORT) == [
        "I3: told two fates: 1 (2)",
        "I3: told no fate: 1 (3)",
        "I3: 3 are confirmed, the report says 4",
        "I3: 1 are unknown, the report says 0",
        "I8: complete is True, and 4 sent: {<Fate.CONFIRMED: 'confirmed'>: 3, <Fate.UNKNOWN: 'unknown'>: 1}",
    ]


def test_a_report_that_does_not_add_up_is_found() -> None:
    violations = books([0, 1, 2, 3]).violations(replace(REPORT, published=5))
    assert "I3: 4 taken, 5 published, the report adds up to 4" in violations


def test_duplicates_are_at_most_as_many_as_were_republished() -> None:
    ledger = books([0, 1, 1, 2, 3, 3])
    assert ledger.violations(replace(REPORT, republished=2)) == []
    assert ledger.violations(replace(REPORT, republished=1)) == ["I4: 2 duplicates, but only 1 were republished"]


def test_first_occurrences_keep_the_order_of_the_input() -> None:
    again = replace(REPORT, republished=9)
    assert books([0, 1, 2, 0, 1, 2, 3]).violations(again) == []
    assert books([0, 2, 1, 3]).violations(again) == ["I5: out of order, as 2 before 1"]


def test_damaged_bodies_and_properties_are_found() -> None:
    ledger = books([0, 1, 2, 3])
    ledger.found += [Seen(body(1)[:20]), Seen(body(2), intact=False)]
    violations = ledger.violations(replace(REPORT, republished=2))
    assert [each.split(" are damaged")[0] for each in violations] == ["I6: 1 bodies", "I6: properties"]


def test_a_failed_message_need_not_be_there_and_an_unknown_one_may() -> None:
    fates = {1: Fate.RETURNED, 2: Fate.UNKNOWN}
    report = replace(REPORT, confirmed=2, returned=1, unknown=1)
    assert books([0, 2, 3], fates).violations(report) == []
    assert books([0, 3], fates).violations(report) == []


def test_what_was_confirmed_is_handled_and_a_second_sight_is_marked() -> None:
    ledger = books([])
    ledger.handled = [Seen(body(number)) for number in (0, 1, 2)] + [Seen(body(1), redelivered=True)]
    assert ledger.consumer_violations(0, 0) == ["I7: never handled: 1 (3)"]
    ledger.handled += [Seen(body(3)), Seen(body(2))]
    assert ledger.consumer_violations(0, 1) == [
        "I7: 0 ready and 1 unacknowledged messages are left",
        "I7: handled twice, not marked redelivered: 1 (2)",
    ]
    assert ledger.consumer_violations(0, 0, republished=1) == []
