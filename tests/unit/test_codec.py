"""The fast codec and pika's own agree: same messages, same bytes; same bytes, same events."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

from rmqkit.amqp import pika_decoder
from rmqkit.amqp.frame_decoder import Decoder, ProtocolError
from rmqkit.amqp.frames import Confirm, Encoder, Returned, encode_ack, encode_method, encode_nack
from rmqkit.message import Delivery, Message, Properties
from rmqkit.payload.field_table import MAX_DEPTH, decode_properties
from tests.support import pika_encoder

FRAME_MAX = 4096

names = st.text(st.characters(codec="utf-8"), max_size=40)
moments = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=0)
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(max_size=20),
    st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**6), max_value=10**6),
    moments,
)
values = st.recursive(scalars, lambda each: st.lists(each, max_size=3) | st.dictionaries(names, each, max_size=3))
properties = st.builds(
    Properties,
    content_type=st.none() | names,
    headers=st.none() | st.dictionaries(names, values, max_size=4),
    delivery_mode=st.sampled_from([None, 1, 2]),
    priority=st.none() | st.integers(0, 255),
    correlation_id=st.none() | names,
    expiration=st.none() | st.integers(0, 10**6).map(str),
    timestamp=st.none() | moments,
    user_id=st.none() | names,
    cluster_id=st.none() | names,
)
# Around the frame boundary, where bodies are split, and small ones, where the template is used.
bodies = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([0, 1, 4087, 4088, 4089, 2 * 4088 - 1, 2 * 4088, 2 * 4088 + 1]).map(lambda size: b"x" * size),
)
messages = st.builds(Message, body=bodies, routing_key=names, exchange=names, properties=properties)
channels = st.integers(1, 65535)


@st.composite
def deliveries(draw: st.DrawFn) -> bytes:
    """One delivery as the broker sends it, of one of few shapes so that runs of equal ones occur."""
    channel = draw(st.sampled_from([1, 2]))
    key, header = draw(st.sampled_from([("a", Properties()), ("b", Properties(priority=3)), ("", Properties())]))
    deliver = spec.Basic.Deliver("tag", draw(st.integers(1, 2**63)), draw(st.booleans()), "", key)
    return _content(channel, deliver, header, draw(bodies))


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Anything else a broker sends on a channel."""
    channel = draw(st.sampled_from([1, 2, 3]))
    tag, multiple = draw(st.integers(0, 2**63)), draw(st.booleans())
    kind = draw(st.sampled_from(["ack", "nack", "return", "method", "heartbeat"]))
    if kind == "return":
        returned = spec.Basic.Return(312, "NO_ROUTE", draw(names), draw(names))
        return _content(channel, returned, draw(properties), draw(bodies))
    if kind == "heartbeat":
        return frame.Heartbeat().marshal()
    methods = {
        "ack": spec.Basic.Ack(tag, multiple),
        "nack": spec.Basic.Nack(tag, multiple),
        "method": spec.Queue.DeclareOk("q", 1, 2),
    }
    return encode_method(channel, methods[kind])


def _content(channel: int, method: Any, header: Properties, body: bytes) -> bytes:
    parts = [body[start : start + FRAME_MAX - 8] for start in range(0, len(body), FRAME_MAX - 8)]
    frames = [
        frame.Header(channel, len(body), pika_encoder.pika_properties(header)),
        *(frame.Body(channel, part) for part in parts),
    ]
    return encode_method(channel, method) + b"".join(each.marshal() for each in frames)


def _comparable(event: Any) -> Any:
    """Flatten runs, so that only their content counts and not where they were cut; pika's objects by their fields."""
    if isinstance(event, list):
        return [
            (d.body, d.delivery_tag, d.redelivered, d.session, d.exchange, d.routing_key, d.properties) for d in event
        ]
    if isinstance(event, Confirm | Returned):
        return [event]
    return [(type(event).__name__, repr(event))]


def _decode(decoder: Any, reads: list[bytes]) -> dict[int, list[Any]]:
    decoder.sessions = {1: 11, 2: 22}
    found: dict[int, list[Any]] = {}
    for read in reads:
        for channel, event in decoder.feed(read):
            found.setdefault(channel, []).extend(_comparable(event))
    return found


@given(st.lists(messages, max_size=6), channels)
def test_messages_become_the_bytes_pika_would_send(sent: list[Message], channel: int) -> None:
    encoder = Encoder(channel, FRAME_MAX)
    for message in (*sent, *sent):  # a second time through the templates of the first
        expected = pika_encoder.encode(message, channel, FRAME_MAX)
        assert encoder.encode(message) == b"".join(encoder.encode_pieces(message)) == expected


