"""`rmqkit serve`: answer the requests of a queue with a command or a Python function."""

from dataclasses import dataclass, replace
from typing import Annotated, cast

import typer

from rmqkit import exit_codes
from rmqkit.cli import last_applied, output, report_text, signals
from rmqkit.cli.contract_options import SchemaOptions
from rmqkit.cli.metrics import MetricsPort, serving
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option, option_field
from rmqkit.errors import HandlerError
from rmqkit.handlers import function
from rmqkit.handlers.command import CommandHandler, parse
from rmqkit.message import Delivery
from rmqkit.messaging.rpc_server import Function, checked, typed
from rmqkit.model import Target
from rmqkit.payload.contracts import compile_contract
from rmqkit.payload.formats import Format
from rmqkit.report import as_json
from rmqkit.stop import Stop


@dataclass(frozen=True, slots=True)
class ServedFunctionOptions:
    """The command or function that answers, and the format of its replies."""

    exec: str | None = option_field(
        "--exec COMMAND",
        "Run a command for each request, without a shell: the body is its standard input, its standard output"
        " the reply. Any exit code but 0 is a failure.",
    )
    handler: str | None = option_field(
        "--handler MODULE:FUNCTION",
        "Call a function with each request; it returns the reply: text, bytes, or a Message.",
    )
    format: Format | None = option_field("--format", "Check that every reply has this format.")
    content_type: str | None = option_field("--content-type TYPE", "Content type of the replies, such as image/png.")
    timeout: float | None = option_field("--timeout SECONDS", "End a command that takes longer.", min=0.001)

    def check(self) -> None:
        """Raise a usage error for options that contradict each other."""
        if (self.exec is None) == (self.handler is None):
            raise typer.BadParameter("use either --exec or --handler to answer")
        if self.handler is not None and self.timeout is not None:
            raise typer.BadParameter("--timeout requires --exec: a function cannot be interrupted")

    def command(self, queue: str) -> CommandHandler | None:
        """Return the command that answers, None for a function. Raises SettingsError for one that cannot be run."""
        return CommandHandler(parse(self.exec), queue, timeout_s=self.timeout) if self.exec is not None else None

    def function(self, command: CommandHandler | None) -> Function:
        """Return the function that answers. Raises SettingsError for one that cannot be loaded."""
        if command:
            return command.answer
        return cast("Function", function.load(self.handler or ""))


@grouped
def serve(
    queue: Annotated[str, typer.Argument(help="The queue of the requests.")],
    schema: SchemaOptions,
    broker: ConnectionOptions,
    *,
    served: ServedFunctionOptions,
    concurrency: Annotated[
        int, option("--concurrency N", "Maximum number of commands or calls that run at once.", min=1)
    ] = 1,
    prefetch: Annotated[
        int, option("--prefetch N", "Maximum number of requests that wait for each of them.", min=1, max=65535)
    ] = 1,
    count: Annotated[int | None, option("-n --count N", "Stop after N requests.", min=1)] = None,
    reject_failed: Annotated[
        bool, option("--reject-failed", "Dead-letter a failed request, in addition to sending the error.")
    ] = False,
    metrics_port: MetricsPort = None,
    json: Json = False,
) -> None:
    """Answer the requests of a queue, until Ctrl-C; each is acknowledged once its reply is confirmed.

    The reply goes to the request's reply_to, with its correlation id. A failure is reported in a reply of the type
    rmqkit.error, as is a request that breaks its contract. If a server dies, another one gets its requests.
    """
    served.check()
    command = served.command(queue)
    answer = served.function(command)
    settings = broker.settings()
    if contract := schema.of(Target("", queue), last_applied.recall(settings)):
        answer = checked(answer, compile_contract(contract))
    answer = typed(answer, served.format, served.content_type)

    def body(stop: Stop) -> int:
        try:
            with serving(metrics_port) as hooks, connect(replace(settings, hooks=hooks)) as connection:
                connection.serve(
                    queue, prefetch=prefetch, count=count, concurrency=concurrency, reject_failed=reject_failed
                )(answer)
                if not json:
                    output.note_waiting(f"requests in {queue}")
                report = connection.run(stop=stop, on_failure=_warn_of_failure, on_warning=output.warn)
        finally:
            if command:
                command.close()
        if json:
            output.out_json(as_json(report))
        else:
            output.note(report_text.serve_summary(report))
        return exit_codes.DONE

    signals.run_and_exit(body)


def _warn_of_failure(_: Delivery, error: Exception) -> None:
    failure = (
        error.message if isinstance(error, HandlerError) else f"the handler raised {function.name_and_line(error)}"
    )
    output.warn(f"a request failed: {failure}")
