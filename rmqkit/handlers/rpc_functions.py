"""Functions for `serve`: one that runs a command for each request, and one that checks the format of replies."""

from __future__ import annotations

import os

from rmqkit.errors import HandlerError, Location
from rmqkit.handlers.command import CommandHandler
from rmqkit.message import Delivery, Properties, Verdict
from rmqkit.messaging.rpc_reply import Result
from rmqkit.messaging.rpc_server import Function
from rmqkit.payload import formats
from rmqkit.payload.formats import Format
from rmqkit.payload.sources import MessageDefaults


def by_command(handler: CommandHandler) -> Function:
    """Return a function that runs a command for a request; the command's standard output is the reply.

    Any thread may call it. It raises HandlerError when the command does not exit with 0, or not in time.
    """

    def answer(request: Delivery) -> bytes:
        output = os.memfd_create("rmqkit-reply")
        try:
            handled = handler.run(request, output)
            if handled.verdict is not Verdict.ACK:
                raise HandlerError(handled.failure or "the command refused the request")
            return os.pread(output, os.fstat(output).st_size, 0)
        finally:
            os.close(output)

    return answer


def typed(function: Function, format: Format | None, content_type: str | None) -> Function:  # noqa: A002 - the flag's word
    """Return a function that checks the format of replies and sets their content type.

    It raises PayloadError for a reply that is not in the format.
    """
    if format is None and content_type is None:
        return function
    defaults = MessageDefaults(properties=Properties(content_type=content_type), format=format)

    def answer(request: Delivery) -> Result:
        result = function(request)
        if not isinstance(result, bytes | str | None):
            return result  # a Message has its own type; the caller refuses anything else
        body = result.encode() if isinstance(result, str) else result or b""
        formats.check(body, format, Location("the reply"))
        return defaults.message(body)

    return answer
