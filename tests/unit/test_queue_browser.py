"""A browser ends only when nothing more arrives; on a channel that is slower than any broker on a test's machine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from rmqkit.amqp.channel import Channel
from rmqkit.amqp.frames import LazyOrigin
from rmqkit.message import Delivery
from rmqkit.messaging.queue_browser import BrowseLimits, QueueBrowser
from rmqkit.stop import Stop


class SlowChannel:
    """A channel on which each delivery arrives just before the second of two counts, which say that none is ready."""

    transport = SimpleNamespace(version=(4, 3))

    def __init__(self, messages: int) -> None:
        self._left = messages
        self._counts = 0
        self._arrived: list[Any] = []

    def queue_counts(self, _queue: str) -> Any:
        self._counts += 1
        if self._counts > 1 and self._counts % 2 and self._left:
            self._left -= 1
            self._arrived.append([Delivery(b"x", 1, False, LazyOrigin("", "", "", b""))])
        return SimpleNamespace(message_count=0 if self._counts > 1 else self._left, consumer_count=0)

    def wait(self, _timeout_s: float, **_: str) -> list[Any]:
        events, self._arrived = self._arrived, []
        return events

    def wake(self) -> None: ...

    def qos(self, _prefetch: int, **_: str) -> None: ...

    def consume(self, _queue: str, **_: Any) -> None: ...

    def cancel(self, _tag: str, **_: str) -> None: ...

    def release(self, _tag: str) -> None: ...


def test_a_delivery_that_arrives_while_the_queue_is_counted_is_looked_at() -> None:
    with QueueBrowser(cast("Channel", SlowChannel(5)), "orders", BrowseLimits(10, 60.0), Stop()) as browser:
        assert len(list(browser)) == browser.ready == 5
    assert browser.missing == 0
