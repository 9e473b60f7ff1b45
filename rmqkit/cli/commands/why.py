"""`rmqkit why`."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmqkit.cli import output
from rmqkit.cli.options import ConnectionOptions, Json, grouped
from rmqkit.cli.report_text import age
from rmqkit.errors import Refused
from rmqkit.payload import properties
from rmqkit.plural import plural

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
    from rmqkit.http_api.diagnosis import diagnose  # noqa: PLC0415
    from rmqkit.http_api.queue_facts import queue_facts  # noqa: PLC0415

    with broker.connect() as connection:
        api = connection.http_api()

        def causes_now() -> tuple[QueueFacts, Sequence[Cause]]:
            facts = queue_facts(api, queue)
            if facts.has_majority:
                with suppress(Refused):
                    state = connection.queue_state(queue)  # its numbers are current
                    facts = replace(facts, status=replace(facts.status, ready=state.ready, consumers=state.consumers))
            return facts, diagnose(facts)

        facts, causes = causes_now()
        if any(each.code == "held_without_consumer" for each in causes):  # or a consumer has just left
            output.note(f"Unacknowledged messages without a consumer: checking again in {STALE_S:.0f} s.")
            time.sleep(STALE_S)
            facts, causes = causes_now()
    if json:
        output.out_json(_as_json(facts, causes))
        return
    output.out(output.safe(_text(facts, causes)))


def _text(facts: QueueFacts, causes: Sequence[Cause]) -> str:
    status = facts.status
    counts = [f"{status.ready:,} ready", f"{status.unacknowledged or 0:,} unacknowledged"]
    counts += [f"{status.waiting:,} waiting"] * bool(status.waiting)
    counts += [plural(len(facts.consumers), "consumer"), f"in {status.published_per_s or 0:,.1f}/s"]
    counts += [f"acknowledged {status.acknowledged_per_s or 0:,.1f}/s"]
    counts += [f"oldest {age(facts.oldest)}"] if facts.oldest and status.ready else []
    counts += [f"policy {facts.policy!r}"] * bool(facts.policy)
    lines = _wrapped(f"{status.type or 'queue'} queue {status.name!r}: {', '.join(counts)}")
    for number, cause in enumerate(causes, 1):
        lines += _wrapped(f"{number}. {cause.message}")
        lines += [f"   {cause.command}"] * bool(cause.command)
    if not causes:
        state = "the queue has no ready messages" if not status.ready else "its consumers are working"
        lines.append(f"No problem found: {state}.")
    return "\n".join(lines)


def _wrapped(line: str) -> list[str]:
    """Wrap a line to the width of the terminal, if standard output is a terminal."""
    if not output.is_terminal(sys.stdout):
        return [line]
    columns = shutil.get_terminal_size().columns
    return textwrap.wrap(line, columns, subsequent_indent="   ", break_on_hyphens=False)


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
