"""A retry becomes waiting queues, and is written, drawn and exported as what it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmqkit.errors import TopologyError
from rmqkit.model import Queue, Retry, Target, Topology
from rmqkit.plan import Outcome
from rmqkit.topology.comparison import compare
from rmqkit.topology.dead_letters import dead_letter
from rmqkit.topology.diagram import graph, mermaid_dot
from rmqkit.topology.diagram.text_tree import tree
from rmqkit.topology.file.definitions import not_in_definitions, to_definitions
from rmqkit.topology.file.loader import load, loads
from rmqkit.topology.file.writer import to_yaml
from rmqkit.topology.lint.linter import lint
from rmqkit.topology.retry import MAX_DELAY_MS, collapse, delay_text, expand, for_broker, parse_delay
from rmqkit.topology.routing import route

FILE = "queues:\n  orders: {type: quorum, retry: {delays: [5s, 90s, 5s], then: parked}}\n  parked: {}\n"


@given(st.integers(1, MAX_DELAY_MS))
def test_a_delay_is_written_as_it_is_read(delay_ms: int) -> None:
    assert parse_delay(delay_text(delay_ms)) == delay_ms


@pytest.mark.parametrize(("text", "delay_ms"), [("500ms", 500), ("5s", 5000), ("2m", 120_000), ("1h", 3_600_000)])
def test_a_delay_has_one_shortest_text(text: str, delay_ms: int) -> None:
    assert (parse_delay(text), delay_text(delay_ms)) == (delay_ms, text)


def test_each_delay_is_a_queue_that_returns_its_messages() -> None:
    topology = loads(FILE)
    assert [each.name for each in topology.queues] == ["orders", "orders.retry.5s", "orders.retry.90s", "parked"]
    assert topology.queues[0].retry == Retry((5000, 90_000, 5000), "parked")
    assert topology.queues[2].arguments == {
        "x-queue-type": "quorum",
        "x-message-ttl": 90_000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "orders",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    first = route(topology, Target("", "orders.retry.90s"))
    assert dead_letter(topology, first, "orders.retry.90s", "expired").queues == ("orders",)


@pytest.mark.parametrize("kind", ["", "type: classic, "])
def test_a_waiting_queue_has_the_type_and_lifetime_of_its_queue(kind: str) -> None:
    written = FILE.replace("type: quorum, ", f"{kind}durable: false, exclusive: true, ")
    waiting = loads(written).queues[1]
    assert (waiting.durable, waiting.exclusive) == (False, True)
    assert waiting.arguments.get("x-queue-type", "") == ("classic" if kind else "")
    assert not {"x-dead-letter-strategy", "x-overflow"} & waiting.arguments.keys()


def test_a_retry_built_in_python_expands_like_one_from_a_file_and_only_once() -> None:
    made = Topology(
        queues=(
            Queue("orders", arguments={"x-queue-type": "quorum"}, retry=Retry((5000, 90_000, 5000), "parked")),
            Queue("parked"),
        )
    )
    assert expand(made) == loads(FILE) == expand(expand(made))
    assert collapse(expand(made)) == made


def test_a_written_file_has_the_retry_and_not_its_waiting_queues() -> None:
    assert to_yaml(loads(FILE)) == FILE


def test_a_queue_that_only_looks_like_a_waiting_queue_is_written() -> None:
    other = Queue("orders.retry.5s")
    topology = expand(Topology(queues=(Queue("orders", retry=Retry((5000,), "parked")), other, Queue("parked"))))
    assert topology.queues[1] == other
    assert "orders.retry.5s: {}" in to_yaml(topology)


def test_a_broker_with_the_waiting_queues_equals_the_topology() -> None:
    topology = loads(FILE)
    live = Topology(queues=tuple(Queue(each.name, arguments=each.arguments) for each in topology.queues))
    assert {each.outcome for each in compare(topology, live)} == {Outcome.UNCHANGED}


NATIVE = "queues:\n  orders: {type: quorum, retry: {delays: [5s, 10s], then: parked, native: true}}\n  parked: {}\n"


def test_a_native_retry_is_arguments_since_rabbitmq_4_3_and_waiting_queues_before() -> None:
    topology = loads(NATIVE)
    assert [each.name for each in topology.queues] == ["orders", "parked"]
    assert to_yaml(topology) == NATIVE
    newest = for_broker(topology, (4, 3, 6))
    assert newest.queues[0].arguments == {
        "x-queue-type": "quorum",
        "x-delayed-retry-type": "failed",
        "x-delayed-retry-min": 5000,
        "x-delayed-retry-max": 10_000,
    }
    assert newest.queues[1:] == topology.queues[1:]
    assert for_broker(newest, (4, 3, 6)) == newest
    assert for_broker(topology, (4, 2, 9)) == loads(NATIVE.replace(", native: true", ""))


def test_a_diagram_shows_that_a_queue_with_a_native_retry_delays_messages_itself() -> None:
    lines = ["".join(text for text, _ in line) for line in tree(graph.build_diagram(loads(NATIVE)))]
    assert lines[1:3] == ["├─ orders  quorum, redelivered after 5 seconds", "│  └─ try 3 failed → parked"]


def test_definitions_contain_the_waiting_queues_and_report_the_lost_retry() -> None:
    topology = loads(FILE)
    assert [each["name"] for each in to_definitions(topology)["queues"]] == [each.name for each in topology.queues]
    assert not_in_definitions(topology) == ("the retries",)


def test_a_diagram_shows_the_queue_of_each_try() -> None:
    picture = graph.build_diagram(loads(FILE))
    lines = ["".join(text for text, _ in line) for line in tree(picture)]
    assert "│  ├─ try 1, try 3 failed → orders.retry.5s  quorum, TTL 5 seconds, reject-publish" in lines
    assert "│  └─ try 4 failed → parked" in lines
    assert '-.->|"failed<br/>try 2"| n2' in mermaid_dot.mermaid(picture)
    assert '[label="failed\\ntry 2", style=dashed]' in mermaid_dot.dot(picture)


def test_a_queue_in_which_retries_end_may_drop_messages() -> None:
    assert lint(loads(FILE.replace("parked: {}", "parked: {arguments: {x-message-ttl: 60000}}"))) == ()


def test_two_files_agree_on_a_retry_or_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("files")
    same, other = folder / "same.yaml", folder / "other.yaml"
    same.write_text(FILE.replace("90s", "90000ms"))
    other.write_text(FILE.replace("90s", "91s"))
    assert load(same, same) == loads(FILE)
    with pytest.raises(TopologyError) as caught:
        load(same, other)
    assert caught.value.problems[0].message == f"queue 'orders' is declared differently in {same}:2:3"


def test_the_name_of_a_waiting_queue_must_not_be_too_long() -> None:
    with pytest.raises(TopologyError) as caught:
        loads(FILE.replace("orders", "o" * 250))
    assert "259 bytes of UTF-8" in caught.value.problems[0].message
