"""Make replies to requests, with the result or the error of the server. Pure.

A reply goes through the default exchange to the request's `reply_to`, with its correlation id, as in RabbitMQ's
tutorial 6. A reply with an error has the type `rmqkit.error`, and the reason in the header `rmqkit-error`, and as its
body for clients that do not know the header.
"""

from __future__ import annotations

from dataclasses import replace

from rmqkit.amqp.frames import Encoder
from rmqkit.errors import HandlerError, RemoteError
from rmqkit.message import Delivery, Message, Properties
from rmqkit.messaging.message_rewrite import sent_on
from rmqkit.payload import formats
from rmqkit.payload.field_table import MalformedField, decode_properties, join_header, received_bytes, split_header

Result = bytes | str | Message | None  # returned by a served function; None is an empty reply

ERROR_TYPE = "rmqkit.error"
ERROR_HEADER = "rmqkit-error"
_ERROR_CHARACTERS = 500  # a header has to fit in a frame, which may be as small as 4,096 bytes


def make_reply(request: Delivery, result: Result, frame_max: int) -> Message:
    """Make the reply to a request that has a `reply_to`; of a Message, the body and the properties are used.

    Raises HandlerError for any other result, PayloadError for properties that AMQP cannot carry or that do not fit in
    a frame: passed to the publisher, such a reply would end the server.
    """
    match result:
        case Message():
            body, given = result.body, result.properties
            if not isinstance(body, bytes):
                raise HandlerError(f"a body has to be bytes, not {type(body).__name__}")
        case bytes() | str() | None:
            body = (result or "").encode() if not isinstance(result, bytes) else result
            given = Properties(*formats.content_type(body, None))
        case _:
            raise HandlerError(f"a reply has to be bytes, str, a Message or None, not {type(result).__name__}")
    reply = _addressed(request, body, given)
    if isinstance(result, Message):
        Encoder(1, frame_max).encode(replace(reply, body=b""))
    return reply


def make_error_reply(request: Delivery, reason: str) -> Message:
    """Make the reply that says why the request could not be handled."""
    reason = reason[:_ERROR_CHARACTERS].encode("utf-8", "replace").decode()
    given = Properties(*formats.TEXT, type=ERROR_TYPE, headers={ERROR_HEADER: reason})
    return _addressed(request, reason.encode(), given)


def find_error(reply: Delivery) -> RemoteError | None:
    """Return the error in a reply, or None."""
    given = reply.properties
    if given.type != ERROR_TYPE:
        return None
    return RemoteError(f"the server failed: {(given.headers or {}).get(ERROR_HEADER, 'no reason given')}")


def _addressed(request: Delivery, body: bytes, given: Properties) -> Message:
    asked = request.properties
    properties = _carried(request, given) or replace(given, correlation_id=asked.correlation_id)
    return Message(body, asked.reply_to or "", properties=properties)


def _carried(request: Delivery, given: Properties) -> Properties | None:
    """Return the properties of a delivery as those of a reply, byte for byte; None for others, which are encoded."""
    try:
        parts, headers = split_header(sent_on(received_bytes(given), None, to_queue=True))
        asked, _ = split_header(request.origin.header)
        parts.pop("correlation_id", None)
        if "correlation_id" in asked:
            parts["correlation_id"] = asked["correlation_id"]
    except MalformedField:
        return None
    return decode_properties(join_header(parts, headers))[0]
