"""The facts about one queue that may explain a backlog, from RabbitMQ's HTTP API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from rmqkit.http_api import connections
from rmqkit.http_api.client import HttpApiClient, path_part
from rmqkit.http_api.connections import ClientConnection, QueueConsumer, to_time
from rmqkit.http_api.mapping import status_of
from rmqkit.http_api.queue_settings import live_settings
from rmqkit.model import Queue, Topology
from rmqkit.report import QueueStatus
from rmqkit.topology import policies


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """A queue, its place in the cluster, its consumers and settings, and what else may hold messages back.

    `members` are the nodes with a copy of a quorum queue or stream, `online` those of them that run. `settings` are in
    argument form. Of the policies that match, `policy` applies, and the `overruled` ones, of lower priority, do not.
    `feeders` are the queues whose dead letters come here; `slowed` the connections that RabbitMQ slows down or blocks.
    `redelivered` counts redeliveries since the queue was declared, or its statistics were reset. An exclusive queue
    belongs to the client at the address `owner`. `sees_all` tells whether the user may see what consumers hold.
    """

    status: QueueStatus
    consumers: tuple[QueueConsumer, ...] = ()
    leader: str = ""
    members: tuple[str, ...] = ()
    online: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    policy: str = ""
    overruled: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    slowed: tuple[ClientConnection, ...] = ()
    feeders: tuple[str, ...] = ()
    redelivered: int = 0
    oldest: datetime | None = None
    version: tuple[int, ...] = ()
    owner: str = ""
    sees_all: bool = True

    @property
    def has_majority(self) -> bool:
        """Tell whether more than half of the members are online; a classic queue has none."""
        return not self.members or len(self.online) > len(self.members) // 2


def queue_facts(api: HttpApiClient, name: str) -> QueueFacts:
    """Return the facts about a queue. Raises NotFound, and the errors of `HttpApiClient.live`."""
    consumers = connections.consumers(api, name)
    settings = live_settings(api, name)
    topology = api.live().topology
    version = api.fetch("overview", lambda found: str(found["rabbitmq_version"]))
    queue = Queue(name, arguments={"x-queue-type": settings["x-queue-type"]})
    matching = [each for each in topology.policies if policies.applies(each, queue)]
    matching.sort(key=lambda each: (-each.priority, each.name))
    policy = policies.policy_of(topology, queue)
    facts = api.fetch(f"queues/{{vhost}}/{path_part(name)}", _facts)
    return replace(
        facts,
        consumers=consumers,
        settings=settings,
        policy=policy.name if policy else "",
        overruled=tuple(each.name for each in matching if each is not policy),
        alarms=api.alarms(),
        slowed=tuple(each for each in connections.connections(api) if each.state in ("flow", "blocked", "blocking")),
        feeders=tuple(_feeders(topology, name)),
        sees_all=connections.sees_all(api),
        version=tuple(int(part) for part in version.split(".") if part.isdecimal()),
    )


def _facts(found: Mapping[str, Any]) -> QueueFacts:
    stats = found.get("message_stats") or {}
    timestamp = found.get("head_message_timestamp")
    owner = found.get("owner_pid_details") or {}
    return QueueFacts(
        status_of(found),
        leader=found.get("leader") or found.get("node") or "",
        members=tuple(found.get("members") or ()),
        online=tuple(found.get("online") or ()),
        redelivered=stats.get("redeliver", 0),
        owner=f"{owner['peer_host']}:{owner['peer_port']}" if owner else "",
        oldest=to_time(timestamp * 1000) if isinstance(timestamp, int) else None,
    )


def _feeders(topology: Topology, name: str) -> list[str]:
    """Return the queues whose dead letters reach a queue, or may: by the default exchange, or a binding of another."""
    sources = {
        each.source for each in topology.bindings if (each.destination_type, each.destination) == ("queue", name)
    }
    found = []
    for queue in topology.queues:
        target = policies.dead_letter_target(topology, queue)
        if target and (target.exchange in sources if target.exchange else target.routing_key == name):
            found.append(queue.name)
    return found
