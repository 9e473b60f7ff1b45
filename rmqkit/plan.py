"""A plan: what applying a topology does, or would do, to each entity."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from rmqkit.errors import Location
from rmqkit.model import Binding, Exchange, Policy, Queue

Kind = Literal["exchange", "queue", "binding", "policy"]


class Outcome(Enum):
    """The effect of applying a topology on one entity."""

    CREATE = "create"  # it does not exist
    CHANGE = "change"  # it exists with different properties that can be changed: a policy
    UNCHANGED = "unchanged"  # it exists as declared
    CONFLICT = "conflict"  # it exists with different properties that cannot be changed
    REPLACE = "replace"  # a conflict to be resolved by replacing the entity
    EXTRA = "extra"  # it exists, is within the scope of the files, and no file declares it
    DELETE = "delete"  # it exists and is to be deleted
    ABSENT = "absent"  # it was to be deleted and does not exist
    DECLARE = "declare"  # only declaring it can tell: a binding, over AMQP alone


@dataclass(frozen=True, slots=True)
class Difference:
    """One property that differs: its value on the broker and the one in the file; `none` if it is not set."""

    property: str
    actual: str
    expected: str

    def __str__(self) -> str:
        actual, expected = ("unset" if value == "none" else value for value in (self.actual, self.expected))
        return f"{self.property}: {actual} on the broker, {expected} in the file"


@dataclass(frozen=True, slots=True)
class Step:
    """The step of a plan for one entity.

    `differences` are those of a change, a conflict or a replacement; `note` is a remark for the reader. `interrupted`
    is true if an earlier replacement of the entity is unfinished.
    """

    kind: Kind
    name: str
    outcome: Outcome
    differences: tuple[Difference, ...] = ()
    note: str = ""
    interrupted: bool = False
    entity: Exchange | Queue | Binding | Policy | None = field(default=None, compare=False, repr=False)

    @property
    def where(self) -> Location | None:
        """Return the place in the topology file that declares the entity."""
        return self.entity.where if self.entity else None

    @property
    def remarks(self) -> str:
        """Return the differences and the note as one line of text."""
        return "; ".join([*map(str, self.differences), *filter(None, [self.note])])


@dataclass(frozen=True, slots=True)
class Plan:
    """A step for each entity: exchanges, queues, bindings and policies in the order of the file, then extras by name.

    `applied` is true once it was carried out. `unseen` says in sentences what could not be inspected, as there is no
    HTTP API.
    """

    steps: tuple[Step, ...] = ()
    applied: bool = False
    unseen: tuple[str, ...] = ()

    @property
    def conflicts(self) -> tuple[Step, ...]:
        """Return the steps that are impossible without replacing the entity."""
        return tuple(step for step in self.steps if step.outcome is Outcome.CONFLICT)

    @property
    def changes(self) -> tuple[Step, ...]:
        """Return the steps that change the broker, or may: those of bindings that cannot be seen count."""
        idle = (Outcome.UNCHANGED, Outcome.CONFLICT, Outcome.EXTRA, Outcome.ABSENT)
        return tuple(step for step in self.steps if step.outcome not in idle)
