"""What was applied last is found again, and nothing that goes wrong with it is an error."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from rmqkit.cli import remembered
from rmqkit.model import Target, Topology
from rmqkit.settings import Settings, load_settings

WORK = Topology(publish=Target("orders", "order.eu"))


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def settings(url: str) -> Settings:
    return load_settings([url])


def test_a_target_is_remembered_for_broker_and_virtual_host_whoever_logs_in(state: Path) -> None:
    remembered.remember(settings("amqp://u:c4n4ry@h/v"), WORK, ["a.yaml"])
    found = remembered.recall(settings("amqp://other:p@h:5672/v,amqp://u:p@i"))
    assert found == remembered.Remembered(Target("orders", "order.eu"), ("a.yaml",))
    assert remembered.recall(settings("amqp://u:p@h/w")) is None
    assert remembered.recall(settings("amqp://u:p@h:5673/v")) is None
    (file,) = (each for each in state.rglob("*") if each.is_file())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "c4n4ry" not in file.read_text()


def test_every_name_of_the_loopback_is_one_broker() -> None:
    remembered.remember(settings("amqp://127.0.0.1/"), WORK, [])
    assert remembered.recall(settings("amqp://localhost")) == remembered.recall(settings("amqp://[::1]"))
    assert remembered.recall(settings("amqp://localhost")) is not None


def test_the_topology_applied_last_counts_also_when_it_has_no_target() -> None:
    where = settings("amqp://h")
    remembered.remember(where, WORK, [])
    remembered.remember(where, Topology(), ["b.yaml"])
    assert remembered.recall(where) == remembered.Remembered(None, ("b.yaml",))


def test_a_virtual_host_with_the_longest_name_is_remembered() -> None:
    where = settings("amqp://h/" + "é" * 127)
    remembered.remember(where, WORK, [])
    assert remembered.recall(where) is not None


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\xff\0", b"[]", b"{}", b'{"publish": 1, "files": []}', b'{"publish": {}, "files": []}', b"[" * 99999],
)
def test_garbage_is_ignored_with_a_warning(state: Path, capsys: pytest.CaptureFixture[str], garbage: bytes) -> None:
    where = settings("amqp://h")
    remembered.remember(where, WORK, [])
    (file,) = (each for each in state.rglob("*") if each.is_file())
    file.write_bytes(garbage)
    assert remembered.recall(where) is None
    assert capsys.readouterr().err.startswith("warning: ")


def test_a_state_folder_that_cannot_be_written_is_a_warning(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state / "rmqkit").write_text("a file where a folder should be")
    remembered.remember(settings("amqp://h"), WORK, [])
    assert "warning: " in capsys.readouterr().err
    assert remembered.recall(settings("amqp://h")) is None
    assert list(state.iterdir()) == [state / "rmqkit"]
