"""How much may be on its way, before and after a refusal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rmqkit.messaging.publish_window import PublishWindow


def test_both_bounds_hold_and_a_large_body_goes_alone() -> None:
    window = PublishWindow(messages=3, body_bytes=100)
    assert window.has_room(2, 90, 10)
    assert not window.has_room(3, 0, 0)
    assert not window.has_room(2, 90, 11)
    assert window.has_room(0, 0, 10**9)


@given(st.integers(1, 10**6))
def test_refusals_leave_the_culprit_alone_in_a_few_steps(in_flight: int) -> None:
    window, steps = PublishWindow(10**6, 10**9), 0
    while in_flight > 1:
        window.shrink(in_flight)
        in_flight = sum(window.has_room(pending, 0, 0) for pending in range(in_flight))
        steps += 1
    assert steps <= 7  # 8 to the 7th is two million


def test_settled_messages_reopen_the_window_up_to_its_bound() -> None:
    window = PublishWindow(messages=100, body_bytes=10**6)
    window.shrink(80)
    assert not window.has_room(10, 0, 0)
    window.grow(10)
    assert window.has_room(19, 0, 0)
    assert not window.has_room(20, 0, 0)
    window.grow(10**6)
    assert window.has_room(99, 0, 0)
    assert not window.has_room(100, 0, 0)


def test_a_new_connection_starts_with_an_eighth_of_the_window_and_never_exceeds_it() -> None:
    window = PublishWindow(messages=10_000, body_bytes=10**6)
    window.reopen(8000)
    assert window.has_room(999, 0, 0)
    assert not window.has_room(1000, 0, 0)
    window.reopen(0)
    assert window.has_room(255, 0, 0)
    assert not window.has_room(256, 0, 0)
    narrow = PublishWindow(messages=3, body_bytes=10**6)
    narrow.reopen(3)
    assert not narrow.has_room(3, 0, 0)
