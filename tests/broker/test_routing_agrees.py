"""The offline router and a real RabbitMQ agree on where every message goes.

Hypothesis makes topologies and messages; pika declares the ones and publishes the others. RMQKIT_TEST_EXAMPLES is how
many topologies (20; each with many messages).
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from itertools import count
from typing import Any
from urllib.parse import quote, urlsplit

import pika
import pytest
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from pika.adapters.blocking_connection import BlockingChannel

from rmqkit.model import Binding, Exchange, Policy, Queue, Target, Topology
from rmqkit.topology.dead_letters import dead_letter, x_death_cycle, x_death_orders
from rmqkit.topology.routing import DeathReason, Deaths, Route, route
from tests.conftest import Broker
from tests.support.queues import open_channel

EXAMPLES = int(os.environ.get("RMQKIT_TEST_EXAMPLES", "20"))
agreement = settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking would take longer than a test may
    derandomize="RMQKIT_TEST_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)

EXCHANGES = ["e0", "e1", "e2", "e3", "e4"]
QUEUES = ["q0", "q1", "q2", "q3", "q4"]
BUILT_IN = ["amq.direct", "amq.fanout", "amq.topic", "amq.headers", "amq.match"]


@pytest.fixture
def channel(vhost_url: str) -> Iterator[BlockingChannel]:
    with open_channel(vhost_url) as channel:
        yield channel


# Topologies and messages: few names and words, so that much of it matches.

words = st.sampled_from(["a", "b", "", "*", "#"])
keys = st.one_of(st.lists(words, max_size=5).map(".".join), st.sampled_from(QUEUES))
patterns = keys.filter(lambda key: key.split(".").count("#") <= 2)  # newer brokers refuse more
values = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 2**40, "", "1", "a", "true", b"a", b"1", Decimal(1), Decimal("0.5")]),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)),
    max_leaves=3,
)
header_names = st.sampled_from(["h", "i", "x-h", "x-i", "CC"])
arguments = st.builds(
    lambda how, wanted: how | wanted,
    st.sampled_from([{}, *({"x-match": how} for how in ("all", "any", "all-with-x", "any-with-x"))]),
    st.dictionaries(header_names, values, max_size=2),
)
extra_keys = st.lists(st.one_of(keys, st.sampled_from([1, None])), max_size=3)
headers = st.builds(
    lambda plain, more: {name: value for name, value in plain.items() if name != "CC"} | more,
    st.dictionaries(header_names, values, max_size=3),
    st.fixed_dictionaries({}, optional={"CC": extra_keys, "BCC": extra_keys}),
)


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    kinds = st.sampled_from(["direct", "fanout", "topic", "headers"])
    alternates = st.sampled_from([None, None, *EXCHANGES, "nowhere", "amq.fanout", ""])
    exchanges = []
    for name in EXCHANGES:
        alternate = draw(alternates)
        more = {} if alternate is None else {"alternate-exchange": alternate}
        exchanges.append(Exchange(name, draw(kinds), internal=draw(st.booleans()), arguments=more))
    ends = st.one_of(
        st.tuples(st.just("queue"), st.sampled_from(QUEUES)),
        st.tuples(st.just("exchange"), st.sampled_from([*EXCHANGES, *BUILT_IN])),
    )
    sources = st.sampled_from([*EXCHANGES, *EXCHANGES, *BUILT_IN])
    bindings = draw(
        st.lists(
            st.builds(
                lambda source, end, key, more: Binding(source, end[1], end[0], key, more),
                sources,
                ends,
                patterns,
                arguments,
            ),
            max_size=25,
        )
    )
    return Topology(exchanges=tuple(exchanges), queues=tuple(map(Queue, QUEUES)), bindings=tuple(bindings))


messages = st.tuples(st.sampled_from(["", *EXCHANGES, *EXCHANGES, *BUILT_IN]), keys, headers)


# An independent client.


def declare(channel: BlockingChannel, topology: Topology) -> None:
    for exchange in topology.exchanges:
        channel.exchange_declare(
            exchange.name, exchange.type, internal=exchange.internal, arguments=dict(exchange.arguments)
        )
    for queue in topology.queues:
        durable = queue.arguments.get("x-queue-type") in ("quorum", "stream")
        channel.queue_declare(queue.name, durable=durable, exclusive=not durable, arguments=dict(queue.arguments))
    for binding in topology.bindings:
        bind = channel.queue_bind if binding.destination_type == "queue" else channel.exchange_bind
        bind(binding.destination, binding.source, binding.routing_key, dict(binding.arguments))


def remove(channel: BlockingChannel, topology: Topology) -> None:
    for binding in topology.bindings:
        if binding.source.startswith("amq.") and binding.destination_type == "exchange":
            channel.exchange_unbind(binding.destination, binding.source, binding.routing_key, dict(binding.arguments))
    for queue in topology.queues:
        channel.queue_delete(queue.name)
    for exchange in topology.exchanges:
        channel.exchange_delete(exchange.name)


def publish(channel: BlockingChannel, exchange: str, key: str, more: dict[str, Any], body: str) -> None:
    channel.basic_publish(exchange, key, body.encode(), pika.BasicProperties(headers=more, delivery_mode=1))


def drain(channel: BlockingChannel, queue: str, *, auto_ack: bool = True) -> Iterator[tuple[int, str]]:
    while True:
        method, _, body = channel.basic_get(queue, auto_ack)
        if not method:
            return
        yield method.delivery_tag, (body or b"").decode()


def test_every_message_reaches_the_queues_the_router_predicts(channel: BlockingChannel) -> None:
    @agreement
    @given(topologies(), st.lists(messages, min_size=20, max_size=40))
    def agree(topology: Topology, messages: list[tuple[str, str, dict[str, Any]]]) -> None:
        internal = {exchange.name for exchange in topology.exchanges if exchange.internal}
        expected: dict[str, Route] = {}
        declare(channel, topology)
        for number, (exchange, key, more) in enumerate(messages):
            if exchange not in internal:
                expected[str(number)] = route(topology, Target(exchange, key), more)
                publish(channel, exchange, key, more, str(number))
        live: dict[str, list[str]] = {body: [] for body in expected}
        for queue in QUEUES:
            for _, body in drain(channel, queue):
                live[body].append(queue)
        remove(channel, topology)
        assert not any(offline.unknown for offline in expected.values())
        assert not [
            (messages[int(body)], "offline", offline.queues, "live", tuple(live[body]))
            for body, offline in expected.items()
            if offline.queues != tuple(live[body])
        ]

    agree()


# Dead letters: a queue expires what comes in, pushes it out, or holds it until it is rejected.

OUT_AT_ONCE: dict[str, DeathReason] = {"x-message-ttl": "expired", "x-max-length": "maxlen"}
deaths = st.sampled_from(
    [
        {"x-match": "all-with-x", "x-first-death-reason": "expired"},
        {"x-match": "any-with-x", "x-first-death-queue": "q0", "x-first-death-exchange": ""},
    ]
)


@st.composite
def mortal(draw: st.DrawFn) -> Topology:
    """A topology whose queues dead-letter."""
    topology = draw(topologies())
    queues = []
    for name in QUEUES:
        more: dict[str, Any] = {}
        if draw(st.booleans()) or draw(st.booleans()):
            more["x-dead-letter-exchange"] = draw(st.sampled_from(["", *EXCHANGES, "amq.fanout", "nowhere"]))
        if "x-dead-letter-exchange" in more and draw(st.booleans()):
            more["x-dead-letter-routing-key"] = draw(keys)
        out = draw(st.sampled_from([None, *OUT_AT_ONCE]))
        queues.append(Queue(name, arguments=more | ({out: 0} if out else {})))
    ends = st.lists(st.tuples(st.sampled_from(EXCHANGES), st.sampled_from(QUEUES), deaths), max_size=4)
    by_death = tuple(Binding(source, queue, arguments=more) for source, queue, more in draw(ends))
    return replace(topology, queues=tuple(queues), bindings=topology.bindings[:12] + by_death)


Held = tuple[str, str, Route]  # a copy that waits: its queue, its body, and how it came


def known(onward: Route) -> Route:
    """Pass a route that is the same on every RabbitMQ: dead letters have other headers on some."""
    if onward.unknown:
        reject()
    return onward


def settle(topology: Topology, arrived: list[Held]) -> list[Held]:
    """Follow copies through queues that hold nothing, to those that do."""
    out = {
        queue.name: OUT_AT_ONCE[name] for queue in topology.queues for name in OUT_AT_ONCE if name in queue.arguments
    }
    held: list[Held] = []
    while arrived:
        queue, body, came = arrived.pop()
        if queue in out:
            onward = known(dead_letter(topology, came, queue, out[queue]))
            arrived += [(name, body, onward) for name in onward.queues]
        else:
            held.append((queue, body, came))
        if len(held) + len(arrived) > 300:
            reject()  # hypothesis may find another: this one multiplies
    return held


def wait_for(channel: BlockingChannel, held: list[Held]) -> dict[tuple[str, str], list[int]]:
    """Take all copies out of their queues, unacknowledged, once as many are there as should be."""
    wanted = Counter(queue for queue, _, _ in held)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        ready = {name: channel.queue_declare(name, passive=True).method.message_count for name in QUEUES}
        if all(ready[name] == wanted[name] for name in QUEUES):
            break
    found: dict[tuple[str, str], list[int]] = {}
    for queue in QUEUES:
        for tag, body in drain(channel, queue, auto_ack=False):
            found.setdefault((queue, body), []).append(tag)
    return found


def test_every_dead_letter_arrives_where_the_router_predicts(channel: BlockingChannel) -> None:
    @agreement
    @given(mortal(), st.lists(messages, min_size=3, max_size=6))
    def agree(topology: Topology, messages: list[tuple[str, str, dict[str, Any]]]) -> None:
        internal = {exchange.name for exchange in topology.exchanges if exchange.internal}
        routes = {
            str(number): route(topology, Target(exchange, key), more)
            for number, (exchange, key, more) in enumerate(messages)
            if exchange not in internal
        }
        held = settle(topology, [(queue, body, came) for body, came in routes.items() for queue in came.queues])
        rounds = [held]
        for _ in range(2):
            rejected = [
                (body, known(dead_letter(topology, came, queue, "rejected"))) for queue, body, came in rounds[-1]
            ]
            onward = [(queue, body, came) for body, came in rejected for queue in came.queues]
            rounds.append(settle(topology, onward))
        declare(channel, topology)
        for body in routes:
            publish(channel, *messages[int(body)], body)
        live = []
        for held in rounds:
            found = wait_for(channel, held)
            live.append({copy: len(tags) for copy, tags in found.items()})
            for tags in found.values():
                for tag in tags:
                    channel.basic_reject(tag, requeue=False)
        remove(channel, topology)
        assert live == [dict(Counter((queue, body) for queue, body, _ in held)) for held in rounds]

    agree()


# What hypothesis does not make: policies and quorum queues.


def held_by(channel: BlockingChannel, expected: Route, *queues: str) -> list[str]:
    """Return which queues hold a message, once as many do as should."""
    deadline = time.monotonic() + 10
    while True:
        counts = {name: channel.queue_declare(name, passive=True).method.message_count for name in queues}
        held = [name for name, number in counts.items() for _ in range(number)]
        if len(held) >= len(expected.queues) or time.monotonic() > deadline:
            return sorted(held)


def leave(channel: BlockingChannel, queue: str, reason: DeathReason) -> None:
    """Make the one message in a queue leave it; expired and maxlen are up to the queue's own settings."""
    if reason == "rejected":
        for tag, _ in list(drain(channel, queue, auto_ack=False)):
            channel.basic_reject(tag, requeue=False)
    if reason == "delivery_limit":
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and (taken := list(drain(channel, queue, auto_ack=False))):
            for tag, _ in taken:
                channel.basic_reject(tag, requeue=True)