@given(st.lists(deliveries() | answers(), max_size=12), st.data())
def test_bytes_decode_to_the_events_of_pika_however_they_are_split(wire: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(wire)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reads = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    beats: list[Any] = []
    expected_beats: list[Any] = []
    expected = _decode(pika_decoder.PikaDecoder(expected_beats.append, FRAME_MAX), [stream])
    assert _decode(Decoder(beats.append, FRAME_MAX), reads) == expected
    assert len(beats) == len(expected_beats)


@given(properties)
def test_properties_survive_encoding_by_pika(original: Properties) -> None:
    header = frame.Header(1, 0, pika_encoder.pika_properties(original)).marshal()[19:-1]
    assert decode_properties(header) == (original, "")


@given(st.integers(0, 2**64 - 1), st.booleans(), channels)
def test_ack_and_nack_frames_equal_those_of_pika(tag: int, flag: bool, channel: int) -> None:
    assert encode_ack(channel, tag, multiple=flag) == encode_method(channel, spec.Basic.Ack(tag, flag))
    assert encode_nack(channel, tag, requeue=flag) == encode_method(channel, spec.Basic.Nack(tag, False, flag))


@given(st.binary(max_size=300))
def test_decoding_properties_from_any_bytes_never_raises(header: bytes) -> None:
    found, _trouble = decode_properties(header)
    assert isinstance(found, Properties)


@given(st.lists(st.binary(max_size=200), max_size=5), st.lists(deliveries(), max_size=2))
def test_garbage_from_the_peer_raises_only_protocol_errors(garbage: list[bytes], wire: list[bytes]) -> None:
    decoder = Decoder(lambda _frame: None, FRAME_MAX)
    try:
        for read in (*wire, *garbage):
            decoder.feed(read)
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    ("table", "found", "trouble"),
    [
        (b"\x01n" + b"d" + struct.pack(">d", 2.75), {"n": 2.75}, ""),  # pika would say 2
        (b"\x01t" + b"T" + struct.pack(">Q", 1_700_000_000_000), {"t": 1_700_000_000_000}, ""),  # milliseconds
        (b"\x01b" + b"x" + struct.pack(">I", 2) + b"\xff\0", {"b": b"\xff\0"}, ""),
        (b"\x01s" + b"S" + struct.pack(">I", 1) + b"\xff", {"s": b"\xff"}, ""),
        (b"\x01d" + b"D" + struct.pack(">Bi", 3, -1500), {"d": Decimal("-1.500")}, ""),
        (b"\x01u" + b"?", {}, "headers: a value of the unknown type '?'"),
        (b"\x01u" + b"I" + b"\0", {}, "headers: a truncated value"),
    ],
)
def test_headers_are_decoded_exactly_or_left_out_with_the_reason(
    table: bytes, found: dict[str, Any], trouble: str
) -> None:
    headers = struct.pack(">H", 1 << 13 | 1 << 11) + struct.pack(">I", len(table)) + table + b"\x07"
    decoded, why = decode_properties(headers)
    assert (decoded.headers, why) == (found, trouble)
    assert decoded.priority == 7  # what follows a bad table is still read


def test_endlessly_nested_tables_lose_the_headers_but_not_the_consumer() -> None:
    table = b""
    for _ in range(2000):
        table = b"\x01n" + b"F" + struct.pack(">I", len(table)) + table
    decoded, why = decode_properties(struct.pack(">H", 1 << 13) + struct.pack(">I", len(table)) + table)
    assert decoded.headers == {}
    assert why == f"headers: tables nested more than {MAX_DEPTH} deep"


@pytest.mark.parametrize(
    "wire",
    [
        struct.pack(">BHIB", 1, 1, 2**32 - 1, 0),  # a frame of 4 GiB
        struct.pack(">BHI", 1, 1, 4) + b"\0\0\0\0" + b"\0",  # no end octet
        _content(1, spec.Basic.Deliver("t", 1, False, "", ""), Properties(), b"abc")[:-4] + b"abcd\xce",
        encode_method(1, spec.Basic.Deliver("t", 1, False, "", ""))
        + frame.Header(1, 2**40, spec.BasicProperties()).marshal(),
        frame.Body(1, b"of nothing").marshal(),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
    ids=["4 GiB", "no end", "longer than its header says", "a body of 1 TiB", "a body of nothing", "HTTP"],
)
def test_a_hostile_peer_causes_a_protocol_error(wire: bytes) -> None:
    with pytest.raises(ProtocolError):
        Decoder(lambda _frame: None, FRAME_MAX).feed(wire)


def test_a_body_in_many_frames_and_many_reads_costs_linear_time_and_arrives_whole() -> None:
    body = bytes(range(256)) * 4000
    wire = _content(1, spec.Basic.Deliver("t", 1, False, "", ""), Properties(), body)
    decoder = Decoder(lambda _frame: None, FRAME_MAX)
    events = [event for start in range(0, len(wire), 1000) for event in decoder.feed(wire[start : start + 1000])]
    [(channel, [delivery])] = events  # type: ignore[misc]
    assert channel == 1
    assert isinstance(delivery, Delivery)
    assert delivery.body == body
