"""Each argument and each policy on each type of queue: a broker behaves as lint and policies say of its release.

With `-s` the tests print their tables.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pika
import pytest
from pika.exceptions import AMQPChannelError, AMQPConnectionError

from rmqkit.model import QUEUE_TYPES, Policy, Queue, Topology
from rmqkit.topology.lint.linter import examine, lint
from rmqkit.topology.lint.queue_types import known_arguments
from rmqkit.topology.policies import matches, matches_name
from tests.conftest import Broker
from tests.support.versions import version

MIRRORING = ("promote-on-failure", "promote-on-shutdown", "sync-batch-size", "sync-mode")
ARGUMENTS = {name: each for name, each in known_arguments().items() if name != "x-queue-type"}
OF_POLICIES: dict[str, Any] = {
    "alternate-exchange": "a", "ha-mode": "all", "ha-params": 2, "ha-promote-on-failure": "always",
    "ha-promote-on-shutdown": "always", "ha-sync-batch-size": 1, "ha-sync-mode": "manual", "target-group-size": 3,
}  # fmt: skip
WITH: dict[str, dict[str, Any]] = {  # the settings without which one is refused
    "x-dead-letter-routing-key": {"x-dead-letter-exchange": ""},
    "delayed-retry-max": {"delayed-retry-type": "all", "delayed-retry-min": 1},
    "delayed-retry-min": {"delayed-retry-type": "all"},
    "delayed-retry-type": {"delayed-retry-min": 1},
    "ha-params": {"ha-mode": "exactly"},
    **{f"ha-{key}": {"ha-mode": "all"} for key in MIRRORING},
}
NAMES = ["q", "qqq", "q{,3}", "Q.q", "a-é", "é", "É", "²", "\xa0", "\x85", "日本"]
PATTERNS = [
    "^q{,3}$", "^q{,}$", "^q{1,}$", "^q{1,2}$", "^q{2}$", "q{1, 3}", "q{ 3 }", r"\{,3", "[{,3}]", r"^\w+$", r"^\W+$",
    r"\w", r"\bq\b", r"a.\b", r"\s", r"^\S+$", "(?i)^É$", "(?i)q", "(?i:Q)", "(?-i:q)", r"^[\w-]+$", r"q\Z", r"\Aq",
    "q*+$", "(?>q+)", "(?a)q", "(?L)q", "(?P<n>q)(?P=n)", r"(q)\1", "[[:alpha:]]", "[[a]q]", "[a&&q]", "(?x) q #c",
    "(?s).q", "(?m)^q$", "q++", "(?#c)q", "(?<=q)q", "(q)?(?(1)q|a)", r"\x71", r"\v", r"[\v]", "[]q]", "[^]q]",
    r"\0", "]", "}", "{", r"\.", "^..$", "^.$", "q", r"\d", r"\Qq\E", r"\h", r"\x{71}", ".*", "", "^(?!q)", "^é$",
    "é", r"^\S{2}$",
]  # fmt: skip


def values(schema: dict[str, Any]) -> list[Any]:
    """Return values of an argument that its schema allows."""
    kind = schema.get("type")
    return schema.get("enum") or schema.get("examples") or [True if kind == "boolean" else schema.get("maximum", 1)]


def refused(topology: Topology, release: tuple[int, ...]) -> bool:
    """Tell whether lint says that a release refuses a topology."""
    return any(each.severity == "error" or each.code == "type-missing" for each in examine(topology, release)[0])


@pytest.mark.parametrize("kind", [*QUEUE_TYPES, "none"])
def test_the_broker_accepts_the_arguments_that_lint_predicts(broker: Broker, vhost_url: str, kind: str) -> None:
    release = version(broker)
    typed = {} if kind == "none" else {"x-queue-type": kind}
    rows, wrong = [], []
    for name, value in ((name, value) for name, schema in ARGUMENTS.items() for value in values(schema)):
        arguments = typed | WITH.get(name, {}) | {name: value}
        took = declared(vhost_url, arguments)
        expected = refused(Topology(queues=(Queue("q", arguments=arguments),)), release)
        rows.append(f"{kind:8}{name:34}{value!s:20}{'taken' if took else 'refused'}")
        wrong += [(name, value, "taken" if took else "refused")] if expected is took else []
    show(rows)
    assert wrong == []


def show(rows: list[str]) -> None:
    """Print a table, which pytest shows with -s."""
    sys.stdout.write("\n".join(["", *rows, ""]))


def declared(url: str, arguments: dict[str, Any]) -> bool:
    """Declare a queue with plain pika, and delete it; a refusal may close the channel or the connection."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        channel = connection.channel()
        channel.queue_declare("q", durable=True, arguments=arguments)
        channel.queue_delete("q")
    except (AMQPChannelError, AMQPConnectionError):
        return False
    finally:
        if connection.is_open:
            connection.close()
    return True


