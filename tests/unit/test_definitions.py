"""RabbitMQ's definitions and topologies, in both directions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmqkit.errors import DocumentError, InputError, TopologyError
from rmqkit.model import Binding, Exchange, Policy, Queue, Suppression, Target, Topology
from rmqkit.topology.file.definitions import from_definitions, not_in_definitions, to_definitions
from rmqkit.topology.file.loader import loads
from rmqkit.topology.file.writer import to_yaml


def read(data: Mapping[str, Any] | str, vhost: str | None = None) -> Topology:
    return from_definitions(data, file="d.json", vhost=vhost)[0]


def omitted(data: Mapping[str, Any], vhost: str | None = None) -> tuple[str, ...]:
    return from_definitions(data, file="d.json", vhost=vhost)[1]


# The fields of RabbitMQ 4: https://www.rabbitmq.com/docs/definitions, and rabbit_definitions in its source.
CLUSTER_4 = {
    "rabbit_version": "4.1.0",
    "rabbitmq_version": "4.1.0",
    "product_name": "RabbitMQ",
    "product_version": "4.1.0",
    "rabbitmq_definition_format": "cluster",
    "original_cluster_name": "rabbit@one",
    "explanation": "Definitions of cluster 'rabbit@one'",
    "users": [
        {
            "name": "guest",
            "password_hash": "x",
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": ["administrator"],
            "limits": {},
        }
    ],
    "vhosts": [
        {
            "name": "/",
            "description": "Default virtual host",
            "metadata": {"description": "Default virtual host", "tags": [], "default_queue_type": "classic"},
            "tags": [],
            "default_queue_type": "classic",
        },
        {"name": "shop", "metadata": {"description": "", "tags": [], "default_queue_type": "quorum"}},
    ],
    "permissions": [
        {"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
        {"user": "guest", "vhost": "shop", "configure": ".*", "write": ".*", "read": ".*"},
    ],
    "topic_permissions": [],
    "parameters": [
        {"vhost": "shop", "component": "operator_policy", "name": "limit", "value": {"pattern": ".*"}},
        {"vhost": "shop", "component": "federation-upstream", "name": "other", "value": {"uri": "amqp://"}},
    ],
    "global_parameters": [{"name": "cluster_tags", "value": {}}],
    "policies": [
        {
            "vhost": "shop",
            "name": "ttl",
            "pattern": "^orders",
            "apply-to": "quorum_queues",
            "definition": {"message-ttl": 60000},
            "priority": 3,
        }
    ],
    "queues": [
        {
            "name": "orders",
            "vhost": "shop",
            "type": "quorum",
            "durable": True,
            "auto_delete": False,
            "arguments": {"x-queue-type": "quorum"},
        },
        {
            "name": "log",
            "vhost": "shop",
            "type": "stream",
            "durable": True,
            "auto_delete": False,
            "arguments": {"x-max-age": "7D"},
        },
        {
            "name": "amq.gen-1",
            "vhost": "shop",
            "type": "classic",
            "durable": False,
            "auto_delete": True,
            "arguments": {},
        },
        {
            "name": "federation: shop -> rabbit@two",
            "vhost": "shop",
            "type": "classic",
            "durable": True,
            "auto_delete": False,
            "arguments": {"x-internal-purpose": "federation"},
        },
    ],
    "exchanges": [
        {
            "name": "shop",
            "vhost": "shop",
            "type": "topic",
            "durable": True,
            "auto_delete": False,
            "internal": False,
            "arguments": {},
        },
        {
            "name": "federation: shop -> rabbit@two A",
            "vhost": "shop",
            "type": "x-federation-upstream",
            "durable": True,
            "auto_delete": True,
            "internal": True,
            "arguments": {},
        },
    ],
    "bindings": [
        {
            "source": "shop",
            "vhost": "shop",
            "destination": "orders",
            "destination_type": "queue",
            "routing_key": "order.#",
            "arguments": {},
        },
        {
            "source": "shop",
            "vhost": "shop",
            "destination": "amq.gen-1",
            "destination_type": "queue",
            "routing_key": "#",
            "arguments": {},
        },
        {
            "source": "shop",
            "vhost": "shop",
            "destination": "federation: shop -> rabbit@two A",
            "destination_type": "exchange",
            "routing_key": "#",
            "arguments": {},
        },
    ],
}
SHOP = Topology(
    exchanges=(Exchange("shop", "topic"),),
    queues=(
        Queue("log", arguments={"x-max-age": "7D", "x-queue-type": "stream"}),
        Queue("orders", arguments={"x-queue-type": "quorum"}),
    ),
    bindings=(Binding("shop", "orders", routing_key="order.#"),),
    policies=(Policy("ttl", "^orders", {"message-ttl": 60000}, "quorum_queues", 3),),
)


def test_definitions_of_rabbitmq_4_become_a_topology_and_a_list_of_the_rest() -> None:
    assert read(CLUSTER_4) == SHOP
    assert loads(to_yaml(SHOP)) == SHOP
    assert omitted(CLUSTER_4, "shop") == (
        "1 user",
        "1 virtual host",
        "1 permission",
        "2 parameters (federation-upstream, operator_policy)",
        "1 global parameter",
        "1 broker-owned exchange",
        "2 broker-owned queues",
        "2 broker-owned bindings",
    )


def test_a_single_virtual_host_of_rabbitmq_4_has_no_virtual_host_in_its_entities() -> None:
    strip = lambda items: [{k: v for k, v in each.items() if k != "vhost"} for each in items]  # noqa: E731
    one: dict[str, Any] = {
        section: strip(CLUSTER_4[section]) for section in ("exchanges", "queues", "bindings", "policies")
    }
    one |= {
        "rabbitmq_definition_format": "single_virtual_host",
        "original_vhost_name": "shop",
        "metadata": {"tags": ["a"]},
        "description": "The shop",
        "limits": {"max-queues": 5},
        "parameters": [],
    }
    assert read(one) == read(one, "anything") == SHOP
    assert omitted(one)[:2] == ("the metadata of the virtual host", "the limits of the virtual host")


def test_a_classic_queue_keeps_its_type_where_the_default_differs() -> None:
    queue = {"name": "old", "type": "classic"}
    quorum, classic = {"default_queue_type": "quorum"}, {"default_queue_type": "classic"}
    said = (Queue("old", arguments={"x-queue-type": "classic"}),)
    assert read({"queues": [queue], "metadata": quorum}).queues == said
    assert read({"queues": [queue], "metadata": classic}).queues == read({"queues": [queue]}).queues == (Queue("old"),)
    vhosts = [{"name": "a", "metadata": quorum}, {"name": "b", "metadata": classic}]
    assert read({"queues": [queue | {"vhost": "a"}], "vhosts": vhosts}).queues == said
    assert read({"queues": [queue | {"vhost": "b"}], "vhosts": vhosts}).queues == (Queue("old"),)


def test_of_several_virtual_hosts_one_must_be_chosen() -> None:
    queues = [{"name": vhost, "vhost": vhost} for vhost in ("b", "a")]
    definitions = {"queues": queues, "vhosts": [{"name": each} for each in ("a", "b", "empty")]}
    with pytest.raises(InputError, match="has 2 virtual hosts") as error:
        read(definitions)
    assert error.value.advice == "Choose with `vhost=`: a, b."
    assert read(definitions, "a").queues == (Queue("a"),)
    assert read(definitions, "empty") == Topology()
    with pytest.raises(InputError, match="no virtual host 'c'"):
        read(definitions, "c")


def test_names_that_are_used_and_not_declared_are_external() -> None:
    topology = read(
        {
            "exchanges": [{"name": "e", "arguments": {"alternate-exchange": "alternate"}}],
            "queues": [
                {"name": "q", "arguments": {"x-dead-letter-exchange": "dead"}},
                {"name": "r", "arguments": {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "parked"}},
            ],
            "bindings": [
                {"source": "theirs", "destination": "q"},
                {"source": "amq.topic", "destination": "others"},
                {"source": "e", "destination": "x", "destination_type": "exchange"},
                {"source": "", "destination": "q", "routing_key": "q"},
            ],
        }
    )
    assert topology.external_exchanges == ("alternate", "dead", "theirs", "x")
    assert topology.external_queues == ("others", "parked")
    assert len(topology.bindings) == 3
    assert loads(to_yaml(topology)) == topology


def test_unknown_fields_are_reported() -> None:
    definitions = {
        "queues": [{"name": "q", "color": 1}, {"name": "r", "color": 2}],
        "novelty": [{}],
        "bindings": [],
    }
    assert omitted(definitions) == ("1 novelty", "2 'color' fields")


@pytest.mark.parametrize(
    ("section", "item", "message"),
    [
        ("queues", {}, "queues[1] has no name"),
        ("queues", {"name": 5}, "queues[1].name is 5, but should be text"),
        ("queues", "q", "queues[1] is text, but should be a mapping"),
        ("queues", {"name": "q", "durable": "yes"}, "queues[1].durable is text, but should be true or false"),
        ("queues", {"name": "q", "arguments": ["x"]}, "queues[1].arguments is a list, but should be a mapping"),
        ("queues", {"name": "twice"}, "queues[1].name is 'twice', as in queues[0]"),
        ("exchanges", {"name": "e", "type": None}, "exchanges[1].type is null, but should be text"),
        ("bindings", {"source": "e"}, "bindings[1] has no destination"),
        (
            "bindings",
            {"source": "e", "destination": "q", "destination_type": "queues"},
            "bindings[1].destination_type is 'queues', but should be one of queue, exchange; did you mean queue?",
        ),
        (
            "policies",
            {"name": "p", "pattern": "", "definition": {}, "priority": True},
            "policies[1].priority is true, but should be a whole number",
        ),
    ],
)
def test_problems_are_reported_with_their_place(section: str, item: object, message: str) -> None:
    good = {"name": "twice", "source": "e", "destination": "q", "pattern": "", "definition": {"max-length": 1}}
    with pytest.raises(TopologyError) as error:
        read({section: [good, item]})
    assert [str(problem) for problem in error.value.problems] == [f"d.json: {message}"]


@pytest.mark.parametrize("data", [[], {}, {"users": []}, 5, None, "queues"])
def test_data_that_is_not_definitions_is_refused(data: Any) -> None:
    with pytest.raises(TopologyError, match="not definitions"):
        read(json.dumps(data))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"queues": [\n  {"name": "q",}]}', "d.json:2:16: not JSON: expected a name in double quotes"),
        ("", "d.json:1:1: not JSON: unexpected end of the text"),
        (
            '{"queues": [], "queues": []}',
            "d.json:1:16: not JSON: duplicate name in an object (first at 1:2 of the text)",
        ),
        ('{"queues": [NaN]}', "d.json:1:13: not JSON: NaN and Infinity are not JSON"),
        ('{"queues": [1e999]}', "a number beyond the range of a double"),
        ('{"queues": ["\\ud800"]}', "half a surrogate pair"),
        ("[" * 100_000, "nested more than 500 levels deep"),
        ("1" * 5_000, "a number of 5000 characters; at most 1000 are allowed"),
    ],
)
def test_invalid_json_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(DocumentError) as error:
        read(text)
    assert message in str(error.value)


_fields = st.sampled_from(["name", "vhost", "type", "arguments", "source", "destination", "component", "definition"])
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_fields | st.text(), inner, max_size=5),
)
_sections = st.sampled_from([*CLUSTER_4, "limits", "metadata"])


@given(_json | st.dictionaries(_sections, st.lists(st.dictionaries(_fields, _json, max_size=8), max_size=3) | _json))
def test_any_data_is_a_topology_or_an_rmqkit_error(data: Any) -> None:
    with suppress(InputError):
        topology, *_ = from_definitions(data, file="d.json")
        with suppress(InputError):
            loads(to_yaml(topology))


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9).filter(
    lambda x: not x.startswith("amq.")
)
tables = st.dictionaries(names, st.none() | st.booleans() | st.integers() | names | st.lists(names), max_size=2)


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Any topology, its entities sorted, whose bindings lead between entities that it declares."""
    flags = st.tuples(st.booleans(), st.booleans())
    exchanges = [
        Exchange(name, draw(names), *draw(flags), draw(st.booleans()), draw(tables))
        for name in draw(st.lists(names, unique=True, min_size=1))
    ]
    queues = [
        Queue(name, *draw(flags), arguments=draw(tables)) for name in draw(st.lists(names, unique=True, min_size=1))
    ]
    ends = st.sampled_from(
        [*(("queue", each.name) for each in queues), *(("exchange", each.name) for each in exchanges)]
    )
    sources = st.sampled_from([each.name for each in exchanges])
    bindings = {}
    for _ in range(draw(st.integers(0, 5))):
        (kind, end), source, key = draw(ends), draw(sources), draw(names)
        bindings[json.dumps([source, end, kind, key])] = Binding(source, end, kind, key, draw(tables))  # type: ignore[arg-type]
    policies = [
        Policy(name, draw(names), draw(tables), "queues", draw(st.integers()))
        for name in draw(st.lists(names, unique=True))
    ]
    return Topology(
        exchanges=tuple(sorted(exchanges, key=lambda each: each.name)),
        queues=tuple(sorted(queues, key=lambda each: each.name)),
        bindings=tuple(each for _, each in sorted(bindings.items())),
        policies=tuple(sorted(policies, key=lambda each: each.name)),
    )


