"""What a failed delivery is sent on as: itself, with headers that tell why, and nothing that would act on it there."""

from __future__ import annotations

import pytest

from rmqkit.handlers.failure_copy import MAX_REASON, FailedDelivery, copy
from rmqkit.message import Delivery, Properties
from rmqkit.model import Target
from tests.support.origin import FakeOrigin


def delivery(**properties: object) -> Delivery:
    return Delivery(b"\0body", 1, False, FakeOrigin("orders", "order.eu", Properties(**properties)))  # type: ignore[arg-type]


def test_a_copy_has_the_body_the_properties_and_the_origin() -> None:
    given = delivery(headers={"a": 1}, message_id="7", delivery_mode=1, priority=3)
    message = copy(FailedDelivery(given, "no", marks={"x-rmqkit-attempts": 2}), Target("failures", "parked"))
    assert (message.body, message.exchange, message.routing_key) == (b"\0body", "failures", "parked")
    assert (message.properties.message_id, message.properties.delivery_mode, message.properties.priority) == ("7", 1, 3)
    assert message.properties.headers == {
        "a": 1,
        "x-rmqkit-exchange": "orders",
        "x-rmqkit-routing-key": "order.eu",
        "x-rmqkit-reason": "no",
        "x-rmqkit-attempts": 2,
    }


def test_without_a_key_in_the_target_the_message_keeps_its_key() -> None:
    assert copy(FailedDelivery(delivery(), "no"), Target("failures")).routing_key == "order.eu"


def test_properties_that_would_act_on_a_copy_wait_in_a_header_or_are_omitted() -> None:
    headers = {"CC": ["elsewhere"], "BCC": ["there"], "x-delivery-count": 3, "x-acquired-count": 4}
    given = delivery(headers=headers, expiration="5", user_id="ada")
    properties = copy(FailedDelivery(given, "no"), Target("", "parked")).properties
    assert (properties.expiration, properties.user_id) == (None, None)
    assert properties.headers is not None
    assert {name for name in properties.headers if not name.startswith("x-rmqkit")} == set()
    assert properties.headers["x-rmqkit-expiration"] == "5"
    assert properties.headers["x-rmqkit-user-id"] == "ada"


def test_through_any_number_of_failures_the_first_origin_and_the_last_reason_are_kept() -> None:
    first = copy(FailedDelivery(delivery(expiration="5"), "first"), Target("failures", "x"))
    origin = FakeOrigin(first.exchange, first.routing_key, first.properties)
    second = copy(FailedDelivery(Delivery(first.body, 1, False, origin), "second"), Target("", "parked"))
    assert second.properties.headers == {
        "x-rmqkit-exchange": "orders",
        "x-rmqkit-routing-key": "order.eu",
        "x-rmqkit-reason": "second",
        "x-rmqkit-expiration": "5",
    }


@pytest.mark.parametrize("reason", ["x" * 10_000, "ä" * 10_000])
def test_a_reason_of_any_length_fits_a_frame(reason: str) -> None:
    headers = copy(FailedDelivery(delivery(), reason), Target()).properties.headers
    assert headers is not None
    assert headers["x-rmqkit-reason"] == reason[:MAX_REASON]
