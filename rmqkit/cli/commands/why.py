"""`rmqkit why`."""

from __future__ import annotations

import shutil
import sys
import textwrap
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
    """Explain why the messages of a queue wait, the most likely cause first, each with the next command.

    It knows: no majority, or the leader away; alarms and flow control; dead letters, and where they come from; no
    consumer; consumers that are full, and who holds the messages; a single active consumer that takes none; a consumer
    timeout that is near; length and delivery limits; rates in and out, and the time to drain; policies that lose.
    RabbitMQ's HTTP API is needed; its numbers are up to five seconds old. It changes nothing.
    """
    properties.check_names({"queue": queue})
    from rmqkit.http_api.diagnosis import diagnose  # noqa: PLC0415 - start-up time: pika
    from rmqkit.http_api.queue_facts import queue_facts  # noqa: PLC0415

    with broker.connect() as connection:
        api = connection.http_api()
        facts = queue_facts(api, queue)
        if facts.has_majority:
            with suppress(Refused):
                state = connection.queue_state(queue)  # its numbers are current
                facts = replace(facts, status=replace(facts.status, ready=state.ready, consumers=state.consumers))
    causes = diagnose(facts)
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
        waits = "no message waits" if not status.ready else "its consumers are at work"
        lines.append(f"Nothing stands out: {waits}.")
    return "\n".join(lines)


def _wrapped(line: str) -> list[str]:
    """Return a line in parts as wide as the terminal, if standard output is one."""
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
