"""What pika's encoder cannot do: floats, and saying that headers are too large."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmqkit.amqp.frames import Encoder
from rmqkit.errors import PayloadError
from rmqkit.message import Message, Properties
from rmqkit.payload.field_table import decode_properties, encode_properties, join_properties, keep_all

_SCALARS = st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.binary(max_size=9) | st.integers(-9, 9)
_VALUES = st.recursive(_SCALARS, lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=9), each))


@given(st.dictionaries(st.text(max_size=9), _VALUES, max_size=4))
def test_floats_bytes_and_their_containers_survive_encoding(headers: dict[str, Any]) -> None:
    decoded, trouble = decode_properties(encode_properties(Properties(headers=headers)))
    assert (repr(decoded.headers), trouble) == (repr(headers), "")


@pytest.mark.parametrize("text", ["0", "-0.5", "1E+9", "1E-255", "2147483647", "-21474836.47", "100"])
def test_a_decimal_keeps_its_value(text: str) -> None:
    decoded, _ = decode_properties(encode_properties(Properties(headers={"n": Decimal(text)})))
    assert decoded.headers == {"n": Decimal(text)}


def test_headers_that_fit_no_frame_are_refused_before_the_broker_closes_the_connection() -> None:
    encoder = Encoder(1, 4096)
    encoder.encode(Message(b"", properties=Properties(headers={"a": "x" * 4000}, delivery_mode=None)))
    with pytest.raises(
        PayloadError, match=r"headers and properties take 4\d\d\d bytes, but a frame to this broker holds 4088"
    ):
        encoder.encode(Message(b"", properties=Properties(headers={"a": "x" * 4088})))


def test_properties_of_a_delivery_are_sent_as_they_arrived_unless_they_were_changed() -> None:
    header = join_properties({"timestamp": b"\0\0\1\x8b\xcf\xe5h\0", "headers": b"\0\0\0\7\1nf=\xcc\xcc\xcd"})
    received, _ = decode_properties(header)
    assert (encode_properties(received), keep_all(received)) == (header, False)
    assert encode_properties(replace(received, priority=1)) == encode_properties(
        Properties(headers={"n": 0.10000000149011612}, delivery_mode=None, priority=1)
    )
    received.headers["n"] = 1  # type: ignore[index]
    assert encode_properties(received) == encode_properties(Properties(headers={"n": 1}, delivery_mode=None))
