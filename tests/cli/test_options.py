"""Shared options: one dataclass a group, for Typer as for the command."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from rmqkit.address import Tls
from rmqkit.cli import private_node
from rmqkit.cli.options import ConnectionOptions, grouped
from rmqkit.errors import SettingsError, Unreachable
from rmqkit.node.node import Node


@dataclass(frozen=True)
class Colors:
    red: Annotated[int, typer.Option("--red")] = 1
    green: Annotated[str | None, typer.Option("--green")] = None


def test_a_group_becomes_options_and_the_command_gets_the_dataclass() -> None:
    got: list[tuple[str, Colors, bool]] = []

    @grouped
    def command(name: str, colors: Colors, *, flag: bool = False) -> None:
        """Do it."""
        got.append((name, colors, flag))

    assert list(inspect.signature(command).parameters) == ["name", "red", "green", "flag"]
    assert command.__doc__ == "Do it."
    app = typer.Typer()
    app.command()(command)
    assert CliRunner().invoke(app, ["x", "--red", "5", "--flag"]).exit_code == 0
    assert CliRunner().invoke(app, ["y", "--green", "g"]).exit_code == 0
    assert got == [("x", Colors(5), True), ("y", Colors(1, "g"), False)]


def test_the_broker_options_become_settings() -> None:
    broker = ConnectionOptions(["amqps://u:p@h/x,amqps://u:p@i/x"], vhost="v", tls_insecure=True)
    settings = broker.settings()
    assert [address.key for address in settings.addresses] == ["h:5671/v", "i:5671/v"]
    assert settings.tls == Tls(insecure=True)
    with pytest.raises(SettingsError):
        ConnectionOptions(["amqp://u@h"]).settings()


def test_a_node_of_the_user_is_named_only_while_it_runs(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert private_node.advice() == ""
    state = tmp_path / "rmqkit" / "broker" / "node.json"
    state.parent.mkdir(parents=True)
    state.symlink_to(node.folder / "node.json")
    assert f"port {node.status().port}" in private_node.advice()
    assert 'eval "$(rmqkit broker env)"' in private_node.advice()
    known = json.loads(state.read_text())
    known["broker"]["started"] = "an earlier process"
    state.unlink()
    state.write_text(json.dumps(known))
    assert private_node.advice() == ""


def test_a_refused_connection_to_an_explicit_address_has_the_general_advice() -> None:
    with pytest.raises(Unreachable) as caught:
        ConnectionOptions(["amqp://127.0.0.1:1/"]).connect()
    assert "rmqkit broker start" in caught.value.advice
