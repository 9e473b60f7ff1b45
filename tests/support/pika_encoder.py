"""Encoding with pika's own classes: the reference for rmqkit's encoder."""

from __future__ import annotations

from pika import frame, spec

from rmqkit.amqp.frames import FRAME_OVERHEAD, encode_method
from rmqkit.message import Message, Properties


def pika_properties(given: Properties) -> spec.BasicProperties:
    """Return properties as pika's class, value by value."""
    moment = given.timestamp
    return spec.BasicProperties(
        content_type=given.content_type,
        content_encoding=given.content_encoding,
        headers=None if given.headers is None else dict(given.headers),
        delivery_mode=given.delivery_mode,
        priority=given.priority,
        correlation_id=given.correlation_id,
        reply_to=given.reply_to,
        expiration=given.expiration,
        message_id=given.message_id,
        timestamp=None if moment is None else int(moment.timestamp()),
        type=given.type,
        user_id=given.user_id,
        app_id=given.app_id,
        cluster_id=given.cluster_id,
    )


def encode(message: Message, channel: int, frame_max: int) -> bytes:
    """Encode a message frame by frame, as pika's Connection does."""
    publish = spec.Basic.Publish(exchange=message.exchange, routing_key=message.routing_key, mandatory=True)
    header = frame.Header(channel, len(message.body), pika_properties(message.properties)).marshal()
    room = frame_max - FRAME_OVERHEAD
    parts = [message.body[start : start + room] for start in range(0, len(message.body), room)]
    return b"".join([encode_method(channel, publish), header, *(frame.Body(channel, part).marshal() for part in parts)])
