"""Register the checks of lint under their codes, and read the texts of their rules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from rmqkit.model import Binding, Exchange, Policy, Queue
from rmqkit.topology.file.document import parse
from rmqkit.topology.index import TopologyIndex

Severity = Literal["error", "warning", "hint"]
Entity = Exchange | Queue | Binding | Policy
Violations = Iterator[tuple[Entity, Mapping[str, object]]]
"""The entities that violate a rule, each with the values that complete its texts; a list is written as a series."""
Check = Callable[[TopologyIndex], Violations]

CHECKS: dict[str, Check] = {}
"""Every check by the code of its findings; a module's are here once it is imported."""

_LISTED = 3  # names in a message; others are counted


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of finding: `why` it matters, in a sentence, and the `page` of RabbitMQ's site about it.

    `message` and `advice` are format strings, whose fields are the `entity`, its `name` and `kind`, and the values of a
    violation.
    `bad` is a topology file that has the finding, `good` one that does not: the docs show them, and they are tests. A
    rule with a `release` has its findings only for one, there for this release.
    """

    code: str
    severity: Severity
    message: str
    advice: str
    why: str
    bad: str
    good: str
    page: str = ""
    release: str = ""

    @property
    def url(self) -> str:
        """Return the address of the page, or an empty string."""
        return self.page and f"https://www.rabbitmq.com/{self.page}"


def check(function: Check) -> Check:
    """Register a check under the code of its findings, which is its name with dashes."""
    return CHECKS.setdefault(function.__name__.replace("_", "-"), function)


@cache
def rules() -> Mapping[str, Rule]:
    """Return every rule by its code, in the order of the docs; read when the first finding needs it."""
    entries = parse(files(__package__).joinpath("rules.yaml").read_text("utf-8"), "rules.yaml").data
    return {code: Rule(code, **entry) for code, entry in entries.items()}


def series(words: Sequence[str]) -> str:
    """Write words as part of a sentence: `a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def each_of(names: Sequence[str]) -> str:
    """Write one name or several as the subject of a verb in the singular; nothing without names."""
    return f"each of {series(names)}" if len(names) > 1 else "".join(names)


def listed(names: Collection[str]) -> str:
    """Write names in quotes, and count those beyond a few."""
    rest = len(names) - _LISTED
    return series([*map(repr, [*names][:_LISTED]), *([f"{rest} more"] if rest > 0 else [])])
