"""Whatever bytes a peer sends: events or a ProtocolError, whatever the reads; and where pika reads them, its events."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

from rmqkit.amqp.frame_decoder import MAX_HEADER_BYTES, Decoder, ProtocolError
from rmqkit.amqp.frames import Confirm, LazyOrigin, Returned, encode_method
from rmqkit.amqp.pika_decoder import PikaDecoder
from rmqkit.errors import PayloadError
from rmqkit.handlers.delivery_filter import DeliveryFilter
from rmqkit.message import Delivery, Properties
from rmqkit.messaging.rpc_reply import find_error
from rmqkit.payload import properties
from rmqkit.payload.death_headers import deaths, first_death
from rmqkit.payload.envelopes import EnvelopeWriter
from rmqkit.payload.field_table import (
    MalformedField,
    decode_properties,
    decode_table,
    encode_properties,
    join_properties,
    join_table,
    split_properties,
    split_table,
)
from tests.support.fuzzing import bounded, examples, outcome, tampered

FRAME_MAX = 4096
Wire = list[bytes]  # frames


def content(channel: int, method: Any, body: bytes, header: spec.BasicProperties | None = None) -> Wire:
    parts = [body[start : start + FRAME_MAX - 8] for start in range(0, len(body), FRAME_MAX - 8)]
    return [
        encode_method(channel, method),
        frame.Header(channel, len(body), header or spec.BasicProperties()).marshal(),
        *(frame.Body(channel, part).marshal() for part in parts),
    ]


TALK: dict[str, Wire] = {
    "deliver": content(1, spec.Basic.Deliver("tag", 1, False, "", "key"), b"body"),
    "deliver again": content(1, spec.Basic.Deliver("tag", 2, True, "", "key"), b"another body"),
    "empty": content(1, spec.Basic.Deliver("tag", 3, False, "", "key"), b""),
    "large": content(2, spec.Basic.Deliver("t", 4, False, "e", "k"), b"x" * 9000),
    "headers": content(
        2, spec.Basic.Deliver("t", 5, False, "e", "k"), b"b", spec.BasicProperties(headers={"a": [1, {}]})
    ),
    "returned": content(1, spec.Basic.Return(312, "NO_ROUTE", "", "nowhere"), b"back"),
    "ack": [encode_method(1, spec.Basic.Ack(7, True))],
    "nack": [encode_method(2, spec.Basic.Nack(1, False))],
    "declared": [encode_method(3, spec.Queue.DeclareOk("q", 1, 2))],
    "closed": [encode_method(1, spec.Channel.Close(404, "NOT_FOUND", 50, 10))],
    "heartbeat": [frame.Heartbeat().marshal()],
    "blocked": [encode_method(0, spec.Connection.Blocked("low on memory"))],
}


@st.composite
def wires(draw: st.DrawFn) -> bytes:
    """Return a conversation in which frames are missing, twice, out of place, and bytes of them changed."""
    frames = [
        each for name in draw(st.lists(st.sampled_from(sorted(TALK)), min_size=1, max_size=6)) for each in TALK[name]
    ]
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(frames) - 1))
        data = frames[place]
        match draw(st.sampled_from(["drop", "double", "swap", "flip", "cut", "length", "channel", "kind", "size"])):
            case "drop":
                frames[place] = b""
            case "double":
                frames[place] = data + data
            case "swap":
                other = draw(st.integers(0, len(frames) - 1))
                frames[place], frames[other] = frames[other], data
            case "flip" if data:
                at = draw(st.integers(0, len(data) - 1))
                frames[place] = data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
            case "cut":
                frames[place] = data[: draw(st.integers(0, len(data)))]
            case "length":
                frames[place] = (
                    data[:3] + draw(st.integers(0, 2**32 - 1) | st.integers(0, 30)).to_bytes(4, "big") + data[7:]
                )
            case "channel":
                frames[place] = data[:1] + draw(st.sampled_from([0, 1, 2, 3, 65535])).to_bytes(2, "big") + data[3:]
            case "kind":
                frames[place] = bytes([draw(st.sampled_from([1, 2, 3, 8, 0, 255]))]) + data[1:]
            case "size" if data[:1] == b"\x02":  # of a body, in its header
                size = draw(st.sampled_from([0, 1, 5, 2**31, 2**63, 2**64 - 1]))
                frames[place] = data[:11] + size.to_bytes(8, "big") + data[19:]
    return b"".join(frames)


def reads(data: st.DataObject, wire: bytes) -> list[bytes]:
    """Cut bytes into reads."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    return [wire[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(wire)], strict=True)]


def decode(decoder: Any, pieces: list[bytes]) -> tuple[list[Any], bool]:
    """Return the events, flat and comparable, and whether it ended with a ProtocolError."""
    events: list[Any] = []
    decoder.sessions = {1: 11, 2: 22}
    try:
        for piece in pieces:
            for channel, event in decoder.feed(piece):
                flat = event if isinstance(event, list) else [event]
                events += [(channel, comparable(each)) for each in flat]
    except ProtocolError:
        return events, True
    return events, False


