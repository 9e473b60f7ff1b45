"""What is changed in a message that lies stashed, and that the way back undoes it, byte for byte."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmqkit.message import Properties
from rmqkit.messaging.message_rewrite import EXPIRATION, KEPT_USER_ID, USER_ID, restore_properties, stash_properties
from rmqkit.payload.field_table import (
    MalformedField,
    decode_properties,
    encode_properties,
    join_properties,
    join_table,
    split_properties,
    split_table,
)

NAMES = st.text(max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=10) | st.binary(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
HEADERS = st.dictionaries(NAMES.filter(lambda name: not name.startswith("x-")), VALUES, min_size=1, max_size=4)
PROPERTIES = st.builds(
    Properties,
    content_type=st.none() | st.text(max_size=20),
    headers=st.none() | HEADERS,
    delivery_mode=st.sampled_from((None, 1, 2)),
    priority=st.none() | st.integers(0, 255),
    expiration=st.none() | st.integers(0, 10**6).map(str),
    user_id=st.sampled_from((None, "me")),
    cluster_id=st.none() | st.text(max_size=20),
)


@given(PROPERTIES)
def test_stashed_and_restored_properties_are_unchanged_byte_for_byte(properties: Properties) -> None:
    header = encode_properties(properties)
    stashed = stash_properties(header, "me")
    assert decode_properties(stashed)[0].expiration is None
    assert restore_properties(stashed, "me") == (header, "")


@given(PROPERTIES)
def test_properties_that_are_taken_apart_and_put_together_are_the_same_bytes(properties: Properties) -> None:
    header = encode_properties(properties)
    parts = split_properties(header)
    assert join_properties(parts) == header
    assert join_table(split_table(parts.get("headers", bytes(4)))) == parts.get("headers", bytes(4))


def test_a_time_to_live_and_a_foreign_user_wait_in_headers() -> None:
    header = encode_properties(Properties(expiration="500", user_id="you", headers={"kept": 1}))
    stashed = stash_properties(header, "me")
    assert decode_properties(stashed)[0] == Properties(headers={EXPIRATION: "500", USER_ID: "you", "kept": 1})


def test_a_foreign_user_id_stays_in_its_header_and_is_noted() -> None:
    header = encode_properties(Properties(user_id="you", expiration="500"))
    back, note = restore_properties(stash_properties(header, "me"), "me")
    assert decode_properties(back)[0] == Properties(headers={USER_ID: "you"}, expiration="500")
    assert note == KEPT_USER_ID
    assert restore_properties(back, "me") == (back, KEPT_USER_ID)


def test_the_counts_of_a_quorum_queue_are_dropped_and_nothing_else() -> None:
    headers = {"x-death": [{"count": 2}], "x-delivery-count": 3, "x-acquired-count": 4}
    header = encode_properties(Properties(headers=headers))
    expected = Properties(headers={"x-death": [{"count": 2}]})
    assert decode_properties(stash_properties(header, "me"))[0] == expected
    assert decode_properties(restore_properties(header, "me")[0])[0] == expected


@pytest.mark.parametrize(
    "header", [b"", b"\x20\x00\x00", b"\x20\x00\x00\x00\x00\x09x", b"\x20\x00\x00\x00\x00\x03\x01a?"]
)
def test_malformed_properties_are_moved_unchanged(header: bytes) -> None:
    assert stash_properties(header, "me") == header
    assert restore_properties(header, "me") == (header, "")


@given(st.binary(max_size=60))
def test_no_properties_can_break_the_move(header: bytes) -> None:
    outcome: Any
    for change in (stash_properties, restore_properties, lambda header, _: split_properties(header)):
        try:
            outcome = change(header, "me")
        except MalformedField:
            assert change not in (stash_properties, restore_properties)
        else:
            assert outcome is not None
