"""`rmqkit subscribe` and `rmqkit unsubscribe`: what an exchange routes, without a queue in a topology."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from rmqkit.cli import last_applied, output
from rmqkit.cli.commands import consume
from rmqkit.cli.consume_job import ConsumeRequest
from rmqkit.cli.contract_options import ConsumedSchemaOptions
from rmqkit.cli.handler_options import FilterOptions, HandlerOptions
from rmqkit.cli.options import ConnectionOptions, Json, grouped
from rmqkit.message import Verdict
from rmqkit.payload.properties import parse_headers

if TYPE_CHECKING:
    from rmqkit.connection import Connection


class HeaderMatch(Enum):
    """Which of the headers have to be there."""

    ALL = "all"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """What is wanted of the exchange, and who keeps it."""

    routing_key: Annotated[
        list[str],
        typer.Option("-r", "--routing-key", metavar="KEY", help="A key, or a topic's pattern; repeat it for others."),
    ] = field(default_factory=list)
    header: Annotated[
        list[str],
        typer.Option("-H", "--header", metavar="K=V", help="A header, of a headers exchange: k=text, or k:=JSON."),
    ] = field(default_factory=list)
    match: Annotated[HeaderMatch, typer.Option("--match", help="Whether all headers have to be there, or any.")] = (
        HeaderMatch.ALL
    )
    durable: Annotated[
        str,
        typer.Option(
            "--durable", metavar="NAME", help="A queue of this name that stays when we go.", show_default=False
        ),
    ] = ""
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length",
            metavar="N",
            min=1,
            help="How many messages the queue keeps, the newest: 10,000 unless it is durable.",
            show_default=False,
        ),
    ] = None

    def check(self) -> None:
        """Refuse what is no header: PayloadError."""
        parse_headers(self.header)

    def subscribe(self, connection: Connection, exchange: str, tell: Callable[[str], None]) -> str:
        """Subscribe, and return the queue's name; `tell` hears that it is done."""
        queue = connection.subscribe(
            exchange,
            self.routing_key,
            headers=parse_headers(self.header),
            match="all" if self.match is HeaderMatch.ALL else "any",
            durable=self.durable,
            max_length=self.max_length,
            on_warning=output.warn,
        )
        asked = ", ".join([*self.routing_key, *self.header])
        tell(f"Subscribed to exchange {exchange!r}{asked and f' with {asked}'}.")
        return queue


@grouped
def subscribe(
    exchange: Annotated[str, typer.Argument(help="The exchange.")],
    wanted: SubscriptionOptions,
    handling: HandlerOptions,
    filtering: FilterOptions,
    broker: ConnectionOptions,
    *,
    contract: ConsumedSchemaOptions,
    count: consume.Count = None,
    idle_timeout: consume.IdleTimeout = None,
    prefetch: consume.Prefetch = None,
    worker_count: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, help="Consume with N processes, from a --durable queue.")
    ] = 1,
    json: Json = False,
) -> None:
    """Print what an exchange routes from now on, until Ctrl-C: everything, or what the keys or headers ask for.

    The queue is this command's own, keeps a bounded number of messages, and is gone when the command ends, however it
    ends: nobody else notices. With --durable it stays, and keeps what comes meanwhile for the next time; then the
    exchange's keys need not be named again. Remove such a queue with `rmqkit unsubscribe`.

    The contract is that of the exchange; what breaks it is left out, or goes to --invalid-to.
    """
    consume.check(handling, filtering)
    wanted.check()
    if worker_count > 1 and not wanted.durable:
        raise typer.BadParameter(
            "--workers read one queue together, which one process cannot own: name a --durable one"
        )
    settings = broker.settings()
    schema = contract.of_exchange(exchange, last_applied.recall(settings))
    if contract.invalid_to is not None and not schema:
        raise typer.BadParameter("--invalid-to is for a contract, and there is none: name a --schema")
    ahead = handling.prefetch(prefetch, filtered=filtering.filter is not None)
    if filtering.filter is not None and filtering.unmatched is None and not wanted.durable:
        filtering = replace(filtering, unmatched=Verdict.ACK)  # nobody else wants it
    job = ConsumeRequest(settings, "", ahead, count, idle_timeout, handling=handling, filtering=filtering)
    job = replace(job, contract=schema, invalid_to=contract.target("", None) if schema else None)

    def tell(text: str) -> None:
        if not json:
            output.note(output.safe(text))

    def enter(connection: Connection) -> str:
        return wanted.subscribe(connection, exchange, tell)

    if worker_count > 1:
        with broker.connect() as connection:
            job = replace(job, queue=enter(connection))
    else:
        job = replace(job, enter=enter)
    consume.perform(job, worker_count, as_json_object=json)


@grouped
def unsubscribe(
    queue: Annotated[str, typer.Argument(metavar="NAME", help="The queue, as --durable named it.")],
    broker: ConnectionOptions,
    *,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Even if it holds messages, which are lost, has consumers, or was made otherwise."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Remove the queue that `rmqkit subscribe --durable NAME` made, unless messages wait in it, or it has consumers.

    No other queue is removed: RabbitMQ's HTTP API tells whose it is, by an argument of the queue.
    """
    with broker.connect() as connection:
        state = connection.unsubscribe(queue, force=force)
    if json:
        output.out_json({"queue": state.name, "ready": state.ready, "consumers": state.consumers})
    else:
        lost = f"{state.ready:,} {'message' if state.ready == 1 else 'messages'}"
        output.note(output.safe(f"Removed queue {queue!r}, with {lost}."))
