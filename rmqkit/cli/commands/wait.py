"""`rmqkit wait`."""

from __future__ import annotations

from typing import Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import output
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option
from rmqkit.cli.signals import run_and_exit
from rmqkit.options import WaitFor
from rmqkit.payload import properties
from rmqkit.report import as_json
from rmqkit.stop import Stop


@grouped
def wait(
    queue: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue.")],
    broker: ConnectionOptions,
    *,
    empty: Annotated[bool, option("--empty", "Wait until the queue has no messages, ready or unacknowledged.")] = False,
    consumers: Annotated[
        int | None, option("--consumers N", "Wait for at least N consumers, or for none if N is 0.", min=0)
    ] = None,
    ready: Annotated[
        int | None, option("--ready N", "Wait for at least N ready messages, or for none if N is 0.", min=0)
    ] = None,
    timeout: Annotated[float, option("--timeout SECONDS", "Maximum time to wait.", min=0)] = 60.0,
    json: Json = False,
) -> None:
    """Wait until a queue is empty, or has a given number of consumers or ready messages.

    On a timeout, the exit code is 9. If the queue does not exist yet, the command waits for it, except with --empty.
    RabbitMQ's HTTP API counts unacknowledged messages, for quorum queues only every five seconds: there, --empty takes
    at least six seconds, and up to six seconds longer than the timeout. Without the HTTP API, unacknowledged messages
    cannot be counted, and a warning says so.
    """
    properties.check_names({"queue": queue})
    if not empty and consumers is None and ready is None:
        raise typer.BadParameter("name a condition: --empty, --consumers N or --ready N")
    if empty and (consumers is not None or ready is not None):
        raise typer.BadParameter("--empty cannot be combined with --consumers or --ready")
    wanted = WaitFor(empty, ready, consumers)

    def body(stop: Stop) -> int:
        with connect(broker.settings()) as connection:
            report = connection.wait_for_queue(queue, wanted, timeout_s=timeout, stop=stop)
        if report.unseen:
            output.warn(f"unacknowledged messages could not be counted, and were ignored: {report.unseen}")
        if json:
            output.out_json(as_json(report))
        else:
            begin = "Queue" if report.met else "Stopped: queue" if stop.requested else "Timed out: queue"
            output.note(output.safe(f"{begin} {queue!r} has {report.state} after {report.seconds:.1f} s."))
        return exit_codes.DONE if stop.requested else exit_codes.exit_code(report)

    run_and_exit(body)
