"""Register the checks of lint under their codes, and read the texts of their rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from rmqkit.model import Binding, Exchange, Policy, Queue
from rmqkit.topology.file.document import parse
from rmqkit.topology.index import TopologyIndex

Severity = Literal["error", "warning", "hint"]
Entity = Exchange | Queue | Binding | Policy
Violation = tuple[Entity, str, str]
"""An entity, what is wrong with it, and advice."""
Check = Callable[[TopologyIndex], Iterator[Violation]]

CHECKS: dict[str, Check] = {}
"""Every check by the code of its findings; a module's are here once it is imported."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of finding: `why` it matters, in a sentence, and the `page` of RabbitMQ's site about it.

    `bad` is a topology file that has the finding, `good` one that does not: the docs show them, and they are tests.
    """

    code: str
    severity: Severity
    why: str
    bad: str
    good: str
    page: str = ""

    @property
    def url(self) -> str:
        """Return the address of the page, or an empty string."""
        return self.page and f"https://www.rabbitmq.com/{self.page}"


def check(code: str) -> Callable[[Check], Check]:
    """Register a check under the code of its findings."""
    return lambda function: CHECKS.setdefault(code, function)


@cache
def rules() -> Mapping[str, Rule]:
    """Return every rule by its code, in the order of the docs; read when the first finding needs it."""
    entries = parse(files(__package__).joinpath("rules.yaml").read_text("utf-8"), "rules.yaml").data
    return {code: Rule(code, **entry) for code, entry in entries.items()}
