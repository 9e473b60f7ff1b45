"""Options that are out of their range are refused where they are made, before they reach the broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import rmqkit
from rmqkit import CallOptions, ConsumeOptions, MoveOptions, PublishOptions, ServeOptions

WRONG: dict[str, Callable[[], object]] = {
    "`window=` must be at least 1, not 0": lambda: PublishOptions(window=0),
    "`window_bytes=` must be at least 1, not -5": lambda: PublishOptions(window_bytes=-5),
    "`rate=` must be above 0, not 0": lambda: PublishOptions(rate=0),
    "`prefetch=` must be 1 to 65535, not 0": lambda: ConsumeOptions(prefetch=0),
    "`prefetch=` must be 1 to 65535, not 70000": lambda: ServeOptions(prefetch=70_000),
    "`count=` must be at least 0, not -1": lambda: ConsumeOptions(count=-1),
    "`idle_timeout_s=` must be at least 0, not -0.5": lambda: ConsumeOptions(idle_timeout_s=-0.5),
    "`idle_timeout_s=` must be at least 0, not nan": lambda: ConsumeOptions(idle_timeout_s=float("nan")),
    "`concurrency=` must be at least 1, not 0": lambda: ServeOptions(concurrency=0),
    "`replies=` must be at least 1, not 0": lambda: CallOptions(replies=0),
    "`rate=` must be above 0, not -2": lambda: MoveOptions(rate=-2),
}


@pytest.mark.parametrize("message", WRONG)
def test_an_option_out_of_its_range_is_refused(message: str) -> None:
    with pytest.raises(rmqkit.SettingsError) as raised:
        WRONG[message]()
    assert raised.value.message == message


def test_the_defaults_and_the_limits_are_in_range() -> None:
    for options in (PublishOptions, ConsumeOptions, CallOptions, ServeOptions, MoveOptions):
        options()
    ConsumeOptions(prefetch=65_535, count=0, idle_timeout_s=0.0)
