"""From files to one Topology."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import rmqkit
from rmqkit.errors import DocumentError, TopologyError
from rmqkit.model import Binding, Exchange, Queue, Retry, Target, Topology
from rmqkit.topology.examples import example_names, find
from rmqkit.topology.file.loader import load, loads
from rmqkit.topology.file.schema import schema, schema_text


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, "utf-8")
        return path

    return write


def test_the_example_becomes_model_objects() -> None:
    topology = loads("""
description: Orders
exchanges: {orders: {type: topic}}
queues: {billing: {type: quorum, arguments: {x-dead-letter-exchange: "", x-dead-letter-routing-key: parked}}, parked: }
bindings: [{source: orders, destination: billing, routing_key: order.*.paid}]
publish: {exchange: orders, routing_key: order.eu.paid}
external: {exchanges: [theirs], queues: [others]}
""")
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "parked", "x-queue-type": "quorum"}
    assert topology.exchanges == (Exchange("orders", "topic"),)
    assert topology.queues == (Queue("billing", arguments=arguments), Queue("parked"))
    assert topology.bindings == (Binding("orders", "billing", routing_key="order.*.paid"),)
    assert topology.publish == Target("orders", "order.eu.paid")
    assert (topology.external_exchanges, topology.external_queues) == (("theirs",), ("others",))


def test_every_entity_has_its_place() -> None:
    topology = loads("exchanges:\n  e: {}\nqueues:\n  q:\nbindings:\n  - source: e\n    destination: q\n", "t.yaml")
    entities: tuple[Any, ...] = (*topology.exchanges, *topology.queues, *topology.bindings)
    assert [str(each.where) for each in entities] == ["t.yaml:2:3", "t.yaml:4:3", "t.yaml:6:5"]


def test_several_files_make_one_topology(write: Callable[[str, str], Path]) -> None:
    one = write("one.yaml", "description: One.\nexchanges: {e: {}}\nqueues: {a: {}}\npublish: {exchange: e}\n")
    bound = "bindings: [{source: e, destination: a}]\n"
    two = write(
        "two.yaml", "description: Two.\nqueues: {a: {durable: true}, b: {}}\npublish: {routing_key: b}\n" + bound
    )
    topology = load(one, str(two), two)
    assert topology.description == "One.\nTwo.\nTwo."
    assert [queue.name for queue in topology.queues] == ["a", "b"]
    assert topology.bindings == (Binding("e", "a"),)
    assert topology.publish == Target("", "b")


def test_two_files_that_disagree_are_a_problem_naming_both(write: Callable[[str, str], Path]) -> None:
    one = write("one.yaml", "queues:\n  a: {arguments: {x-x: 1}}\n")
    two = write("two.yaml", "queues:\n  a: {arguments: {x-x: true}}\n")
    with pytest.raises(TopologyError) as caught:
        load(one, two)
    (problem,) = caught.value.problems
    assert problem.message == f"queue 'a' is declared differently in {one}:2:3"
    assert str(problem.where) == f"{two}:2:3"


def test_problems_are_sorted_by_file_and_line(write: Callable[[str, str], Path]) -> None:
    one = write("one.yaml", "bindings:\n  - {source: x, destination: z}\nqueues: {amq.a: {}}\n")
    two = write("two.yaml", "queues: {b: {durable: 1}}\n")
    with pytest.raises(TopologyError) as caught:
        load(one, two)
    assert [(each.where.file, each.where.line) for each in caught.value.problems] == [
        (str(one), 2), (str(one), 2), (str(one), 3), (str(two), 1),
    ]  # fmt: skip
    assert caught.value.message == "4 problems in 2 files"


def test_a_file_that_cannot_be_read_does_not_hide_the_problems_of_the_others(write: Callable[[str, str], Path]) -> None:
    one = write("one.yaml", "queues: {b: {durable: 1}}\nbindings: [{source: in-the-missing-file, destination: b}]\n")
    with pytest.raises(DocumentError) as caught:
        load(one.with_name("none.yaml"), one)
    assert [each.message for each in caught.value.problems] == [
        "the file cannot be read: No such file or directory",
        "durable of queue 'b' is the number 1, but should be true or false",
    ]


def cpu_seconds_to_load(size: int) -> float:
    queues = "".join(f"  q{n}: {{type: quorum, arguments: {{x-max-length: 10}}}}\n" for n in range(size))
    bindings = "".join(f"  - {{source: e, destination: q{n % size}, routing_key: a.{n}.b}}\n" for n in range(10 * size))
    begin = time.process_time()
    topology = loads(f"exchanges: {{e: {{type: topic}}}}\nqueues:\n{queues}bindings:\n{bindings}")
    assert (len(topology.queues), len(topology.bindings)) == (size, 10 * size)
    return time.process_time() - begin


def test_the_time_to_load_a_topology_grows_linearly_with_its_size() -> None:
    cpu_seconds_to_load(10)  # imports what is loaded lazily
    assert cpu_seconds_to_load(640) < 32 * cpu_seconds_to_load(80)  # 8 times the size: quadratic would be 64


@pytest.mark.parametrize("text", ["bindings:\n" + "- x\n" * 100_000, "queues:\n" + " a: {}\n" * 100_000])
def test_a_file_full_of_problems_is_refused_with_the_first_of_them(text: str) -> None:
    with pytest.raises(DocumentError) as caught:
        loads(text)
    assert len(caught.value.problems) <= 1001


_NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1, max_size=60).filter(
    lambda name: not name.startswith("amq.") and len(name.encode()) <= 255
)
_LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(exclude_categories=["Cs"]))
)
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3), max_leaves=5
)


@given(
    st.dictionaries(
        _NAMES,
        st.fixed_dictionaries(
            {"durable": st.booleans(), "arguments": st.dictionaries(_NAMES.map("my-{}".format), _VALUES, max_size=3)}
        ),
        max_size=3,
    )
)
def test_any_queue_that_the_broker_accepts_is_read_unchanged(queues: dict[str, dict[str, object]]) -> None:
    text = json.dumps({"queues": queues}).replace("${", "$${")  # JSON is YAML, but for characters beyond 16 bits
    pairs = re.compile(r"\\u(d[89ab]..)\\u(d[c-f]..)")
    topology = loads(pairs.sub(lambda pair: f"\\U{ord(json.loads(chr(34) + pair[0] + chr(34))):08X}", text))
    assert {each.name: {"durable": each.durable, "arguments": each.arguments} for each in topology.queues} == queues


def test_the_schema_is_valid_and_describes_every_field() -> None:
    Draft202012Validator.check_schema(json.loads(schema_text()))
    described = [schema(), *schema()["$defs"].values()]
    while described:
        each = described.pop()
        assert each["title"]
        assert each["description"].endswith(".")
        described += each.get("properties", {}).values()


def test_the_schema_agrees_with_the_loader_on_the_cases() -> None:
    """An editor that follows the schema shows no error where the loader has none."""
    import yaml  # noqa: PLC0415 - the oracle

    for path in example_names().values():
        assert not [*Draft202012Validator(schema()).iter_errors(yaml.safe_load(path.read_text("utf-8")))]


def test_the_shipped_topologies_fit_together_and_are_found_by_name() -> None:
    assert list(example_names()) == [
        "headers",
        "offline",
        "orders",
        "priority",
        "pubsub",
        "quorum",
        "retry",
        "routing",
        "rpc",
        "sharded",
        "single_active",
        "stream",
        "super_stream",
        "topics",
        "work",
    ]
    together = load(*example_names().values())
    assert len(together.queues) == sum(len(load(path).queues) for path in example_names().values())
    assert load(find("work")).publish == Target("", "worker_queue")
    with pytest.raises(DocumentError, match="Available: headers, offline"):
        find("wrok")


@pytest.mark.parametrize("path", example_names().values(), ids=lambda path: path.stem)
def test_a_shipped_topology_shows_a_learner_the_three_commands(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.startswith("# yaml-language-server: $schema=../rmqkit/topology/schema.json\n")
    assert f"rmqkit apply topologies/{path.name}" in text
    into, out_of = ("call", "serve") if path.stem == "rpc" else ("publish", "consume")
    assert f"rmqkit {into} " in text
    assert f"rmqkit {out_of} " in text
    assert load(path).publish


def test_loading_the_loader_does_not_load_jsonschema() -> None:
    code = "import sys, rmqkit.topology.file.loader; sys.exit('jsonschema' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_topologies_made_in_python_are_merged_and_checked_as_files_are() -> None:
    shipped = load(Path(__file__).parents[2] / "topologies" / "work.yaml")
    more = Topology(queues=(Queue("audit", retry=Retry((1000,), then="parked")), Queue("parked")))
    merged = rmqkit.merge(shipped, more)
    assert {each.name for each in merged.queues} >= {each.name for each in (*shipped.queues, *more.queues)}
    assert merged.files == shipped.files
    assert rmqkit.merge(merged) == merged == rmqkit.loads(rmqkit.to_yaml(merged))
    assert rmqkit.merge() == Topology()
    for wrong, text in (
        ([Topology(queues=(Queue("a"),)), Topology(queues=(Queue("a", durable=False),))], "topology 2:"),
        ([Topology(queues=(Queue("a", retry=Retry((1,), then="a")),))], "topology 1:"),
        ([Topology(bindings=(Binding("nowhere", "q"),))], "nowhere"),
        ([Topology(vhost="a"), Topology(vhost="b")], "different virtual hosts"),
    ):
        with pytest.raises(rmqkit.TopologyError) as raised:
            rmqkit.merge(*wrong)
        assert text in str(raised.value)
