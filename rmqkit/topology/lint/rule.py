"""What a rule of lint is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from rmqkit.model import Binding, Exchange, Policy, Queue
from rmqkit.topology.index import TopologyIndex

Severity = Literal["error", "warning", "hint"]
Subject = Exchange | Queue | Binding | Policy
Complaint = tuple[Subject, str, str]
"""Whom a finding is about, what is wrong, what to do about it."""
Check = Callable[[TopologyIndex], Iterator[Complaint]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of finding: `why` it matters in a sentence, RabbitMQ's page, a topology that has it, one that does not.

    `bad` and `good` are topology files: they are shown in the docs, and they are the rule's tests.
    """

    code: str
    severity: Severity
    why: str
    url: str
    bad: str
    good: str
    check: Check


def rule(code: str, severity: Severity, *, why: str, page: str, bad: str, good: str) -> Callable[[Check], Rule]:
    """Make a rule of the function that finds it; `page` is one of RabbitMQ's site, if there is one about it."""
    url = f"https://www.rabbitmq.com/{page}" if page else ""
    return lambda check: Rule(code, severity, why, url, bad.strip() + "\n", good.strip() + "\n", check)
