"""The explanation of a queue, for `rmqkit why` and `rmqkit top`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from rmqkit.cli import output
from rmqkit.cli.report_text import age
from rmqkit.errors import Refused
from rmqkit.plural import plural

if TYPE_CHECKING:
    from rmqkit.administration import Administration
    from rmqkit.http_api.client import HttpApiClient
    from rmqkit.http_api.diagnosis import Cause
    from rmqkit.http_api.queue_facts import QueueFacts


def explain(connection: Administration | None, api: HttpApiClient, queue: str) -> tuple[QueueFacts, Sequence[Cause]]:
    """Return the facts about a queue of the virtual host of `api`, and the causes of its backlog.

    With a connection to that virtual host, its numbers of ready messages and consumers are current. Raises NotFound,
    and the errors of `HttpApiClient.live`.
    """
    from rmqkit.http_api.diagnosis import diagnose  # noqa: PLC0415 - start-up time: pika
    from rmqkit.http_api.queue_facts import queue_facts  # noqa: PLC0415

    facts = queue_facts(api, queue)
    if facts.has_majority and connection:
        with suppress(Refused):
            state = connection.queue_state(queue)
            facts = replace(facts, status=replace(facts.status, ready=state.ready, consumers=state.consumers))
    return facts, diagnose(facts)


def as_text(facts: QueueFacts, causes: Sequence[Cause], columns: int = 0) -> str:
    """Return the explanation, wrapped at `columns` if they are given."""

    def wrap(line: str) -> str:
        return output.wrap(line, columns, indent="   ")

    status = facts.status
    counts = [f"{status.ready:,} ready", f"{status.unacknowledged or 0:,} unacknowledged"]
    counts += [f"{status.waiting:,} waiting"] * bool(status.waiting)
    counts += [plural(len(facts.consumers), "consumer"), f"in {status.published_per_s or 0:,.1f}/s"]
    counts += [f"acknowledged {status.acknowledged_per_s or 0:,.1f}/s"]
    counts += [f"oldest {age(facts.oldest)}"] if facts.oldest and status.ready else []
    counts += [f"policy {facts.policy!r}"] * bool(facts.policy)
    lines = [wrap(f"{status.type or 'queue'} queue {status.name!r}: {', '.join(counts)}")]
    for number, cause in enumerate(causes, 1):
        lines.append(wrap(f"{number}. {cause.message}"))
        lines += [f"   {cause.command}"] * bool(cause.command)
    if not causes:
        state = "the queue has no ready messages" if not status.ready else "its consumers are working"
        lines.append(f"No problem found: {state}.")
    return output.safe("\n".join(lines))