@pytest.fixture
def channel(vhost_url: str) -> Iterator[Any]:
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        yield connection.channel()


def apply_policy(broker: Broker, url: str, policy: Policy, queues: Iterable[Queue] = ()) -> set[str] | None:
    """Put a policy, and return the queues to which the broker applies it; None if it refuses it.

    Wait for it to apply to those of `queues` to which it should.
    """
    vhost = urlsplit(url).path[1:]
    body = {"pattern": policy.pattern, "definition": policy.definition, "apply-to": policy.apply_to}
    try:
        broker.api("PUT", f"policies/{vhost}/p", json.dumps(body).encode())
    except HTTPError as error:
        error.close()
        if error.code != 400:
            raise
        return None
    applied = {queue.name: matches(policy, queue) for queue in queues}
    deadline_s = time.monotonic() + 10
    while True:
        listed = json.loads(broker.api("GET", f"queues/{vhost}?disable_stats=true&enable_queue_totals=true"))
        found = {queue["name"] for queue in listed if queue.get("policy") == "p"}
        if not any(each is (name not in found) for name, each in applied.items()) or time.monotonic() > deadline_s:
            broker.api("DELETE", f"policies/{vhost}/p")
            return found


def test_the_broker_applies_policies_to_the_predicted_queue_types(broker: Broker, vhost_url: str, channel: Any) -> None:
    release = version(broker)
    queues = [Queue(kind, arguments={"x-queue-type": kind}) for kind in QUEUE_TYPES]
    for queue in queues:
        channel.queue_declare(queue.name, durable=True, arguments=queue.arguments)
    rows: list[str] = []
    wrong: list[object] = []
    settings = {name.removeprefix("x-"): values(schema) for name, schema in ARGUMENTS.items()}
    settings |= {key: [value] for key, value in OF_POLICIES.items()}
    for key, value in ((key, value) for key, each in settings.items() for value in each):
        policy = Policy("p", "", WITH.get(key, {}) | {key: value}, "queues")
        found = apply_policy(broker, vhost_url, policy, queues)
        expected = refused(Topology(policies=(policy,)), release)
        rows.append(f"{key:34}{value!s:20}{'refused' if found is None else ', '.join(sorted(found))}")
        wrong += [(key, value, found, expected)] if expected is (found is not None) else []
        if found is not None:
            said = {queue.name: matches(policy, queue) for queue in queues}
            wrong += [(key, name, each) for name, each in said.items() if each is (name not in found)]
    show(rows)
    assert wrong == []


@pytest.mark.parametrize("apply_to", ["all", "exchanges", "queues", "classic_queues", "quorum_queues", "streams"])
def test_the_broker_accepts_the_values_of_apply_to_that_lint_predicts(
    broker: Broker, vhost_url: str, apply_to: Any
) -> None:
    policy = Policy("p", "^q$", {"max-length": 5}, apply_to)
    taken = apply_policy(broker, vhost_url, policy) is not None
    told = [finding.message for finding in lint(Topology(policies=(policy,))) if finding.code == "newer-setting"]
    assert bool(told) is (apply_to not in ("all", "exchanges", "queues"))
    assert taken is (not told or version(broker) >= (3, 12))
    assert all("is refused before RabbitMQ 3.12" in each for each in told)


def test_the_pattern_of_a_policy_matches_the_names_that_erlang_matches(
    broker: Broker, vhost_url: str, channel: Any
) -> None:
    for name in NAMES:
        channel.queue_declare(name, durable=True)
    wrong: list[object] = []
    unknown = 0
    for pattern in PATTERNS:
        policy = Policy("p", pattern, {"max-length": 5}, "queues")
        found = apply_policy(broker, vhost_url, policy, map(Queue, NAMES))
        said = {name: matches_name(policy, name) for name in NAMES}
        unknown += sum(each is None for each in said.values())
        if found is not None:
            wrong += [(pattern, name, each) for name, each in said.items() if each is (name not in found)]
        else:
            wrong += [(pattern, name, "refused") for name, each in said.items() if each]
    assert wrong == []
    assert 0 < unknown < len(PATTERNS) * len(NAMES) / 2