@pytest.mark.parametrize(
    ("reason", "arguments"),
    [
        ("rejected", {}),
        ("expired", {"x-message-ttl": 1}),
        ("maxlen", {"x-max-length": 0}),
        ("maxlen", {"x-max-length": 0, "x-overflow": "reject-publish-dlx"}),
        ("delivery_limit", {"x-delivery-limit": 1}),
    ],
)
@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_messages_leave_a_queue_of_either_type_as_the_router_predicts(
    channel: BlockingChannel, kind: str, reason: DeathReason, arguments: dict[str, Any]
) -> None:
    own = {"x-queue-type": kind, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    topology = Topology(queues=(Queue("q", arguments=own | arguments), Queue("dead")))
    if reason == "delivery_limit" and kind == "classic":
        assert dead_letter(topology, Route("", ("q",)), "q", reason).why == "queue 'q' has no delivery limit"
        return
    declare(channel, topology)
    offline = dead_letter(topology, route(topology, Target("", "q")), "q", reason)
    publish(channel, "", "q", {}, "x")
    if reason in ("rejected", "delivery_limit"):
        held_by(channel, route(topology, Target("", "q")), "q")
    leave(channel, "q", reason)
    assert offline.queues == ("dead",)
    assert held_by(channel, offline, "dead") == ["dead"]


# Chains of dead letters: one message goes from queue to queue, led out of each for a reason of the test's own.

LENGTH = 9
CHAIN = tuple(
    Queue(name, arguments={"x-queue-type": kind, "x-dead-letter-exchange": f"from {name}", "x-max-length": LENGTH})
    for name, kind in {"c0": "classic", "c1": "classic", "c2": "classic", "k": "quorum"}.items()
)
ways = st.tuples(*(st.sampled_from([queue.name for queue in CHAIN]) for _ in CHAIN))
reasons = st.lists(st.sampled_from(["rejected", "maxlen"]), min_size=3, max_size=9)


def our_version(channel: BlockingChannel) -> tuple[int, ...]:
    server: Any = channel.connection._impl.server_properties
    version: str = server["version"]
    return tuple(map(int, version.split("-", maxsplit=1)[0].split(".")))


def x_death(channel: BlockingChannel, queue: str, wanted: str, *, expected: bool) -> tuple[int, Deaths] | None:
    """Take a message, and all else, out of a queue: its delivery tag and deaths; None if it is not there."""
    channel.queue_declare(queue, passive=True)
    publish(channel, "", queue, {}, "marker")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        method, properties, body = channel.basic_get(queue)
        if not method or not properties:
            continue
        if body == wanted.encode():
            deaths = (properties.headers or {}).get("x-death", [])
            return method.delivery_tag, tuple((each["queue"], each["reason"]) for each in deaths)
        channel.basic_ack(method.delivery_tag)
        assert body in (b"marker", b"filler")
        if body == b"marker" and not expected:
            break
    return None


def test_a_message_dead_lettered_repeatedly_is_where_the_router_predicts(channel: BlockingChannel) -> None:
    exchanges = tuple(Exchange(f"from {queue.name}", "fanout") for queue in CHAIN)
    declare(channel, Topology(exchanges=exchanges, queues=CHAIN))
    newer = our_version(channel) >= (3, 13, 3)
    numbers = count()

    @agreement
    @given(ways, reasons)
    def agree(ways: tuple[str, ...], reasons: list[DeathReason]) -> None:
        onward = dict(zip((queue.name for queue in CHAIN), ways, strict=True))
        bindings = tuple(Binding(f"from {queue}", target) for queue, target in onward.items())
        topology = Topology(exchanges=exchanges, queues=CHAIN, bindings=bindings)
        declare(channel, Topology(bindings=bindings))
        body = f"message {next(numbers)}"
        publish(channel, "", "c0", {}, body)
        try:
            follow(topology, body, onward, reasons)
        finally:
            channel.basic_recover(requeue=True)
            for binding in bindings:
                channel.queue_unbind(binding.destination, binding.source, "")
            for queue in CHAIN:
                channel.queue_purge(queue.name)

    def follow(topology: Topology, body: str, onward: dict[str, str], reasons: list[DeathReason]) -> None:
        came, place = route(topology, Target("", "c0")), "c0"
        found = x_death(channel, place, body, expected=True)
        for reason in reasons:
            assert found
            for queue in CHAIN:
                channel.queue_purge(queue.name)  # of markers and fillers
            channel.basic_reject(found[0], requeue=reason == "maxlen")
            for _ in range(LENGTH if reason == "maxlen" else 0):
                publish(channel, "", place, {}, "filler")
            channel.queue_declare(place, passive=True)  # answered when it has let the message go
            came, place = dead_letter(topology, came, place, reason), onward[place]
            order = x_death_orders(came.deaths)[newer]
            dropped = bool(x_death_cycle(place, order))
            found = x_death(channel, place, body, expected=not dropped)
            assert (found and found[1]) == (None if dropped else order)
            assert came.unknown or came.queues == (() if dropped else (place,))
            if dropped:
                return

    agree()


@pytest.mark.parametrize(
    "source",
    [
        {"x-queue-type": "classic"},
        {"x-queue-type": "quorum"},
        {"x-queue-type": "quorum", "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"},
    ],
    ids=["classic", "at most once", "at least once"],
)
def test_a_stream_gets_dead_letters_as_the_router_predicts(channel: BlockingChannel, source: dict[str, Any]) -> None:
    topology = Topology(
        exchanges=(Exchange("dlx", "fanout"),),
        queues=(
            Queue("q", arguments={**source, "x-dead-letter-exchange": "dlx"}),
            Queue("history", arguments={"x-queue-type": "stream"}),
            Queue("rest"),
        ),
        bindings=(Binding("dlx", "history"), Binding("dlx", "rest")),
    )
    declare(channel, topology)
    came = route(topology, Target("", "q"))
    publish(channel, "", "q", {}, "dead letter")
    held_by(channel, came, "q")
    leave(channel, "q", "rejected")
    offline = dead_letter(topology, came, "q", "rejected")
    assert held_by(channel, replace(offline, queues=("rest",)), "rest") == ["rest"]
    publish(channel, "", "history", {}, "marker")
    channel.basic_qos(prefetch_count=9)
    bodies = []
    for method, _, body in channel.consume("history", arguments={"x-stream-offset": "first"}, inactivity_timeout=10):
        assert method
        bodies.append(body)
        channel.basic_ack(method.delivery_tag)
        if body == b"marker":
            break
    channel.cancel()
    arrived = b"dead letter" in bodies
    if "x-dead-letter-strategy" in source:
        assert (offline.queues, arrived) == (("history", "rest"), True)
    else:
        assert (offline.queues, bool(offline.unknown)) == (("rest",), True)
        assert arrived == (our_version(channel) >= (3, 12))


def test_policies_apply_to_exchanges_and_queues_as_the_router_predicts(
    broker: Broker, vhost_url: str, channel: BlockingChannel
) -> None:
    policies = (
        Policy("low", "^q", {"dead-letter-exchange": "", "dead-letter-routing-key": "other"}, "queues", 1),
        Policy("high", "q$", {"dead-letter-exchange": "", "dead-letter-routing-key": "dead"}, "all", 2),
        Policy("passed over", "q", {"delivery-limit": 3, "dead-letter-exchange": "nowhere"}, "queues", 3),
        Policy("rest", "^in", {"alternate-exchange": "amq.fanout"}, "exchanges"),
    )
    topology = Topology(
        exchanges=(Exchange("in.1"), Exchange("in.2", arguments={"alternate-exchange": "nowhere"})),
        queues=(
            Queue("q"),
            Queue("q.own", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}),
            Queue("q.low"),
            *map(Queue, ["dead", "other"]),
        ),
        bindings=tuple(Binding("amq.fanout", queue) for queue in ("q", "q.own", "q.low")),
        policies=policies,
    )
    declare(channel, topology)
    for policy in policies:
        body = {
            "pattern": policy.pattern,
            "definition": dict(policy.definition),
            "apply-to": policy.apply_to,
            "priority": policy.priority,
        }
        name = f"policies/{urlsplit(vhost_url).path[1:]}/{quote(policy.name)}"
        broker.api("PUT", name, json.dumps(body).encode())
    for exchange in ("in.1", "in.2"):
        publish(channel, exchange, "x", {}, exchange)
    came = route(topology, Target("in.1", "x"))
    assert route(topology, Target("in.2", "x")).unroutable
    assert held_by(channel, came, "q", "q.own", "q.low") == [*came.queues] == ["q", "q.low", "q.own"]
    for queue, expected in {"q": ["dead"], "q.own": ["dead"], "q.low": ["other"]}.items():
        offline = dead_letter(topology, came, queue, "rejected")
        leave(channel, queue, "rejected")
        assert held_by(channel, offline, "dead", "other") == [*offline.queues] == expected
        channel.queue_purge(expected[0])
