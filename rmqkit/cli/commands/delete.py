"""`rmqkit delete`: one queue, one exchange, or bindings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from rmqkit.cli import plan_text, protection
from rmqkit.cli.app import SETTINGS
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option, option_field
from rmqkit.errors import NotFound
from rmqkit.model import Binding, Exchange, Queue
from rmqkit.payload import properties
from rmqkit.plural import plural

if TYPE_CHECKING:
    from rmqkit.connection import Connection

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Delete a queue, an exchange or bindings, after showing what else would be deleted.",
    **SETTINGS,
)
DryRun = Annotated[bool, option("--dry-run", "Show what would be deleted, and change nothing.")]


@dataclass(frozen=True, slots=True)
class Conditions:
    """Whether to delete a queue that is in use."""

    if_empty: bool = option_field(
        "--if-empty",
        "Delete the queue only if it has no messages, ready or unacknowledged; otherwise exit with 5.",
        default=False,
    )
    if_unused: bool = option_field(
        "--if-unused", "Delete the queue only if it has no consumers; otherwise exit with 5.", default=False
    )


@app.command("queue", epilog="rmqkit delete queue old_orders --if-empty\nrmqkit delete queue old_orders --yes")
@grouped
def delete_queue(
    name: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue.")],
    broker: ConnectionOptions,
    *,
    conditions: Conditions,
    dry_run: DryRun = False,
    yes: protection.Yes = None,
    json: Json = False,
) -> None:
    """Delete a queue with its messages and bindings.

    The plan shown first counts the queue's messages and consumers, and names its bindings, the queues whose dead
    letters it receives, and its policy. The messages are not dead-lettered. To keep them, move them first with `rmqkit
    move`.
    """
    properties.check_names({"queue": name})
    _delete(broker, lambda _: [Queue(name)], conditions, dry_run=dry_run, yes=yes, json=json)


@app.command("exchange", epilog="rmqkit delete exchange old_orders --if-unused")
@grouped
def delete_exchange(
    name: Annotated[str, typer.Argument(metavar="EXCHANGE", help="The exchange.")],
    broker: ConnectionOptions,
    *,
    if_unused: Annotated[
        bool, option("--if-unused", "Delete the exchange only if nothing is bound to it; otherwise exit with 5.")
    ] = False,
    dry_run: DryRun = False,
    yes: protection.Yes = None,
    json: Json = False,
) -> None:
    """Delete an exchange with its bindings. Publishing to it afterward is an error.

    The plan shown first names its bindings, the queues that dead-letter to it, the exchanges whose alternate exchange
    it is, and its policy.
    """
    properties.check_names({"exchange": name})
    _delete(broker, lambda _: [Exchange(name)], Conditions(if_unused=if_unused), dry_run=dry_run, yes=yes, json=json)


@app.command(
    "binding",
    epilog="rmqkit delete binding orders billing -r order.eu.paid\nrmqkit delete binding orders audit --to-exchange",
)
@grouped
def delete_binding(
    source: Annotated[str, typer.Argument(metavar="EXCHANGE", help="The source exchange.")],
    destination: Annotated[str, typer.Argument(metavar="DESTINATION", help="The queue that is bound to it.")],
    broker: ConnectionOptions,
    *,
    routing_key: Annotated[
        str | None,
        option("-r --routing-key KEY", "Delete only bindings with this key. [default: all between the two]"),
    ] = None,
    to_exchange: Annotated[bool, option("--to-exchange", "DESTINATION is an exchange.")] = False,
    dry_run: DryRun = False,
    yes: protection.Yes = None,
    json: Json = False,
) -> None:
    """Delete the bindings between an exchange and a queue. Needs RabbitMQ's HTTP API, which lists them."""
    properties.check_names({"exchange": source, "queue": destination, "routing_key": routing_key})
    wanted = Binding(source, destination, "exchange" if to_exchange else "queue", routing_key or "")

    def find(connection: Connection) -> list[Binding]:
        bindings = [
            each
            for each in connection.live().topology.bindings
            if (each.source, each.destination, each.destination_type) == (source, destination, wanted.destination_type)
            and routing_key in (None, each.routing_key)
        ]
        if not bindings:
            subject = f"binding {wanted}"
            raise NotFound(404, "NOT_FOUND", subject, message=f"{subject} does not exist; nothing was deleted")
        return bindings

    _delete(broker, find, Conditions(), dry_run=dry_run, yes=yes, json=json)


def _delete(
    broker: ConnectionOptions,
    find: Callable[[Connection], Sequence[Queue | Exchange | Binding]],
    conditions: Conditions,
    *,
    dry_run: bool,
    yes: str | None,
    json: bool,
) -> None:
    settings = broker.settings()
    with connect(settings) as connection:
        entities = find(connection)
        delete = partial(connection.delete, *entities, if_empty=conditions.if_empty, if_unused=conditions.if_unused)
        first = entities[0]
        kind = type(first).__name__.lower()
        named = f"{kind} {str(first) if isinstance(first, Binding) else repr(first.name)}"
        named = named if len(entities) == 1 else plural(len(entities), kind)
        if dry_run or yes is None:
            planned = delete(dry_run=True)
            if dry_run or not json:
                plan_text.show(planned, settings, json=json)
            if dry_run:
                return
        protection.require(settings, yes, f"delete {named}", f"Delete {named}?")
        plan_text.show(delete(), settings, json=json)
