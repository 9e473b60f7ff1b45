"""`rmqkit subscribe` and `rmqkit unsubscribe`: consume from an exchange, without a queue in a topology."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Any

import typer

from rmqkit.cli import last_applied, output, protection, signals, worker_processes
from rmqkit.cli.consume_command import ConsumeCommand
from rmqkit.cli.contract_options import ConsumedSchemaOptions
from rmqkit.cli.handler_options import HandlerOptions
from rmqkit.cli.metrics import MetricsPort
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option, option_field
from rmqkit.connection import Connection
from rmqkit.handlers.runner import ConsumeJob
from rmqkit.message import Verdict
from rmqkit.model import Target
from rmqkit.payload.properties import parse_headers
from rmqkit.plural import plural


class HeaderMatch(Enum):
    """How many of the headers have to match."""

    ALL = "all"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """The messages wanted from the exchange, and the queue that holds them."""

    routing_key: list[str] = option_field(
        "-r --routing-key KEY", "A routing key, or a topic pattern; repeatable.", default_factory=list
    )
    header: list[str] = option_field(
        "-H --header K=V",
        "A header to match, for a headers exchange: k=text, or k:=JSON; repeatable.",
        default_factory=list,
    )
    match: HeaderMatch = option_field("--match", "Whether all headers must match, or any.", default=HeaderMatch.ALL)
    durable: str = option_field("--durable NAME", "Keep the queue, under this name, when the command ends.", default="")
    max_length: int | None = option_field(
        "--max-length N", "Keep only the newest N messages in the queue. [default: 10,000; with --durable, all]", min=1
    )

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
    broker: ConnectionOptions,
    *,
    contract: ConsumedSchemaOptions,
    workers: Annotated[int, option("--workers N", "Consume with N processes, from a --durable queue.", min=1)] = 1,
    metrics_port: MetricsPort = None,
    json: Json = False,
) -> None:
    """Print the messages an exchange routes from now on, until Ctrl-C: all, or those that match the keys or headers.

    The queue belongs to this command, keeps a limited number of messages, and is deleted when the command ends, however
    it ends; other consumers are not affected. With --durable it is kept and collects messages for the next run, which
    need not name the keys again. Remove such a queue with `rmqkit unsubscribe`. An auto-delete exchange that
    nothing else is bound to is refused: it would be deleted with the queue.

    The contract is that of the exchange; a message that breaks it goes to --invalid-to. Without that it is skipped,
    unless the queue is kept: then the command stops, and the message stays, as --on-failure says.
    """
    handler.check()
    headers = parse_headers(subscription.header)
    if workers > 1 and not subscription.durable:
        raise typer.BadParameter("--workers needs --durable NAME: a temporary queue belongs to one process")
    settings = broker.settings()
    handler.check_target(settings, queue=subscription.durable, exchange=exchange)
    schema = contract.of(Target(exchange), last_applied.recall(settings))
    handler.check_policy(checked=bool(schema))
    # No other consumer needs the messages of a temporary queue.
    unmatched = handler.unmatched or (Verdict.REQUEUE if subscription.durable else Verdict.ACK)
    job = ConsumeJob(
        "",  # known once the queue is declared
        handler.consume_options(),
        filter=handler.filter,
        unmatched=unmatched,
        contract=schema,
        invalid_to=contract.target("", None) if schema else None,
        failed=handler.on_failure,
        temporary=not subscription.durable,
    )

    def open_queue(connection: Connection) -> str:
        return subscription.subscribe(connection, exchange, headers, quiet=json)

    if workers > 1:
        with connect(settings) as connection:
            command = ConsumeCommand(settings, replace(job, queue=open_queue(connection)), handler, workers)
    else:
        command = ConsumeCommand(settings, job, handler, open_queue=open_queue)
    command = replace(command, metrics_port=metrics_port)

    signals.run_and_exit(lambda stop: worker_processes.run(command, stop, as_json_object=json))


@grouped
def unsubscribe(
    queue: Annotated[str, typer.Argument(metavar="NAME", help="The queue, as named with --durable.")],
    broker: ConnectionOptions,
    *,
    force: Annotated[
        bool,
        option(
            "--force", "Delete it even if it holds messages, which are lost, has consumers, or is not a subscription."
        ),
    ] = False,
    yes: protection.Yes = None,
    json: Json = False,
) -> None:
    """Remove the queue of `rmqkit subscribe --durable NAME`, unless it holds messages or has consumers.

    Unacknowledged messages count, too. Any other queue is refused: RabbitMQ's HTTP API shows the argument that marks
    the queue of a subscription.
    """
    settings = broker.settings()
    protection.confirm(settings, yes, f"delete queue {queue!r}")
    with connect(settings) as connection:
        state = connection.unsubscribe(queue, force=force)
    if json:
        output.out_json({"queue": state.name, "ready": state.ready, "consumers": state.consumers})
    else:
        output.note(output.safe(f"Removed queue {queue!r}, with {plural(state.ready, 'message')}."))
