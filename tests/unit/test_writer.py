"""From a Topology to the file that holds it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import rmqkit
from rmqkit.errors import TopologyError
from rmqkit.model import Binding, Contract, Exchange, Policy, Queue, Retry, Suppression, Target, Topology
from rmqkit.topology.examples import example_names
from rmqkit.topology.file.document import parse
from rmqkit.topology.file.loader import load, loads
from rmqkit.topology.file.writer import to_yaml
from rmqkit.topology.names import BUILT_IN
from rmqkit.topology.retry import MAX_DELAY_MS, expand

VALID = sorted((Path(__file__).parents[1] / "cases" / "valid").glob("*.yaml"))
NASTY = (
    "#", "*", "*.x", "a.#", "on", "No", "~", "null", "true", "017", "0x1F", "1e5", "07.5", "1:30", "2026-01-01", "1_0",
    ": ", "a: b", "a #b", " ", " x ", "'", '"', "\\", "it's", "\\d+'\"", "{", "[a]", "&a", "!a", "%", "@", "`", "-",
    "- a", "---", ", ", ", a", "a, b", "a,, b", "a, #", "...", "?", "? a", "<<", "=", "|", ">", ",", "\0", "\x07", "\t",
    "\x7f", "\x85", "\ufeff", "\u2028", "\u200f",
    "${", "${A}", "$${A}", "$$", "$A", "${A:-b}", "${}", "a${A} b",
    "🐇", "שלום", "é" * 127, "\x01" * 255, "x" * 255, "\U0010ffff", "3.10", ".5", "+1", "y", "a  b", "۳", "/", "//",
)  # fmt: skip
_characters = st.characters(exclude_categories=["Cs"])
texts = st.sampled_from(NASTY) | st.text(_characters, max_size=20)
keys = st.sampled_from([each for each in NASTY if each]) | st.text(_characters, min_size=1, max_size=20)
names = keys.filter(lambda name: not name.startswith("amq.") and not set(name) & {"\n", "\r"})
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
_DEFINITIONS = json.loads((Path(rmqkit.__file__).parent / "topology" / "schema.json").read_text())["$defs"]
# Names with a meaning for the schema have a test of their own below; Hypothesis finds them in the code.
_KNOWN = {
    name for each in ("queue", "exchange") for name in _DEFINITIONS[each]["properties"]["arguments"]["properties"]
}
_KNOWN |= {"x-match"}
tables: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    keys.map("x-".__add__).filter(lambda name: name not in _KNOWN and len(name.encode()) < 256), values, max_size=3
)
_RETRIED = st.dictionaries(
    st.sampled_from(["\2", "\2.retry", "\2é"]), st.sampled_from([{}, {"x-queue-type": "quorum"}]), max_size=2
)
contracts = st.none() | st.builds(Contract, st.sampled_from(["json", "xml"]), keys.filter(bool))


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Any topology that our reader does not refuse."""

    def unique(strategy: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(strategy, max_size=4, unique=True))

    exchanges = [
        Exchange(
            name,
            draw(st.sampled_from(["direct", "topic", "x-none"])),
            *draw(flags),
            draw(tables),
            draw(contracts),  # type: ignore[call-arg]
        )
        for name in unique(names)
        for flags in [st.tuples(*[st.booleans()] * 3)]
    ]
    queues = []
    for name in unique(names):
        queue_type = draw(st.sampled_from([{}, {"x-queue-type": "classic"}, {"x-queue-type": "x-jms"}]))
        queues.append(
            Queue(name, draw(st.booleans()), draw(st.booleans()), False, draw(tables) | queue_type, draw(contracts))
        )
    delays = st.lists(st.integers(1, MAX_DELAY_MS), min_size=1, max_size=3).map(tuple)
    retried = [Queue(name, arguments=kind, retry=Retry(draw(delays), "\2end")) for name, kind in draw(_RETRIED).items()]
    replicated = Queue(
        "\x01replicated", arguments=draw(tables) | {"x-queue-type": draw(st.sampled_from(["quorum", "stream"]))}
    )
    sources = [each.name for each in exchanges] + [*BUILT_IN]
    bindings: dict[str, Binding] = {}
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["queue", "exchange"]))
        ends = sources if kind == "exchange" else [*[each.name for each in queues], replicated.name]
        key = draw(texts)
        binding = Binding(draw(st.sampled_from(sources)), draw(st.sampled_from(ends)), kind, key, draw(tables))  # type: ignore[arg-type]
        bindings[binding.source + binding.destination + kind] = binding
    definitions = st.dictionaries(keys.filter(lambda key: not key.startswith("x-")), values, min_size=1, max_size=3)
    priorities = st.integers(-(10**30), 10**30)
    policies = st.builds(
        Policy,
        names.filter(lambda name: name not in {".", ".."}),
        texts,
        definitions,
        st.sampled_from(["all", "streams"]),
        priorities,
    )
    topology = Topology(
        draw(texts),
        tuple(exchanges),
        (*queues, *retried, Queue("\2end"), replicated),
        tuple(bindings.values()),
        draw(st.none() | st.builds(Target, st.sampled_from(sources), texts)),
        tuple(unique(names)),
        tuple(unique(names)),
        tuple({each.name: each for each in draw(st.lists(policies, max_size=2))}.values()),
        tuple(unique(keys)),
        tuple(draw(st.lists(st.builds(Suppression, keys, keys, keys), max_size=2))),
    )
    return expand(topology)


