"""What AMQP cannot carry is refused before any encoder sees it, by name."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from rmqkit.errors import PayloadError
from rmqkit.message import Properties
from rmqkit.payload import properties

_CYCLE: dict[str, Any] = {}
_CYCLE["again"] = _CYCLE


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"priority": 300}, "priority must be a whole number from 0 to 255"),
        ({"priority": -1}, "priority"),
        ({"priority": True}, "priority"),
        ({"expiration": 60000}, "expiration must be text"),
        ({"expiration": "1.5"}, "expiration"),
        ({"expiration": "-1"}, "expiration"),
        ({"expiration": "٣"}, "expiration"),
        ({"expiration": str(2**32)}, "expiration"),
        ({"delivery_mode": 7}, "delivery_mode"),
        ({"delivery_mode": True}, "delivery_mode"),
        ({"timestamp": datetime(2026, 1, 1, 0, 0, 0, 500_000, UTC)}, "timestamp must be in whole seconds"),
        ({"timestamp": datetime(1969, 12, 31, tzinfo=UTC)}, "timestamp is before 1970"),
        ({"timestamp": datetime(2026, 1, 1)}, "timestamp must be a datetime with a time zone"),  # noqa: DTZ001
        ({"timestamp": 1_700_000_000}, "timestamp must be a datetime"),
        ({"correlation_id": "é" * 128}, "correlation_id has 256 bytes; 255 fit"),
        ({"message_id": 5}, "message_id must be text, not int"),
        ({"reply_to": "\ud800"}, "reply_to is not valid UTF-8"),
        ({"headers": ["a"]}, "headers must be a mapping"),
        ({"headers": {"é" * 128: 1}}, "the name of a header in headers has 256 bytes"),
        ({"headers": {1: 1}}, "the name of a header in headers must be text"),
        ({"headers": {"n": 2**63}}, "headers['n'] does not fit 64 bits"),
        ({"headers": {"n": -(2**63) - 1}}, "does not fit 64 bits"),
        ({"headers": {"n": float("nan")}}, "not a finite number"),
        ({"headers": {"n": float("-inf")}}, "not a finite number"),
        ({"headers": {"n": Decimal("NaN")}}, "AMQP decimal"),
        ({"headers": {"n": Decimal(2**31)}}, "AMQP decimal"),
        ({"headers": {"n": Decimal("1E-256")}}, "AMQP decimal"),
        ({"headers": {"n": Decimal("1E+999999")}}, "AMQP decimal"),
        ({"headers": {"n": {"m": [1, {"k": {1, 2}}]}}}, "headers['n']['m'][1]['k'] is a set"),
        ({"headers": {"n": datetime(1960, 1, 1, tzinfo=UTC)}}, "headers['n'] is before 1970"),
        ({"headers": {"n": "\udcff"}}, "not valid UTF-8"),
        ({"headers": _CYCLE}, "nested more than 100 deep"),
    ],
)
def test_a_value_amqp_cannot_carry_is_refused_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(PayloadError) as caught:
        properties.check(Properties(**values))
    assert words in str(caught.value)


def test_all_faults_are_reported_at_once_without_values() -> None:
    with pytest.raises(PayloadError) as caught:
        properties.check(Properties(priority=256, user_id="hunter2" * 50, headers={"a": "hunter2\ud800"}))
    assert len(str(caught.value).splitlines()) == 3
    assert "hunter2" not in str(caught.value)


def test_the_largest_values_that_fit_are_accepted() -> None:
    properties.check(
        Properties(
            priority=255,
            expiration=str(2**32 - 1),
            timestamp=datetime(1970, 1, 1, tzinfo=UTC),
            correlation_id="é" * 127 + "x",
            delivery_mode=None,
            headers={
                "é" * 127: None,
                "ints": [2**63 - 1, -(2**63)],
                "decimals": [Decimal(-2147483647), Decimal("1E-255"), Decimal(0), Decimal("1E+9"), Decimal("1.50")],
                "table": {"bytes": b"\xff", "float": -0.0, "yes": True, "moment": datetime(2026, 1, 1, tzinfo=UTC)},
            },
        )
    )


def test_an_exchange_or_routing_key_over_255_bytes_is_refused() -> None:
    properties.check_target("e" * 255, "k" * 255)
    with pytest.raises(PayloadError, match="exchange has 256 bytes; 255 fit\nrouting key has 256 bytes"):
        properties.check_target("é" * 128, "k" * 256)


def test_headers_are_text_unless_typed_as_json() -> None:
    arguments = ["a=1", "b:=1", "c=x=y", "d=", 'e:={"f": [true, null, 1.5]}', 'g:={"$bytes": "/w=="}', "h:i=j"]
    assert properties.parse_headers(arguments) == {
        "a": "1", "b": 1, "c": "x=y", "d": "", "e": {"f": [True, None, 1.5]}, "g": b"\xff", "h:i": "j",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("a", "Header 'a' has no value"),
        ("=x", "has no value"),
        (":=1", "has no value"),
        ("a:=nope", "header 'a':1:1: not JSON"),
        ("a:=NaN", "NaN"),
        ('a:={"$what": 1}', "$what is not one of"),
        ('a:={"$bytes": "?"}', "not base64"),
    ],
)
def test_a_header_that_cannot_be_read_is_refused(argument: str, words: str) -> None:
    with pytest.raises(PayloadError) as caught:
        properties.parse_headers([argument])
    assert words in str(caught.value)


def test_a_header_given_twice_is_refused() -> None:
    with pytest.raises(PayloadError, match="'a' is given twice"):
        properties.parse_headers(["a=1", "a:=1"])
