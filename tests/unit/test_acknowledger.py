"""The settled delivery tags of a channel: which they are, and how much memory they take."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from rmqkit.messaging.acknowledger import SettledTags


@pytest.mark.parametrize("seed", range(5))
def test_tags_settled_in_any_order_are_known(seed: int) -> None:
    tags = list(range(1, 400))
    random.Random(seed).shuffle(tags)
    settled, expected = SettledTags(), set[int]()
    while tags:
        lot, tags = tags[:3], tags[3:]
        settled.add([*lot, lot[0]])
        expected.update(lot)
        assert len(settled) == len(expected)
        assert {tag for tag in range(1, 401) if tag in settled} == expected
        assert settled.low == min({*range(1, 401)} - expected)
        assert [*settled.unsettled(400)] == sorted({*range(1, 401)} - expected)


def test_one_frame_acknowledges_a_run_only_if_all_below_are_settled() -> None:
    settled = SettledTags()
    settled.add((5, 6))
    assert len(settled.acknowledge(1, (1, 2, 3))) == len(settled.acknowledge(1, (4,)))
    assert (len(settled), settled.low) == (6, 7)
    assert len(settled.acknowledge(1, (8, 9))) == 2 * len(settled.acknowledge(1, (7,)))
    assert (len(settled), settled.low) == (9, 10)


def test_a_message_that_stays_in_front_of_many_takes_no_memory_for_each_of_them() -> None:
    """A set of their tags took about 70 bytes for each."""
    settled = SettledTags()
    tracemalloc.start()
    try:
        for tag in range(2, 100_000, 2):
            settled.acknowledge(1, (tag, tag + 1))
        assert [*settled.unsettled(100_000)] == [1, 100_000]
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()