def with_internals_unpublished(topology: Topology) -> Topology:
    """Nobody can publish to an internal exchange, and the reader says so."""
    internal = {each.name for each in topology.exchanges if each.internal}
    if topology.publish and topology.publish.exchange in internal:
        return Topology(**{name: getattr(topology, name) for name in Topology.__slots__ if name != "publish"})
    return topology


def exact(topology: Topology) -> str:
    """Tell true from 1, and 1 from 1.0, which are equal."""
    return re.sub(
        r'"where": (null|{.*?})|"files": \[.*?\]', "", json.dumps(dataclasses.asdict(topology), sort_keys=True)
    )


@given(topologies().map(with_internals_unpublished))
def test_a_written_topology_reads_back_as_the_same(topology: Topology) -> None:
    read = loads(to_yaml(topology))
    assert read == topology
    assert exact(read) == exact(topology)


@given(topologies())
def test_another_reader_of_yaml_reads_the_same_data(topology: Topology) -> None:
    text = to_yaml(topology)
    assert yaml.safe_load(text.replace("$${", "${")) == parse(text).data


@pytest.mark.parametrize("name", NASTY)
def test_any_name_is_written_unchanged_in_every_place(name: str) -> None:
    table = {"x": [name, {name: name}]}
    whole = Topology(
        description=name,
        exchanges=(Exchange("e", arguments=table),),
        queues=(Queue(name),),
        bindings=(Binding("e", name, routing_key=name, arguments=table),),
        publish=Target("e", name),
        policies=(Policy(name, name, table),),
        scope=(name,),
    )
    assert loads(to_yaml(whole)) == whole


@pytest.mark.parametrize(
    "name", [each for each in example_names() if each != "orders"]
)  # it explains settings line by line
def test_a_shipped_topology_is_written_unchanged_without_its_comments(name: str) -> None:
    text = re.sub(r"^ *#.*\n| +# .*", "", example_names()[name].read_text("utf-8"), flags=re.MULTILINE)
    assert to_yaml(load(example_names()[name])) == text.strip().replace("{durable: true}", "{}") + "\n"


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_every_valid_file_can_be_rewritten(path: Path) -> None:
    topology = load(path)
    assert loads(to_yaml(topology)) == topology


