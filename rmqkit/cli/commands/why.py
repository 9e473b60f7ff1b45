"""`rmqkit why`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmqkit.cli import output, why_text
from rmqkit.cli.options import ConnectionOptions, Json, grouped
from rmqkit.payload import properties

if TYPE_CHECKING:
    from rmqkit.http_api.diagnosis import Cause
    from rmqkit.http_api.queue_facts import QueueFacts


@grouped
def why(
    queue: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue.")],
    broker: ConnectionOptions,
    *,
    json: Json = False,
) -> None:
    """Explain why a queue has a backlog: the causes, the most likely first, each with the next command.

    Causes that it detects: a lost majority or leader; alarms and flow control; dead letters of other queues; no
    consumers; consumers that are full; a stuck single active consumer; an approaching consumer timeout; length and
    delivery limits; messages that arrive faster than they are acknowledged; and policies that another policy
    overrides. The command needs RabbitMQ's HTTP API, whose statistics may be up to five seconds old; messages held
    without a consumer are counted twice for this reason, six seconds apart. It changes nothing.
    """
    properties.check_names({"queue": queue})
    from rmqkit.deploy.queue_use import STALE_S  # noqa: PLC0415 - start-up time: pika

    with broker.connect() as connection:
        api = connection.http_api()
        facts, causes = why_text.explain(connection, api, queue)
        if any(each.code == "held_without_consumer" for each in causes):  # or a consumer has just left
            output.note(f"Unacknowledged messages without a consumer: checking again in {STALE_S:.0f} s.")
            time.sleep(STALE_S)
            facts, causes = why_text.explain(connection, api, queue)
    if json:
        output.out_json(_as_json(facts, causes))
        return
    output.out(why_text.as_text(facts, causes, output.columns_of(sys.stdout)))


def _as_json(facts: QueueFacts, causes: Sequence[Cause]) -> dict[str, Any]:
    return {
        "queue": asdict(facts.status),
        "leader": facts.leader,
        "members": list(facts.members),
        "online": list(facts.online),
        "policy": facts.policy,
        "oldest": facts.oldest and facts.oldest.isoformat(),
        "causes": [asdict(each) for each in causes],
    }
