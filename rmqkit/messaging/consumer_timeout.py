"""The broker's consumer timeout: how to recover from it, and what to advise.

The broker closes the channel of a consumer that holds a delivery for longer than consumer_timeout, or cancels the
consumer (https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout).
"""

from __future__ import annotations

from rmqkit.errors import PropertyMismatch
from rmqkit.messaging.acknowledger import FIRST_PAUSE_S, LONGEST_PAUSE_S

_ADVICE = (
    "A message was held for longer than the consumer timeout; the messages behind it are redelivered."
    " Lower the prefetch (`prefetch=1`), limit the handler's time, or set x-consumer-timeout on the quorum queue"
)


def is_timeout(error: PropertyMismatch) -> bool:
    """Tell whether the broker closed a channel because of the timeout."""
    return "timeout" in error.reply_text or "timed out" in error.reply_text


class ConsumerTimeouts:
    """The timeouts of one consumer."""

    def __init__(self) -> None:
        self._in_a_row = 0  # without an acknowledgement
        self._advised = False

    def pause_s(self, *, acknowledged: bool) -> float:
        """Count a timeout; return how long to wait before subscribing again, longer while nothing is acknowledged."""
        self._in_a_row = 1 if acknowledged else self._in_a_row + 1
        return min(FIRST_PAUSE_S * 2 ** (self._in_a_row - 2), LONGEST_PAUSE_S) if self._in_a_row > 1 else 0.0

    def advice(self, reason: str) -> str:
        """Return the reason of a timeout with advice, the first time; then nothing."""
        first, self._advised = not self._advised, True
        return f"{reason}. {_ADVICE}" if first else ""
