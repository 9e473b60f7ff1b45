"""The plan of applying a topology: one step for each entity."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from rmqkit.errors import Location
from rmqkit.model import Binding, Exchange, Policy, Queue

Kind = Literal["exchange", "queue", "binding", "policy", "vhost"]  # a vhost only where it is to be created


class Outcome(Enum):
    """The effect of applying on one entity."""

    CREATE = "create"  # it does not exist
    CHANGE = "change"  # it exists with different properties, and can be changed: a policy
    UNCHANGED = "unchanged"  # it exists as the file declares it
    CONFLICT = "conflict"  # it exists with different properties that cannot be changed
    REPLACE = "replace"  # a conflict, resolved by replacing the entity
    EXTRA = "extra"  # it exists within the scope of the files, and no file declares it
    DELETE = "delete"  # it exists, and is to be deleted
    ABSENT = "absent"  # it was to be deleted, and does not exist
    MISSING = "missing"  # it is external and does not exist, and a binding needs it
    UNSUPPORTED = "unsupported"  # an exchange of a type that the broker does not know
    DECLARE = "declare"  # only declaring it can tell: a binding, over AMQP alone


@dataclass(frozen=True, slots=True)
class Difference:
    """A property with one value on the broker and another in the topology; `none` means that it is unset."""

    property: str
    actual: str
    expected: str

    def __str__(self) -> str:
        actual, expected = ("unset" if value == "none" else value for value in (self.actual, self.expected))
        return f"{self.property}: {actual} on the broker, {expected} in the topology"


@dataclass(frozen=True, slots=True)
class Step:
    """The step of a plan for one entity.

    `differences` are those of a change, conflict or replacement; `note` is a remark for the reader. `interrupted` is
    true if an earlier replacement of the entity is unfinished.
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
        """Return the differences, the note, and that an exclusive queue does not last, as one line of text."""
        exclusive = isinstance(self.entity, Queue) and self.entity.exclusive and self.outcome is Outcome.CREATE
        notes = [self.note, "exclusive: deleted with the connection that declares it" if exclusive else ""]
        return "; ".join([*map(str, self.differences), *filter(None, notes)])


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of applying a topology: exchanges, then queues, bindings and policies, in the order of the file.

    Missing external entities follow, then extras, sorted by kind and name. `applied` tells whether the plan was carried
    out; `unseen` lists, in sentences, what could not be inspected without the HTTP API.
    """

    steps: tuple[Step, ...] = ()
    applied: bool = False
    unseen: tuple[str, ...] = ()

    @property
    def conflicts(self) -> tuple[Step, ...]:
        """Return the steps that need a replacement of the existing entity."""
        return tuple(step for step in self.steps if step.outcome is Outcome.CONFLICT)

    @property
    def missing(self) -> tuple[Step, ...]:
        """Return the steps of missing external entities, without which bindings cannot be declared."""
        return tuple(step for step in self.steps if step.outcome is Outcome.MISSING)

    @property
    def unsupported(self) -> tuple[Step, ...]:
        """Return the steps of exchanges whose type needs a plugin, or does not exist."""
        return tuple(step for step in self.steps if step.outcome is Outcome.UNSUPPORTED)

    @property
    def changes(self) -> tuple[Step, ...]:
        """Return the steps that change the broker, or may: a binding that cannot be inspected counts."""
        changing = (Outcome.CREATE, Outcome.CHANGE, Outcome.REPLACE, Outcome.DELETE, Outcome.DECLARE)
        return tuple(step for step in self.steps if step.outcome in changing)
