"""What was applied last is found again, and nothing that goes wrong with it is an error."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from rmqkit.cli import last_applied
from rmqkit.errors import Location
from rmqkit.model import Contract, Exchange, Policy, Queue, Retry, Target, Topology
from rmqkit.settings import Settings, load_settings
from tests.support.cli import Run
from tests.support.queues import drain

WORK = Topology(publish=Target("orders", "order.eu"))


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def settings(url: str) -> Settings:
    return load_settings([url])


def test_a_target_is_saved_per_broker_and_virtual_host(state: Path) -> None:
    last_applied.remember(settings("amqp://u:c4n4ry@h/v"), WORK, ["a.yaml"])
    found = last_applied.recall(settings("amqp://other:p@h:5672/v,amqp://u:p@i"))
    assert found == last_applied.LastApplied(Target("orders", "order.eu"), ("a.yaml",))
    assert last_applied.recall(settings("amqp://u:p@h/w")) is None
    assert last_applied.recall(settings("amqp://u:p@h:5673/v")) is None
    (file,) = (each for each in state.rglob("*") if each.is_file())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "c4n4ry" not in file.read_text()


def test_all_loopback_names_are_one_broker() -> None:
    last_applied.remember(settings("amqp://127.0.0.1/"), WORK, [])
    assert last_applied.recall(settings("amqp://localhost")) == last_applied.recall(settings("amqp://[::1]"))
    assert last_applied.recall(settings("amqp://localhost")) is not None


RETRY = Topology(queues=(Queue("q", contract=Contract("json", "/q"), retry=Retry((5,), "parked")), Queue("parked")))


def test_the_entities_of_other_files_are_remembered_with_their_files() -> None:
    where = settings("amqp://h")
    last_applied.remember(where, RETRY, ["a.yaml"])
    last_applied.remember(where, Topology(queues=(Queue("other"),)), ["b.yaml"])
    found = last_applied.recall(where)
    assert found is not None
    assert (found.retries, found.queues) == ({"q": Retry((5,), "parked")}, {"q": Contract("json", "/q")})
    assert found.dead_letters == {"q": None, "parked": None, "other": None}
    assert [found.files_of(Target("", each)) for each in ("q", "other")] == ["a.yaml", "b.yaml"]


def test_an_entity_that_is_applied_again_is_remembered_as_it_is_now_and_one_that_is_destroyed_is_not() -> None:
    where = settings("amqp://h")
    last_applied.remember(where, RETRY, ["a.yaml"])
    last_applied.remember(where, Topology(queues=(Queue("q"),), publish=Target("", "q")), ["b.yaml"])
    found = last_applied.recall(where)
    assert found is not None
    assert (found.retries, found.queues, found.target) == ({}, {}, Target("", "q"))
    assert found.files_of(Target("", "q")) == "b.yaml"
    last_applied.forget(where, Topology(queues=(Queue("q"),), publish=Target("", "q")))
    assert last_applied.recall(where) == last_applied.LastApplied(
        None, (), dead_letters={"parked": None}, sources={"queue parked": ("a.yaml",)}
    )


def test_a_topology_without_a_target_replaces_the_one_before() -> None:
    where = settings("amqp://h")
    last_applied.remember(where, WORK, [])
    last_applied.remember(where, Topology(), ["b.yaml"])
    assert last_applied.recall(where) == last_applied.LastApplied(None, ("b.yaml",))


def test_a_virtual_host_with_the_longest_name_is_saved() -> None:
    where = settings("amqp://h/" + "é" * 127)
    last_applied.remember(where, WORK, [])
    assert last_applied.recall(where) is not None


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff\0",
        b"[]",
        b"{}",
        b'{"publish": 1, "files": []}',
        b'{"publish": {}, "files": []}',
        b'{"publish": null, "files": [], "queues": {"q": 1}}',
        b'{"publish": null, "files": [], "dead_letters": []}',
        b'{"publish": null, "files": [], "dead_letters": {"q": 0}}',
        b"[" * 99999,
    ],
)
def test_garbage_is_ignored_with_a_warning(state: Path, capsys: pytest.CaptureFixture[str], garbage: bytes) -> None:
    where = settings("amqp://h")
    last_applied.remember(where, WORK, [])
    (file,) = (each for each in state.rglob("*") if each.is_file())
    file.write_bytes(garbage)
    assert last_applied.recall(where) is None
    assert capsys.readouterr().err.startswith("warning: ")


def test_a_state_folder_that_cannot_be_written_is_a_warning(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state / "rmqkit").write_text("a file where a folder should be")
    last_applied.remember(settings("amqp://h"), WORK, [])
    assert "warning: " in capsys.readouterr().err
    assert last_applied.recall(settings("amqp://h")) is None
    assert list(state.iterdir()) == [state / "rmqkit"]


def test_contracts_are_saved_with_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contract = Contract("json", "../a.json", Location("topologies/x.yaml", 1, 1))
    dead = {"x-dead-letter-exchange": "failures"}
    topology = Topology(
        exchanges=(Exchange("orders", contract=contract), Exchange("plain")),
        queues=(
            Queue("billing", contract=Contract("xml", "/b.xsd")),
            Queue("dead", arguments=dead),
            Queue("by.policy"),
        ),
        policies=(Policy("p", "^by", {"dead-letter-exchange": "", "dead-letter-routing-key": "parked"}),),
    )
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    where = settings("amqp://h")
    last_applied.remember(where, topology, [])
    monkeypatch.chdir("/")
    found = last_applied.recall(where)
    assert found is not None
    assert found.exchanges == {"orders": Contract("json", str(tmp_path / "project" / "a.json"))}
    assert found.queues == {"billing": Contract("xml", "/b.xsd")}
    ways = {"billing": None, "dead": Target("failures"), "by.policy": Target("", "parked")}
    assert found.dead_letters == ways
    assert {name: found.failure_target(name) for name in ways} == ways


def test_the_end_of_a_retry_is_the_failure_target() -> None:
    where = settings("amqp://h")
    retry = Retry((500, 500, 60_000), "parked")
    queue = Queue("q", arguments={"x-dead-letter-exchange": "failures"}, retry=retry)
    last_applied.remember(where, Topology(queues=(queue, Queue("parked"))), [])
    found = last_applied.recall(where)
    assert found is not None
    assert found.retries == {"q": retry}
    assert found.failure_target("q") == Target("", "parked")


def test_an_unreadable_policy_pattern_is_ignored() -> None:
    where = settings("amqp://h")
    queue = Queue("q", arguments={"x-dead-letter-exchange": "failures"})
    last_applied.remember(where, Topology(queues=(queue,), policies=(Policy("p", "(?|a|b)", {"max-length": 1}),)), [])
    found = last_applied.recall(where)
    assert found is not None
    assert found.dead_letters == {"q": Target("failures")}


def test_the_file_of_an_older_version_is_read() -> None:
    where = settings("amqp://h")
    last_applied.remember(where, WORK, ["a.yaml"])
    (file,) = (each for each in Path(os.environ["XDG_STATE_HOME"]).rglob("*.json"))
    kept = json.loads(file.read_bytes())
    file.write_text(json.dumps({name: kept[name] for name in ("broker", "files", "publish")}))
    assert last_applied.recall(where) == last_applied.LastApplied(Target("orders", "order.eu"), ("a.yaml",))


def test_a_queue_is_retried_after_another_file_was_applied_and_not_after_it_was_destroyed(
    live: Run, vhost_channel: BlockingChannel, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text("queues:\n  orders: {retry: {delays: [100ms], then: parked}}\n  parked: {}\n")
    (tmp_path / "b.yaml").write_text("queues:\n  other: {}\n")
    for name in "ab":
        assert live("apply", tmp_path / f"{name}.yaml").returncode == 0
    vhost_channel.basic_publish("", "orders", b"order 1")
    ended = live("consume", "orders", "--exec", "false", "-n", 2)
    assert f"the retry of queue 'orders' in {tmp_path / 'a.yaml'}" in ended.stderr
    assert (ended.returncode, drain(vhost_channel, "parked")) == (8, [b"order 1"]), ended.stderr

    assert live("destroy", "--force", tmp_path / "a.yaml").returncode == 0
    vhost_channel.queue_declare("orders", durable=True)
    vhost_channel.basic_publish("", "orders", b"order 2")
    ended = live("consume", "orders", "--exec", "false")
    assert "queue 'orders' has neither a retry nor a dead-letter exchange" in ended.stderr
    assert (ended.returncode, drain(vhost_channel, "orders")) == (8, [b"order 2"]), ended.stderr
