"""Which confirm and which return belong to which message (fault 17 and 18 of the fault table, without a broker)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame

from rmqkit.amqp.frames import Confirm, Returned
from rmqkit.message import Message, Properties
from rmqkit.messaging.unconfirmed import Sent, Unconfirmed
from tests.support import pika_encoder


def _filled(*messages: Message) -> Unconfirmed[Sent]:
    unconfirmed: Unconfirmed[Sent] = Unconfirmed()
    for position, message in enumerate(messages):
        unconfirmed.add(Sent(position, message, len(message.body)))
    return unconfirmed


def _numbered(amount: int) -> Unconfirmed[Sent]:
    return _filled(*(Message(b"%d" % number) for number in range(amount)))


def _positions(settled: list[Sent]) -> list[int]:
    return [sent.position for sent in settled]


def _return_of(message: Message, header: Properties | None = None) -> Returned:
    raw = frame.Header(1, 0, pika_encoder.pika_properties(header or message.properties)).marshal()[19:-1]
    return Returned(312, "NO_ROUTE", message.exchange, message.routing_key, raw, message.body)


def test_a_multiple_confirm_settles_everything_up_to_its_tag() -> None:
    unconfirmed = _numbered(5)
    assert _positions(unconfirmed.settle(Confirm(3, multiple=True, ack=True))) == [0, 1, 2]
    assert len(unconfirmed) == 2


def test_tag_zero_with_multiple_settles_everything() -> None:
    assert _positions(_numbered(4).settle(Confirm(0, multiple=True, ack=True))) == [0, 1, 2, 3]


@pytest.mark.parametrize("confirm", [Confirm(9, False, True), Confirm(0, False, True), Confirm(2, False, True)])
def test_unknown_and_duplicate_tags_settle_nothing(confirm: Confirm) -> None:
    unconfirmed = _numbered(3)
    unconfirmed.settle(Confirm(2, multiple=False, ack=True))
    assert unconfirmed.settle(confirm) == []
    assert len(unconfirmed) == 2


@given(st.integers(1, 40), st.data())
def test_confirms_in_any_order_settle_each_message_once(amount: int, data: st.DataObject) -> None:
    unconfirmed = _numbered(amount)
    settled: list[int] = []
    confirms = st.builds(Confirm, st.integers(0, amount + 2), st.booleans(), st.just(True))
    for confirm in data.draw(st.lists(confirms, max_size=60)):
        found = _positions(unconfirmed.settle(confirm))
        assert found == sorted(found)
        settled += found
        assert len(unconfirmed) == amount - len(settled)
    settled += _positions(unconfirmed.take_all())
    assert sorted(settled) == list(range(amount))
    assert unconfirmed.body_bytes == 0


def test_returns_are_tied_to_their_messages_in_the_order_of_publishing() -> None:
    same = Message(b"same", "nowhere")
    unconfirmed = _filled(same, Message(b"other", "queue"), same, same)
    assert unconfirmed.note_return(_return_of(same))
    assert unconfirmed.note_return(_return_of(same))
    assert sorted(unconfirmed.returned) == [0, 2]


def test_a_return_finds_the_message_with_its_very_properties() -> None:
    red, blue = (Message(b"x", "k", "h", Properties(headers={"color": color})) for color in ("red", "blue"))
    unconfirmed = _filled(red, blue)
    assert unconfirmed.note_return(_return_of(blue))
    assert list(unconfirmed.returned) == [1]


def test_a_return_whose_properties_the_broker_changed_still_finds_its_message() -> None:
    carbon_copied = Message(b"x", "k", "", Properties(headers={"BCC": ["elsewhere"]}))
    unconfirmed = _filled(Message(b"y", "k"), carbon_copied)
    assert unconfirmed.note_return(_return_of(carbon_copied, Properties(headers={})))
    assert list(unconfirmed.returned) == [1]


def test_a_return_of_an_unknown_message_is_ignored() -> None:
    unconfirmed = _numbered(2)
    assert not unconfirmed.note_return(_return_of(Message(b"stranger")))
    assert not unconfirmed.returned


def test_a_move_matches_properties_even_after_a_return_that_altered_them() -> None:
    first, second = Properties(message_id="1"), Properties(message_id="2")
    messages = [Message(b"a", properties=first), Message(b"b", properties=first), Message(b"b", properties=second)]
    unconfirmed: Unconfirmed[Sent] = Unconfirmed(always_exact=True)
    for position, message in enumerate(messages):
        unconfirmed.add(Sent(position, message, 1))
    assert unconfirmed.note_return(_return_of(messages[0], Properties(message_id="altered")))
    assert unconfirmed.note_return(_return_of(messages[2]))
    assert set(unconfirmed.returned) == {0, 2}
