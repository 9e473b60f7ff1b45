"""The messages of a dry run, counted by how they died and where they would go."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rmqkit.message import Origin
from rmqkit.messaging.message_rewrite import Destination
from rmqkit.payload.death_headers import deaths
from rmqkit.report import MoveGroup

MAX_GROUPS = 1000  # the messages of all others are one more group


class MoveGroups:
    """The messages of a dry run, counted by how they died and where they would go."""

    def __init__(self) -> None:
        self._groups: dict[MoveGroup, MoveGroup] = {}  # without its numbers -> with them
        self._origin: Origin | None = None
        self._kind = MoveGroup()
        self._time: datetime | None = None

    @property
    def groups(self) -> tuple[MoveGroup, ...]:
        """Return the groups, the largest first."""
        return tuple(sorted(self._groups.values(), key=lambda group: -group.messages))

    def add(self, origin: Origin, destination: Destination | str) -> None:
        """Count a message; a text in place of its destination says why there is none."""
        if origin is not self._origin:
            self._origin = origin
            self._kind, self._time = _kind(origin, destination)
            if self._kind not in self._groups and len(self._groups) >= MAX_GROUPS:
                self._kind = MoveGroup("other")
        group = self._groups.get(self._kind, self._kind)
        times = [each for each in (group.oldest, group.newest, self._time) if each is not None]
        oldest, newest = min(times, default=None), max(times, default=None)
        self._groups[self._kind] = replace(group, messages=group.messages + 1, oldest=oldest, newest=newest)


def _kind(origin: Origin, destination: Destination | str) -> tuple[MoveGroup, datetime | None]:
    died = deaths(origin.properties.headers)
    target, reason = (None, destination) if isinstance(destination, str) else (destination.target, "")
    if not died:
        group = MoveGroup("", "", origin.exchange, (origin.routing_key,), target, reason)
        return group, origin.properties.timestamp
    death = died[0]
    return MoveGroup(death.reason, death.queue, death.exchange, death.routing_keys, target, reason), death.time
