"""Variables in topology files, and the virtual host that files name."""

from pathlib import Path

import pytest
import yaml

from rmqkit.errors import DocumentError, InputError, TopologyError
from rmqkit.model import Topology, Variable
from rmqkit.topology.file.loader import load, load_by_vhost, loads
from rmqkit.topology.file.scenarios import load as load_scenarios

ENVIRON = {"STAGE": "test", "TTL": "60000", "DURABLE": "false", "EMPTY": "", "WORD": "on", "TEXT": "a: {b}, #c"}


def arguments(*values: str) -> list[object]:
    lines = [f"      x-{number}: {value}" for number, value in enumerate(values)]
    (queue,) = loads("\n".join(["queues:", "  q:", "    arguments:", *lines]), environ=ENVIRON).queues
    return list(queue.arguments.values())


def test_a_variable_has_its_value_from_the_environment_or_its_default() -> None:
    assert arguments("orders.${STAGE}", "${NONE:-a b}", "${EMPTY:-c}", '"${EMPTY}"', "${TEXT}") == [
        "orders.test", "a b", "c", "", "a: {b}, #c",
    ]  # fmt: skip


def test_an_unquoted_variable_alone_is_a_number_or_boolean_and_any_other_is_text() -> None:
    assert arguments("${TTL}", "${DURABLE}", '"${TTL}"', "'${TTL}'", "${STAGE}0", "${TTL}0", "${WORD}", "${EMPTY}") == [
        60000, False, "60000", "60000", "test0", "600000", "on", None,
    ]  # fmt: skip


def test_two_dollar_signs_write_a_literal_variable() -> None:
    assert arguments("$${STAGE}", "$$${STAGE}", "$STAGE", "$$", "a$${b") == [
        "${STAGE}",
        "$${STAGE}",
        "$STAGE",
        "$$",
        "a${b",
    ]


@pytest.mark.parametrize("text", ["$\ue000x\ue001", '"$\\ue000x\\ue001"', '"$\\U0000E000"'])
def test_characters_of_private_use_stay_as_they_are(text: str) -> None:
    topology = loads(f"queues: {{a: {{arguments: {{b: {text}, c: ${{X:-1}}}}}}}}", environ={})
    assert topology.queues[0].arguments == {"b": yaml.safe_load(text), "c": 1}


def test_variables_are_resolved_in_names_and_inside_braces() -> None:
    text = "queues: {${STAGE}.q: {arguments: {x-expires: ${TTL}}}}\n"
    topology = loads(f"{text}bindings: [{{source: amq.topic, destination: ${{STAGE}}.q}}]", environ=ENVIRON)
    assert [(each.name, dict(each.arguments)) for each in topology.queues] == [("test.q", {"x-expires": 60000})]
    assert topology.bindings[0].destination == "test.q"


def test_a_topology_has_its_variables_by_name_and_tells_secrets_by_theirs() -> None:
    text = 'description: "${STAGE} ${NONE:-5} ${STAGE} ${DB_PASSWORD}"\nqueues: {q: {}}'
    found = loads(text, environ=ENVIRON | {"DB_PASSWORD": "canary"}).variables
    assert found == (
        Variable("DB_PASSWORD", "canary", "environment"),
        Variable("NONE", "5", "default"),
        Variable("STAGE", "test", "environment"),
    )
    assert [each.is_secret for each in found] == [True, False, False]
    assert "canary" not in repr(found)


def test_a_variable_without_a_value_is_an_error_with_its_place() -> None:
    with pytest.raises(DocumentError) as caught:
        loads("queues:\n  q: {arguments: {x-expires: ${NONE}}}", "a.yaml", environ=ENVIRON)
    (problem,) = caught.value.problems
    assert str(problem.where) == "a.yaml:2:30"
    assert problem.message == "variable NONE is not set"


def test_scenarios_use_variables_as_their_topology_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGE", "test")
    (tmp_path / "a.yaml").write_text("queues: {${STAGE}.q: {}}")
    (tmp_path / "a.test.yaml").write_text(
        "topology: a.yaml\nscenarios: {s: {publish: {exchange: '', routing_key: ${STAGE}.q}, expect: [${STAGE}.q]}}"
    )
    (scenario,) = load_scenarios(str(tmp_path / "a.test.yaml"))
    assert scenario.cases[0].queues == ("test.q",)


def test_files_are_merged_by_virtual_host(tmp_path: Path) -> None:
    texts = {"a": "vhost: shop\nqueues: {a: {}}", "b": "queues: {b: {}}", "c": "vhost: shop\nqueues: {c: {}}"}
    files = []
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
        files.append(str(tmp_path / f"{name}.yaml"))
    shop, rest = load_by_vhost(*files)
    assert [(each.vhost, [queue.name for queue in each.queues]) for each in (shop, rest)] == [
        ("shop", ["a", "c"]), (None, ["b"]),
    ]  # fmt: skip
    assert shop.files == (files[0], files[2])
    with pytest.raises(TopologyError, match=r"different virtual hosts: 'shop' .*; that of the URL"):
        load(*files)


def test_no_file_is_an_empty_topology() -> None:
    assert load() == Topology()


@pytest.mark.parametrize("vhost", ['""', "5", f'"{"é" * 128}"', "[a]"])
def test_a_virtual_host_is_a_name(vhost: str) -> None:
    with pytest.raises(InputError, match=r"virtual host|vhost"):
        loads(f"vhost: {vhost}\nqueues: {{q: {{}}}}")