@given(topologies(), st.none() | names)
def test_a_topology_survives_the_conversion_to_definitions_and_back(topology: Topology, vhost: str | None) -> None:
    definitions = json.dumps(to_definitions(topology, vhost=vhost))
    assert from_definitions(definitions, file="d.json", vhost=vhost)[:2] == (topology, ())


def test_values_that_definitions_cannot_hold_are_reported() -> None:
    topology = Topology(
        description="x",
        exchanges=(Exchange("e"),),
        queues=(Queue("q", exclusive=True), Queue("r")),
        bindings=(Binding("e", "q"), Binding("e", "r")),
        publish=Target("e"),
        external_queues=("x",),
        scope=("*",),
        suppressions=(Suppression("code"),),
    )
    assert not_in_definitions(topology) == (
        "1 exclusive queue, with bindings",
        "the description",
        "the publish target",
        "the names of external entities",
        "the scope",
        "the suppressed findings",
    )
    definitions = to_definitions(topology)
    assert [each["name"] for each in definitions["queues"]] == ["r"]
    assert [each["destination"] for each in definitions["bindings"]] == ["r"]
    assert not_in_definitions(SHOP) == ()


def test_an_entity_without_a_virtual_host_among_others_is_a_problem() -> None:
    binding = {"source": "a", "destination": "b", "destination_type": "queue", "routing_key": ""}
    with pytest.raises(TopologyError, match=r"bindings\[1\] names no virtual host, but other entities do"):
        read({"bindings": [binding | {"vhost": "shop"}, binding]})
    assert len(read({"bindings": [binding]}).bindings) == 1


def test_queues_whose_type_an_import_ignores_are_listed() -> None:
    typed = [
        {"name": "a", "type": "quorum"},
        {"name": "b", "type": "quorum", "arguments": {"x-queue-type": "quorum"}},
        {"name": "c", "type": "classic"},
    ]
    assert from_definitions({"queues": typed}, file="d.json").untyped == ("a",)
