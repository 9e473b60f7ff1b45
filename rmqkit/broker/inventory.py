"""What a queue holds, by how it died, where it came from, and where it would go. Pure.

Comes in: deliveries, and their ways. Goes out: groups, the largest first. Room: broker.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from rmqkit.broker.ways import Way
from rmqkit.message import Origin
from rmqkit.payload.deaths import deaths
from rmqkit.report import MoveGroup

MOST_GROUPS = 1000  # what belongs to none of them is in one more


class Inventory:
    """Counts messages by group."""

    def __init__(self) -> None:
        self._groups: dict[MoveGroup, MoveGroup] = {}  # without its numbers -> with them
        self._origin: Origin | None = None
        self._kind = MoveGroup()
        self._time: datetime | None = None

    @property
    def groups(self) -> tuple[MoveGroup, ...]:
        """Return the groups, the largest first."""
        return tuple(sorted(self._groups.values(), key=lambda group: -group.messages))

    def add(self, origin: Origin, way: Way | str) -> None:
        """Count a message; a way that is a text says why there is none."""
        if origin is not self._origin:
            self._origin = origin
            self._kind, self._time = _kind(origin, way)
            if self._kind not in self._groups and len(self._groups) >= MOST_GROUPS:
                self._kind = MoveGroup("other")
        group = self._groups.get(self._kind, self._kind)
        times = tuple(_times(group.oldest, group.newest, self._time))
        self._groups[self._kind] = replace(
            group,
            messages=group.messages + 1,
            oldest=min(times, default=None),
            newest=max(times, default=None),
        )


def _times(*times: datetime | None) -> Iterator[datetime]:
    return (time for time in times if time is not None)


def _kind(origin: Origin, way: Way | str) -> tuple[MoveGroup, datetime | None]:
    died = deaths(origin.properties.headers)
    target, trouble = (None, way) if isinstance(way, str) else (way.target, "")
    if not died:
        kind = MoveGroup("", "", origin.exchange, (origin.routing_key,), target, trouble)
        return kind, origin.properties.timestamp
    death = died[0]
    kind = MoveGroup(death.reason, death.queue, death.exchange, death.routing_keys, target, trouble)
    return kind, death.time
