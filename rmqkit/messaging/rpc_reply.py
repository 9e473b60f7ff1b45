"""What a reply is: the message that answers a request, and how one says that the server failed. Pure.

A reply goes through the default exchange to the request's `reply_to`, with its correlation id, as in RabbitMQ's
tutorial 6. One that says that the server failed has the type `rmqkit.error`, and the reason as its body, for clients
that know nothing of this, and in the header `rmqkit-error`.
"""

from __future__ import annotations

from dataclasses import replace

from rmqkit.amqp.frames import Encoder
from rmqkit.errors import HandlerError, RemoteError
from rmqkit.message import Delivery, Message, Properties
from rmqkit.payload import formats

Result = bytes | str | Message | None  # what a function that serves returns; None is an empty reply

ERROR_TYPE = "rmqkit.error"
ERROR_HEADER = "rmqkit-error"
_ERROR_CHARACTERS = 500  # a header has to fit in a frame, which may be 4,096 bytes small


def answer(request: Delivery, result: Result, frame_max: int) -> Message:
    """Make the reply to a request that has a `reply_to`; of a Message, the body and the properties go.

    Raises HandlerError for any other result, PayloadError for properties that AMQP cannot carry, or no frame of so many
    bytes: once it was handed to a publisher, it would end the server.
    """
    match result:
        case Message():
            body, given = result.body, result.properties
            if not isinstance(body, bytes):
                raise HandlerError(f"a body has to be bytes, not {type(body).__name__}")
        case bytes() | str() | None:
            body = (result or "").encode() if not isinstance(result, bytes) else result
            kind = formats.content_type(body, None)
            given = Properties(content_type=kind.type, content_encoding=kind.encoding)
        case _:
            raise HandlerError(f"a reply has to be bytes, str, a Message or None, not {type(result).__name__}")
    made = _addressed(request, body, given)
    if isinstance(result, Message):
        Encoder(1, frame_max).encode(replace(made, body=b""))
    return made


def failure(request: Delivery, reason: str) -> Message:
    """Make the reply that says that the request could not be handled, and why."""
    reason = reason[:_ERROR_CHARACTERS].encode("utf-8", "replace").decode()
    kind = formats.TEXT
    return _addressed(
        request,
        reason.encode(),
        Properties(
            content_type=kind.type, content_encoding=kind.encoding, type=ERROR_TYPE, headers={ERROR_HEADER: reason}
        ),
    )


def error_in(reply: Delivery) -> RemoteError | None:
    """Return the error that a reply carries, if it does."""
    given = reply.properties
    if given.type != ERROR_TYPE:
        return None
    return RemoteError(f"the server failed: {(given.headers or {}).get(ERROR_HEADER, 'it does not say why')}")


def _addressed(request: Delivery, body: bytes, given: Properties) -> Message:
    asked = request.properties
    return Message(body, asked.reply_to or "", properties=replace(given, correlation_id=asked.correlation_id))