def comparable(event: Any) -> Any:
    if isinstance(event, Delivery):
        return event.body, event.delivery_tag, event.redelivered, event.session, event.exchange, event.routing_key
    return event if isinstance(event, Confirm | Returned) else repr(event)


@examples(250)
@given(wires() | st.binary(max_size=100), st.data())
def test_the_reads_do_not_matter_and_nothing_but_a_protocol_error_is_raised(wire: bytes, data: st.DataObject) -> None:
    with bounded():
        whole, broken = decode(Decoder(lambda _: None, FRAME_MAX), [wire])
        sliced, broken_too = decode(Decoder(lambda _: None, FRAME_MAX), reads(data, wire))
    assert broken == broken_too
    assert sliced[: len(whole)] == whole if broken else sliced == whole  # events of the read that broke are not told


@examples(250)
@given(wires())
def test_frames_are_decoded_as_pika_decodes_them(wire: bytes) -> None:
    frames, pikas_frames = [], []
    pika = PikaDecoder(pikas_frames.append, FRAME_MAX)
    try:
        expected, broken = decode(pika, [wire])
    except Exception:  # noqa: BLE001 - pika trips over it, in any way; that we do not is another test's
        return
    if broken:
        return
    found, ours_broken = decode(Decoder(frames.append, FRAME_MAX), [wire])
    if ours_broken:  # we are stricter: a body longer than its header says, or a frame longer than agreed on
        assert found == expected[: len(found)]
    else:
        assert (found, len(frames)) == (expected, len(pikas_frames))


@examples(100)
@given(st.lists(wires() | st.binary(max_size=50), max_size=5))
def test_a_decoder_keeps_no_more_than_a_frame_of_unusable_bytes(wire: list[bytes]) -> None:
    decoder = Decoder(lambda _: None, FRAME_MAX)
    with suppress(ProtocolError):
        for piece in wire * 20:
            decoder.feed(piece)
    assert len(decoder._rest) < MAX_HEADER_BYTES + max(map(len, wire), default=0)
    assert len(decoder._contents) <= 65536


TABLE = b"\x01a" + b"I" + bytes(4) + b"\x01b" + b"S" + b"\0\0\0\x01x" + b"\x01c" + b"F" + b"\0\0\0\x03\x01dV"
TAGS = st.sampled_from([bytes([tag]) for tag in b"bBsUuIilLfdDtTSxAFV?"])
TABLES = st.lists(TAGS | st.binary(max_size=9) | st.just(b"\x01a") | st.just(TABLE), max_size=12).map(b"".join)


@examples(250)
@given(TABLES)
def test_a_field_table_of_any_bytes_is_decoded_or_malformed_and_its_parts_join_again(fields: bytes) -> None:
    table = len(fields).to_bytes(4, "big") + fields
    found = outcome(lambda: decode_table(table), MalformedField)
    split = outcome(lambda: split_table(table), MalformedField)
    if not isinstance(found, Exception) and not isinstance(split, Exception):
        assert [name for name, _ in split][-1:] == [*found[0]][-1:] or len(found[0]) < len(split)
        with suppress(UnicodeEncodeError, ValueError):
            if all(name.isascii() for name, _ in split):
                assert join_table(split) == table


@examples(250)
@given(
    st.binary(max_size=60)
    | st.tuples(st.binary(min_size=2, max_size=2), TABLES).map(
        lambda each: each[0] + len(each[1]).to_bytes(4, "big") + each[1]
    )
)
def test_properties_of_any_bytes_are_read_as_far_as_they_go(header: bytes) -> None:
    found, trouble = outcome(lambda: decode_properties(header))  # type: ignore[misc]
    assert isinstance(found, Properties)
    split = outcome(lambda: split_properties(header), MalformedField)
    if not trouble:
        assert not isinstance(split, Exception)
        again = outcome(lambda: decode_properties(join_properties(split)))
        assert repr(again) == repr((found, ""))
        with suppress(PayloadError):  # what others send may be more than we do
            properties.check(found)
            assert repr(decode_properties(encode_properties(found))) == repr((found, ""))


HISTORY = {
    "x-death": [
        {
            "queue": "q",
            "reason": "rejected",
            "exchange": "e",
            "routing-keys": ["k"],
            "count": 3,
            "time": datetime.now(UTC),
        }
    ],
    "x-first-death-queue": "q",
    "x-first-death-reason": "expired",
    "x-rmqkit-queue": "q",
    "x-rmqkit-exchange": "e",
    "x-rmqkit-routing-key": "k",
    "x-rmqkit-attempts": 3,
    "x-rmqkit-error": "boom",
}


@examples(150)
@given(tampered(HISTORY).filter(lambda headers: isinstance(headers, dict)))
def test_death_headers_with_any_content_are_filtered_answered_and_written(headers: dict[str, Any]) -> None:
    origin = LazyOrigin("tag", "e", "k", b"")
    origin._decoded = Properties(headers=headers), ""
    delivery = Delivery(b"{}", 1, False, origin, 1)
    with bounded():
        deaths(headers)
        first_death(headers)
        find_error(delivery)
        DeliveryFilter("death.queue == 'q' and death.count > 2 and death.age > 5", lambda _: None)(delivery)
        json.loads(EnvelopeWriter().write(delivery))
