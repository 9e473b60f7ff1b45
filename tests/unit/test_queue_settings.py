"""What settings of a queue mean for its messages."""

from __future__ import annotations

from typing import Any

import pytest

from rmqkit.http_api.queue_settings import fate_when_full, overflow

REJECTED, DROPPED = "new messages are rejected", "the oldest messages are dropped"


@pytest.mark.parametrize(
    ("settings", "fate"),
    [
        ({}, DROPPED),
        ({"x-overflow": "reject-publish"}, REJECTED),
        ({"x-overflow": "reject-publish", "x-queue-type": "quorum"}, REJECTED),
        ({"x-overflow": "reject-publish-dlx"}, REJECTED),
        ({"x-overflow": "reject-publish-dlx", "x-queue-type": "quorum"}, DROPPED),  # which does not know it
        ({"x-dead-letter-exchange": ""}, "the oldest messages are dead-lettered"),
    ],
)
def test_what_happens_when_a_queue_is_full(settings: dict[str, Any], fate: str) -> None:
    assert fate_when_full(settings) == fate
    does = overflow({"x-max-length": 10} | settings, 11)
    assert does == ("" if fate == REJECTED else f"it keeps at most 10 messages; beyond that, {fate}")


def test_what_a_queue_keeps() -> None:
    assert overflow({"x-max-length": 10}, 10) == ""
    both = overflow({"x-max-length": 1, "x-max-length-bytes": 2000}, 2)
    assert both == f"it keeps at most 1 message and 2,000 bytes; beyond that, {DROPPED}"
    assert overflow({"x-max-length-bytes": 2000, "x-queue-type": "stream"}, 2) == ""
