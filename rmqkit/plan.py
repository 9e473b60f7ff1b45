"""What applying a topology does, or would do: a step for each entity."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from rmqkit.errors import Location

Kind = Literal["exchange", "queue", "binding", "policy"]


class Outcome(Enum):
    """What applying does to one entity, or would do."""

    CREATE = "create"  # it is not there
    CHANGE = "change"  # it is there, otherwise, and can be changed: a policy
    UNCHANGED = "unchanged"  # it is there, as the file says
    CONFLICT = "conflict"  # it is there, with other properties that cannot be changed
    REPLACE = "replace"  # a conflict that is to be resolved by replacing it
    EXTRA = "extra"  # it is there, within the scope of the files, and none of them declares it
    DELETE = "delete"  # it is there, and is to be removed
    ABSENT = "absent"  # it was to be removed, and is not there
    DECLARE = "declare"  # it cannot be seen without declaring it: a binding, over AMQP alone


@dataclass(frozen=True, slots=True)
class Difference:
    """One property that a live entity has otherwise: what is, and what the file says."""

    property: str
    actual: str
    expected: str

    def __str__(self) -> str:
        return f"{self.property} is {self.actual}, the file says {self.expected}"


@dataclass(frozen=True, slots=True)
class Step:
    """One entity of a plan.

    `differences` are those of a change, conflict or replacement; `note` says what else there is to know.
    """

    kind: Kind
    name: str
    outcome: Outcome
    differences: tuple[Difference, ...] = ()
    note: str = ""
    where: Location | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What applying a topology does: a step per entity, exchanges, then queues, bindings, policies, as in the file.

    Extras follow, sorted by kind and name. `applied` tells whether it was carried out; `unseen` says in sentences what
    could not be looked at, because there is no HTTP API.
    """

    steps: tuple[Step, ...] = ()
    applied: bool = False
    unseen: tuple[str, ...] = ()

    @property
    def conflicts(self) -> tuple[Step, ...]:
        """Return the steps that cannot be done without replacing what is there."""
        return tuple(step for step in self.steps if step.outcome is Outcome.CONFLICT)

    @property
    def changes(self) -> tuple[Step, ...]:
        """Return the steps that change the broker, or may: a binding that cannot be seen counts."""
        still = (Outcome.UNCHANGED, Outcome.CONFLICT, Outcome.EXTRA, Outcome.ABSENT)
        return tuple(step for step in self.steps if step.outcome not in still)
