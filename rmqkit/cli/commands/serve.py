"""`rmqkit serve`: the requests of a queue to a command or a Python function, and its replies to who asked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, cast

import typer

from rmqkit import exit_codes
from rmqkit.cli import last_applied, output
from rmqkit.cli.contract_options import SchemaOptions
from rmqkit.cli.frame import Signals, StoppedAtOnce
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped
from rmqkit.errors import HandlerError
from rmqkit.payload.formats import Format
from rmqkit.report import ServeReport, as_json

if TYPE_CHECKING:
    from rmqkit.message import Delivery


@grouped
def serve(
    queue: Annotated[str, typer.Argument(help="The queue of the requests.")],
    schema: SchemaOptions,
    broker: ConnectionOptions,
    *,
    command: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="COMMAND",
            help="Run it for each request, without a shell: the body is its standard input, its standard output the"
            " reply. It fails unless it exits with 0.",
            show_default=False,
        ),
    ] = None,
    handler: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Call it with each request; it returns the reply: text, bytes, or a Message.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[  # noqa: A002 - the flag's word
        Format | None, typer.Option(help="What every reply has to be: it is checked.", show_default=False)
    ] = None,
    content_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="What replies are called, like image/png.", show_default=False)
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.001, help="How long a command may run.", show_default=False)
    ] = None,
    concurrency: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many commands or calls may run at once.")
    ] = 1,
    prefetch: Annotated[
        int, typer.Option(metavar="N", min=1, max=65535, help="How many requests may wait for each of them.")
    ] = 1,
    count: Annotated[
        int | None, typer.Option("-n", "--count", metavar="N", min=1, help="End after exactly N.", show_default=False)
    ] = None,
    reject_failed: Annotated[
        bool, typer.Option("--reject-failed", help="Dead-letter a request that failed, beside telling who asked.")
    ] = False,
    json: Json = False,
) -> None:
    """Answer the requests of a queue, until Ctrl-C; each is acknowledged once its reply is confirmed.

    The reply goes where the request's reply_to says, with its correlation id. A failure is a reply of the type
    rmqkit.error, also for a request that breaks its contract. A server that dies leaves its request to the next.
    """
    from rmqkit.handlers import function as function_module  # noqa: PLC0415 - start-up time
    from rmqkit.handlers import rpc_functions  # noqa: PLC0415
    from rmqkit.handlers.command import CommandHandler, parse  # noqa: PLC0415

    if (command is None) == (handler is None):
        raise typer.BadParameter("say who answers: an --exec or a --handler")
    if handler is not None and timeout is not None:
        raise typer.BadParameter("--timeout is for --exec: a function cannot be ended")
    executor = None if command is None else CommandHandler(parse(command), queue, timeout_s=timeout)
    function = (
        rpc_functions.by_command(executor)
        if executor
        else cast("rpc_functions.Function", function_module.load(handler or ""))
    )
    settings = broker.settings()
    if contract := schema.of_queue(queue, last_applied.recall(settings)):
        from rmqkit.messaging.rpc_server import checked  # noqa: PLC0415
        from rmqkit.payload.contracts import compile_contract  # noqa: PLC0415

        function = checked(function, compile_contract(contract))
    function = rpc_functions.typed(function, format, content_type)
    with Signals() as signals:
        try:
            with connect(settings) as connection:
                connection.serve(
                    queue, prefetch=prefetch, count=count, concurrency=concurrency, reject_failed=reject_failed
                )(function)
                report = connection.run(stop=signals.stop, on_failure=_tell_failure, on_warning=output.warn)
        except StoppedAtOnce:
            if executor:
                executor.close()
            os._exit(exit_codes.SIGNALLED + signals.received)  # the broker queues again what was not acknowledged
    if json:
        output.out_json(as_json(report))
    else:
        output.note(_summary(report))
    raise typer.Exit(exit_codes.SIGNALLED + signals.received if signals.received else exit_codes.DONE)


def _tell_failure(_: Delivery, error: Exception) -> None:
    from rmqkit.handlers import function  # noqa: PLC0415 - only for a failure

    what = error.message if isinstance(error, HandlerError) else f"the handler raised {function.name_of(error)}"
    output.warn(f"a request failed: {what}")


def _summary(report: ServeReport) -> str:
    things = "request" if report.requests == 1 else "requests"
    notes = [f"Served {report.requests:,} {things} in {report.seconds:.2f} s"]
    for number, what in (
        (report.failed, "failed"),
        (report.unaddressed, "named nobody to reply to"),
        (report.undelivered, "had nobody there for the reply any more"),
        (report.redelivered, "had been delivered before"),
    ):
        if number:
            notes.append(f"{number:,} {what}")
    return "; ".join(notes) + "."