def test_a_file_has_a_line_per_entity_and_leaves_defaults_out() -> None:
    topology = Topology(
        description="Orders; nothing else.",
        exchanges=(
            Exchange("orders", "topic"),
            Exchange("audit", durable=False, arguments={"alternate-exchange": "o"}),
        ),
        queues=(Queue("billing", arguments={"x-max-length": 5, "x-queue-type": "quorum"}), Queue("parked")),
        bindings=(
            Binding("orders", "billing", routing_key="order.*.paid"),
            Binding("orders", "audit", "exchange", "#"),
        ),
        publish=Target("", "parked"),
        external_queues=("theirs",),
        policies=(Policy("ttl", "^orders\\.", {"message-ttl": 60000}, "queues", 1),),
        scope=("orders.*",),
        suppressions=(Suppression("unreached-queue", "parked", "filled by hand"), Suppression("cycle", reason="meant")),
    )
    assert to_yaml(topology) == (
        "description: Orders; nothing else.\n\n"
        "exchanges:\n"
        "  orders: {type: topic}\n"
        "  audit: {type: direct, durable: false, arguments: {alternate-exchange: o}}\n\n"
        "queues:\n"
        "  billing: {type: quorum, arguments: {x-max-length: 5}}\n"
        "  parked: {}\n\n"
        "bindings:\n"
        "  - {source: orders, destination: billing, routing_key: order.*.paid}\n"
        '  - {source: orders, destination: audit, destination_type: exchange, routing_key: "#"}\n\n'
        'publish: {exchange: "", routing_key: parked}\n\n'
        "external: {queues: [theirs]}\n\n"
        "policies:\n"
        "  ttl: {pattern: '^orders\\.', definition: {message-ttl: 60000}, apply-to: queues, priority: 1}\n\n"
        "scope: [orders.*]\n\n"
        "lint:\n"
        "  - {ignore: unreached-queue, name: parked, reason: filled by hand}\n"
        "  - {ignore: cycle, reason: meant}\n"
    )


def test_an_empty_topology_is_a_file_that_can_be_read() -> None:
    assert loads(to_yaml(Topology())) == Topology()


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_arguments_are_written_as_deep_as_they_can_be_read() -> None:
    deepest = Topology(queues=(Queue("q", arguments={"x": _nested(60)}),))
    assert loads(to_yaml(deepest)) == deepest


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(_nested(61), r"deeper than 64 levels", id="nested"),
        pytest.param(_nested(100_000), r"deeper than 64 levels", id="nested without end"),
        pytest.param(math.inf, r"queues\.q\.arguments\.x: this float cannot be written", id="infinity"),
        pytest.param(math.nan, r"this float", id="no number"),
        pytest.param(10**5000, r"this int cannot be written", id="huge number"),
        pytest.param(datetime(2026, 1, 1, tzinfo=UTC), r"this datetime", id="time"),
        pytest.param(b"x", r"this bytes", id="bytes"),
        pytest.param(["\ud800"], r"arguments\.x\[0\]: the lone surrogate U\+D800 is not a character", id="surrogate"),
        pytest.param({1: 2}, r"a key must be text, not int", id="key that is no text"),
        pytest.param({"k" * 1025: 2}, r"is longer than 1024", id="long key"),
    ],
)
def test_unrepresentable_values_are_an_error_with_their_place(value: object, message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        to_yaml(Topology(queues=(Queue("q", arguments={"x": value}),)))


def test_a_line_that_is_too_long_is_broken_into_its_parts() -> None:
    arguments = {"x-queue-type": "quorum", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "short"}
    arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish", "x-tag": "a" * 99}
    headers = {f"name-{number}": "value" for number in range(9)}
    queues = (Queue("orders", arguments=arguments), Queue("short"))
    topology = Topology(queues=queues, bindings=(Binding("amq.headers", "orders", arguments=headers),))
    written = to_yaml(topology)
    assert written == (
        "queues:\n"
        "  orders:\n"
        "    type: quorum\n"
        "    arguments:\n"
        '      x-dead-letter-exchange: ""\n'
        "      x-dead-letter-routing-key: short\n"
        "      x-dead-letter-strategy: at-least-once\n"
        "      x-overflow: reject-publish\n"
        f"      x-tag: {'a' * 99}\n"
        "  short: {}\n\n"
        "bindings:\n"
        "  - source: amq.headers\n"
        "    destination: orders\n"
        "    arguments:\n" + "".join(f"      {name}: value\n" for name in headers)
    )
    assert loads(written) == topology
