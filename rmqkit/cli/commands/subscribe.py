"""`rmqkit subscribe` and `rmqkit unsubscribe`: consume from an exchange, without a queue in a topology."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Annotated, Any

import typer

from rmqkit.cli import consume_job, frame, handler_options, last_applied, output, worker_processes
from rmqkit.cli.consume_job import ConsumeCommand
from rmqkit.cli.contract_options import ConsumedSchemaOptions
from rmqkit.cli.handler_options import Count, FilterOptions, HandlerOptions, IdleTimeout, Prefetch
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option
from rmqkit.connection import Connection
from rmqkit.handlers.runner import ConsumeJob
from rmqkit.message import Verdict
from rmqkit.options import ConsumeOptions
from rmqkit.payload.properties import parse_headers
from rmqkit.stop import Stop


class HeaderMatch(Enum):
    """How many of the headers have to match."""

    ALL = "all"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """The messages wanted from the exchange, and the queue that holds them."""

    routing_key: Annotated[
        list[str],
        typer.Option("-r", "--routing-key", metavar="KEY", help="A key, or a topic's pattern; repeat it for more."),
    ] = field(default_factory=list)
    header: Annotated[
        list[str],
        typer.Option("-H", "--header", metavar="K=V", help="A header, of a headers exchange: k=text, or k:=JSON."),
    ] = field(default_factory=list)
    match: Annotated[HeaderMatch, typer.Option("--match", help="Whether all headers have to match, or any.")] = (
        HeaderMatch.ALL
    )
    durable: Annotated[
        str, option("--durable", metavar="NAME", help="Keep the queue, under this name, when the command ends.")
    ] = ""
    max_length: Annotated[
        int | None,
        option(
            "--max-length",
            metavar="N",
            min=1,
            help="Keep only the newest N messages in the queue. [default: 10,000; with --durable, all]",
        ),
    ] = None

    def subscribe(
        self, connection: Connection, exchange: str, headers: Mapping[str, Any] | None, *, quiet: bool
    ) -> str:
        """Subscribe, say so unless `quiet`, and return the name of the queue."""
        queue = connection.subscribe(
            exchange,
            self.routing_key,
            headers=headers,
            match="all" if self.match is HeaderMatch.ALL else "any",
            durable=self.durable,
            max_length=self.max_length,
            on_warning=output.warn,
        )
        if not quiet:
            wanted = ", ".join([*self.routing_key, *self.header])
            output.note(output.safe(f"Subscribed to exchange {exchange!r}{wanted and f' with {wanted}'}."))
        return queue


@grouped
def subscribe(
    exchange: Annotated[str, typer.Argument(help="The exchange.")],
    subscription: SubscriptionOptions,
    handler: HandlerOptions,
    filtering: FilterOptions,
    broker: ConnectionOptions,
    *,
    contract: ConsumedSchemaOptions,
    count: Count = None,
    idle_timeout: IdleTimeout = None,
    prefetch: Prefetch = None,
    workers: Annotated[
        int,
        typer.Option("--workers", metavar="N", min=1, help="Consume with N processes, from a --durable queue."),
    ] = 1,
    json: Json = False,
) -> None:
    """Print the messages an exchange routes from now on, until Ctrl-C: all, or those that match the keys or headers.

    The queue belongs to this command, keeps a limited number of messages, and is deleted when the command ends, however
    it ends; other consumers are not affected. With --durable it is kept and collects messages for the next run, which
    need not name the keys again. Remove such a queue with `rmqkit unsubscribe`.

    The contract is that of the exchange; a message that breaks it is skipped, or goes to --invalid-to.
    """
    handler_options.check(handler, filtering)
    headers = parse_headers(subscription.header)
    if workers > 1 and not subscription.durable:
        raise typer.BadParameter("--workers needs --durable NAME: a temporary queue belongs to one process")
    settings = broker.settings()
    schema = contract.of_exchange(exchange, last_applied.recall(settings))
    if contract.invalid_to is not None and not schema:
        raise typer.BadParameter("--invalid-to requires a contract. Name one with --schema.")
    ahead = handler.prefetch(prefetch, filtered=filtering.filter is not None)
    # No other consumer needs the messages of a temporary queue.
    unmatched = filtering.unmatched or (Verdict.REQUEUE if subscription.durable else Verdict.ACK)
    job = ConsumeJob(
        "",  # known once the queue is declared
        ConsumeOptions(ahead, count, idle_timeout),
        filter=filtering.filter,
        unmatched=unmatched,
        contract=schema,
        invalid_to=contract.target("", None) if schema else None,
    )

    def open_queue(connection: Connection) -> str:
        return subscription.subscribe(connection, exchange, headers, quiet=json)

    if workers > 1:
        with connect(settings) as connection:
            command = ConsumeCommand(settings, replace(job, queue=open_queue(connection)), handler, workers)
    else:
        command = ConsumeCommand(settings, job, handler, open_queue=open_queue)

    def body(stop: Stop) -> int:
        result = worker_processes.run(command, stop)
        consume_job.print_report(command, result, as_json_object=json)
        return result.exit_code

    frame.run(body)


@grouped
def unsubscribe(
    queue: Annotated[str, typer.Argument(metavar="NAME", help="The queue, as named with --durable.")],
    broker: ConnectionOptions,
    *,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Also if the queue holds messages, which are lost, has consumers, or is no subscription."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Remove the queue of `rmqkit subscribe --durable NAME`, unless it holds messages or has consumers.

    Any other queue is refused: RabbitMQ's HTTP API shows the argument that marks the queue of a subscription.
    """
    with broker.connect() as connection:
        state = connection.unsubscribe(queue, force=force)
    if json:
        output.out_json({"queue": state.name, "ready": state.ready, "consumers": state.consumers})
    else:
        lost = f"{state.ready:,} {'message' if state.ready == 1 else 'messages'}"
        output.note(output.safe(f"Removed queue {queue!r}, with {lost}."))
