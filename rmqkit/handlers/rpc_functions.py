"""What answers requests: a command's output, or a Python function; and what its replies are called."""

from __future__ import annotations

import os
from collections.abc import Callable

from rmqkit.errors import HandlerError, Location
from rmqkit.handlers.command import CommandHandler
from rmqkit.message import Delivery, Properties, Verdict
from rmqkit.messaging.rpc_reply import Result
from rmqkit.payload import formats
from rmqkit.payload.formats import Format
from rmqkit.payload.sources import MessageDefaults

Function = Callable[[Delivery], Result]


def by_command(executor: CommandHandler) -> Function:
    """Return a function that runs a command for a request, whose standard output is the reply.

    Any thread may call it. It raises HandlerError when the command does not end with 0, or not in time.
    """

    def answer(request: Delivery) -> bytes:
        output = os.memfd_create("rmqkit-reply")
        try:
            settled = executor.run(request, output)
            if settled.verdict is not Verdict.ACK:
                raise HandlerError(settled.failure or "the command refused the request")
            return os.pread(output, os.fstat(output).st_size, 0)
        finally:
            os.close(output)

    return answer


def typed(function: Function, format: Format | None, content_type: str | None) -> Function:  # noqa: A002 - the flag's word
    """Return a function whose replies are checked to be of a format, and are said to be of a type.

    The function raises PayloadError for a reply that is not what it should be.
    """
    if format is None and content_type is None:
        return function
    outline = MessageDefaults(properties=Properties(content_type=content_type), format=format)

    def answer(request: Delivery) -> Result:
        result = function(request)
        if not isinstance(result, bytes | str | None):
            return result  # a Message says itself what it is; anything else is an error, told by who makes the reply
        body = result.encode() if isinstance(result, str) else result or b""
        formats.check(body, format, Location("the reply"))
        return outline.message(body)

    return answer
