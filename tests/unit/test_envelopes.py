"""Envelopes carry a message through a line of JSON, byte for byte."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmqkit.errors import Location, PayloadError
from rmqkit.message import Delivery, Properties
from rmqkit.payload.envelopes import EnvelopeReader, EnvelopeWriter
from rmqkit.payload.field_table import decode_properties, encode_properties
from tests.support.origin import FakeOrigin

_HERE = Location("in.ndjson", 3, 1)


def _delivery(body: bytes, **origin: Any) -> Delivery:
    return Delivery(body, 1, False, FakeOrigin(**origin))


_TEXT = st.text(max_size=20)
_MOMENTS = st.integers(0, 2**37).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
_DECIMALS = st.tuples(st.integers(-(2**31) + 1, 2**31 - 1), st.integers(0, 255)).map(
    lambda parts: Decimal(parts[0]).scaleb(-parts[1])
)
_NAMES = _TEXT | st.sampled_from(["$bytes", "$$bytes", "$double", "$", "$what"])
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT
    | st.binary(max_size=20)
    | _MOMENTS
    | _DECIMALS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=8,
)
_MAYBE_TEXT = st.none() | _TEXT
_PROPERTIES = st.builds(
    Properties,
    content_type=_MAYBE_TEXT,
    content_encoding=_MAYBE_TEXT,
    headers=st.none() | st.dictionaries(_NAMES, _VALUES, max_size=4),
    delivery_mode=st.sampled_from([None, 1, 2]),
    priority=st.none() | st.integers(0, 255),
    correlation_id=_MAYBE_TEXT,
    expiration=st.none() | st.integers(0, 2**32 - 1).map(str),
    timestamp=st.none() | _MOMENTS,
    type=_MAYBE_TEXT,
)


@given(st.binary(max_size=50) | _TEXT.map(str.encode), _TEXT, _TEXT, _PROPERTIES)
def test_a_message_survives_the_round_trip_through_an_envelope(
    body: bytes, exchange: str, routing_key: str, properties: Properties
) -> None:
    line = EnvelopeWriter().write(_delivery(body, exchange=exchange, routing_key=routing_key, properties=properties))
    assert b"\n" not in line
    message, addressed, _, _ = EnvelopeReader().read(line, _HERE)
    assert addressed
    assert (message.body, message.exchange, message.routing_key) == (body, exchange, routing_key)
    assert repr(message.properties) == repr(properties)  # as text, because 1 == 1.0 == True


def test_a_body_that_is_text_is_readable_and_one_that_is_not_is_base64() -> None:
    assert json.loads(EnvelopeWriter().write(_delivery("grüße\n".encode())))["body"] == "grüße\n"
    assert json.loads(EnvelopeWriter().write(_delivery(b"\xff\0")))["body_base64"] == "/wA="


def test_every_envelope_has_the_origin_of_its_own_delivery() -> None:
    writer = EnvelopeWriter()
    keys = [json.loads(writer.write(_delivery(b"", routing_key=key)))["routing_key"] for key in ("a", "b", "a")]
    assert keys == ["a", "b", "a"]


def test_values_that_json_lacks_are_still_written() -> None:
    headers = {"n": float("nan"), "i": float("inf"), "ms": 1_700_000_000_000_000}
    envelope = json.loads(
        EnvelopeWriter().write(_delivery(b"", properties=Properties(headers=headers), malformed="why"))
    )
    assert envelope["headers"] == {"n": {"$double": "nan"}, "i": {"$double": "inf"}, "ms": 1_700_000_000_000_000}
    assert envelope["malformed"] == "why"


ODD = decode_properties(b"\x20\x00\x00\x00\x00\x08\x02n\xfff\x3d\xcc\xcc\xcd")[0]


def test_values_that_json_cannot_hold_are_kept_byte_for_byte() -> None:
    line = EnvelopeWriter().write(_delivery(b"", routing_key="k\udcff", properties=ODD))
    envelope = json.loads(line)
    assert (envelope["routing_key"], envelope["headers"]) == ("k\ufffd", {"n\ufffd": 0.10000000149011612})
    message = EnvelopeReader().read(line, _HERE).message
    assert (message.routing_key, encode_properties(message.properties)) == ("k\udcff", encode_properties(ODD))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("headers", {"n": 2}, "'properties_base64' differs from the properties"),
        ("routing_key", "k", "'routing_key_base64' and 'routing_key' hold different routing keys"),
        ("properties_base64", "/////w==", "a truncated property"),
        ("properties_base64", "AAA/", "holds no encoded properties"),
    ],
)
def test_an_envelope_that_was_edited_is_refused_if_its_bytes_say_otherwise(name: str, value: Any, words: str) -> None:
    envelope = json.loads(EnvelopeWriter().write(_delivery(b"", routing_key="k\udcff", properties=ODD)))
    with pytest.raises(PayloadError, match=words):
        EnvelopeReader().read(json.dumps(envelope | {name: value}).encode(), _HERE)
    if name == "headers":
        del envelope["properties_base64"]
        message = EnvelopeReader().read(json.dumps(envelope | {name: value}).encode(), _HERE).message
        assert message.properties.headers == value


def test_an_envelope_written_by_hand_is_persistent_and_published_to_the_default_target() -> None:
    message, addressed, _, _ = EnvelopeReader().read(b'{"body": "hi"}', _HERE)
    assert not addressed
    assert (message.body, message.properties.delivery_mode) == (b"hi", 2)


def test_equal_properties_become_one_object_and_unequal_types_do_not() -> None:
    reader = EnvelopeReader()
    lines = [b'{"body": "", "headers": {"n": %s}}' % value for value in (b"1", b"1", b"1.0", b"true")]
    first, second, third, fourth = (reader.read(line, _HERE).message.properties for line in lines)
    assert first is second
    assert [type(each.headers["n"]) for each in (first, third, fourth) if each.headers] == [int, float, bool]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"[]", "an envelope is an object"),
        (b"{}", "either 'body', 'body_base64'"),
        (b'{"body": "", "body_base64": ""}', "either 'body', 'body_base64'"),
        (b'{"body": {"a": 1}}', "'body' must be text"),
        (b'{"body_base64": "?"}', "not base64"),
        (b'{"body": "", "prioritty": 1}', "did you mean 'priority'?"),
        (b'{"body": "", "priority": 300}', "priority must be"),
        (b'{"body": "", "routing_key": 5}', "routing key must be text"),
        (b'{"body": "", "headers": [1]}', "headers must be a mapping"),
        (b'{"body": "", "headers": {"a": {"$what": 1}}}', "$what is not one of"),
        (b'{"body": "", "timestamp": "yesterday"}', "a timestamp is"),
        (b'{"body": "", "timestamp": true}', "a timestamp is"),
        (b'{"body": "", "timestamp": []}', "a timestamp is"),
        (b'{"body": "", "headers": {"a": {"$timestamp": null}}}', "a timestamp is"),
        (b'{"body": "", "malformed": "x"}', "could not be read completely"),
        (b'{"body": "\\ud800"}', "surrogate"),
        (b'{"body": "", "body": ""}', "duplicate"),
        (b"nope", "not JSON"),
    ],
)
def test_a_bad_envelope_is_refused_with_its_place(line: bytes, words: str) -> None:
    with pytest.raises(PayloadError) as caught:
        EnvelopeReader().read(line, _HERE)
    [problem] = caught.value.problems
    assert str(problem.where).startswith("in.ndjson:3:")
    assert words in problem.message
