"""The channels of publishers, kept open between two runs: opening one takes longer than a confirmed message."""

from __future__ import annotations

import time
from typing import NamedTuple

from rmqkit.amqp.channel import Channel
from rmqkit.amqp.frames import Encoder
from rmqkit.messaging.unconfirmed import Sent, Unconfirmed
from rmqkit.options import PublishOptions

MAX_IDLE = 100  # a burst of threads leaves no more channels open than this


class PublishChannel(NamedTuple):
    """A channel, its encoder, and the messages that are unconfirmed on it."""

    channel: Channel
    encoder: Encoder
    unconfirmed: Unconfirmed[Sent]
    opened_s: float

    @classmethod
    def prepare(cls, channel: Channel, options: PublishOptions) -> PublishChannel:
        """Have the broker confirm what is published on a new channel, unless the options do not want it."""
        if options.confirms:
            channel.confirm_select()
        encoder = Encoder(channel.number, channel.transport.frame_max, mandatory=options.mandatory)
        return cls(channel, encoder, Unconfirmed(), time.monotonic())


class IdleChannels:
    """Channels for confirmed and mandatory messages that no publisher uses now; any thread may take one."""

    def __init__(self) -> None:
        self._idle: list[PublishChannel] = []

    def take(self, options: PublishOptions) -> PublishChannel | None:
        """Remove and return an open channel, if there is one that these options may use."""
        while options.confirms and options.mandatory and self._idle:
            try:
                taken = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if taken.channel.is_open:
                return taken
            taken.channel.close()
        return None

    def add(self, unused: PublishChannel, options: PublishOptions) -> None:
        """Keep a channel for the next publisher, or close it."""
        fit = options.confirms and options.mandatory and not len(unused.unconfirmed) and unused.channel.is_open
        if fit and len(self._idle) < MAX_IDLE:
            self._idle.append(unused)
        else:
            unused.channel.close()
