"""`rmqkit broker`, as a user types it, with a state folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from rmqkit.address import API_PORTS
from rmqkit.node import installation
from rmqkit.node.cluster import Cluster
from rmqkit.node.node import Node

pytestmark = pytest.mark.own_node
Environment = Mapping[str, str]


@pytest.fixture(scope="module")
def environment() -> Iterator[Environment]:
    """The environment of a user who starts nodes; what the tests leave running ends."""
    state = Path(os.environ["RMQKIT_TEST_FOLDER"]) / f"user-{uuid.uuid4().hex[:12]}"
    inherited = {name: value for name, value in os.environ.items() if name not in ("RMQKIT_URL", installation.VARIABLE)}
    yield inherited | {"XDG_STATE_HOME": str(state)}
    Node(state / "rmqkit" / "broker").discard()


@pytest.fixture(scope="module")
def other_rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed RabbitMQ: it is named as one of another version would be."""
    folder = tmp_path_factory.mktemp("rabbitmq")
    (folder / "sbin").symlink_to(installation.find().scripts)
    return folder


@pytest.fixture(scope="module")
def running(environment: Environment, other_rabbitmq: Path) -> Environment:
    """The environment of a user whose node runs, of a RabbitMQ in a folder."""
    named = {**environment, installation.VARIABLE: "/nonexistent"}  # the option comes before it
    broker(named, "start", "--port", "0", "--rabbitmq", str(other_rabbitmq))
    return environment


def broker(environment: Environment, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from rmqkit.cli import main; main()", "broker", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


def status(environment: Environment) -> dict[str, Any]:
    return dict(json.loads(broker(environment, "status", "--json").stdout))


@pytest.mark.parametrize("command", ["env", "logs", "ctl"])
def test_without_a_node_the_error_explains_how_to_start_one(tmp_path: Path, command: str) -> None:
    done = broker(os.environ | {"XDG_STATE_HOME": str(tmp_path)}, command, code=4)
    assert done.stdout == ""  # nothing that a shell would evaluate
    assert "rmqkit broker start" in done.stderr


def test_without_a_node_status_has_an_exit_code_and_stop_is_not_an_error(tmp_path: Path) -> None:
    nobody = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    assert "not running" in broker(nobody, "status", code=4).stdout
    assert "No node is running" in broker(nobody, "stop").stderr


def test_a_second_start_reports_the_running_node(running: Environment) -> None:
    pid = status(running)["pid"]
    assert "is already running" in broker(running, "start").stderr
    assert status(running)["pid"] == pid


def test_env_lets_a_shell_and_its_commands_use_the_node(running: Environment) -> None:
    exported = broker(running, "env").stdout
    shown = subprocess.run(
        ["sh", "-c", f'{exported}\nprintf %s "$RMQKIT_URL"'], capture_output=True, text=True, check=True
    )
    assert shown.stdout == status(running)["url"]


def test_the_http_api_of_the_node_is_found_on_any_port(running: Environment) -> None:
    found = status(running)
    assert urlsplit(found["management_url"]).port != API_PORTS["http"]
    assert "rmqkit broker env" in broker(running, "start").stderr
    command = [sys.executable, "-c", "from rmqkit.cli import main; main()", "status", "--json", "-u", found["url"]]
    environment = {name: value for name, value in running.items() if name != "RMQKIT_API_URL"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["queues"]) == (0, []), done.stderr


def test_ctl_passes_everything_on_and_has_rabbitmqctls_exit_code(running: Environment) -> None:
    names = broker(running, "ctl", "-q", "list_vhosts", "name", "--no-table-headers")
    assert names.stdout.split() == ["/"]
    usage = 64  # EX_USAGE of sysexits.h
    assert "list_nonsense" in broker(running, "ctl", "list_nonsense", code=usage).stderr


def test_logs_are_the_nodes_own(running: Environment) -> None:
    lines = broker(running, "logs", "-n", "3").stdout.splitlines()
    assert len(lines) == 3
    assert Path(str(status(running)["log"])).read_text().find(lines[0]) > 0


def test_a_node_stops_and_starts_on_its_port_with_its_data_and_its_rabbitmq(
    running: Environment, other_rabbitmq: Path
) -> None:
    before = status(running)
    broker(running, "ctl", "-q", "add_vhost", "kept")
    assert "Stopped" in broker(running, "stop").stderr
    assert "not running" in broker(running, "status", code=4).stdout
    assert str(before["url"]) in broker(running, "start").stdout
    assert "kept" in broker(running, "ctl", "-q", "list_vhosts").stdout.split()
    assert Node(Path(status(running)["folder"]))._load_state().rabbitmq == str(other_rabbitmq)


@pytest.fixture(scope="module")
def clustered() -> Iterator[Environment]:
    """The environment of a user whose cluster of three runs."""
    state = Path(os.environ["RMQKIT_TEST_FOLDER"]) / f"user-{uuid.uuid4().hex[:12]}"
    environment = {**os.environ, "XDG_STATE_HOME": str(state)}
    broker(environment, "start", "--nodes", "3", "--port", "0")
    yield environment
    Cluster(state / "rmqkit" / "cluster").discard()


@pytest.mark.timeout(300)
def test_three_nodes_are_one_cluster_that_outlives_the_death_of_one_and_a_stop(clustered: Environment) -> None:
    before = status(clustered)
    nodes, cluster = before["nodes"], Cluster(Path(before["folder"]))
    assert [node["running"] for node in nodes] == [True] * 3
    assert len({node[name] for node in nodes for name in ("port", "pid", "url", "management_url")}) == 12
    last = nodes[2]["name"]
    seen = json.loads(broker(clustered, "ctl", "-q", "-n", last, "cluster_status", "--formatter", "json").stdout)
    assert sorted(seen["running_nodes"]) == [node["name"] for node in nodes]
    logs = broker(clustered, "logs", "-n", "1").stdout
    assert all(f"==> {node['log']} <==" in logs for node in nodes)
    assert f"RMQKIT_URL={','.join(node['url'] for node in nodes)} " in broker(clustered, "env").stdout
    assert "is already running" in broker(clustered, "start").stderr
    assert "rmqkit broker stop" in broker(clustered, "start", "--nodes", "1", code=4).stderr
    assert "has 3 nodes" in broker(clustered, "start", "--nodes", "5", code=4).stderr

    cluster.nodes[0].kill()
    assert "not running" in broker(clustered, "status", code=3).stdout
    broker(clustered, "ctl", "-q", "add_vhost", "kept")  # the next node is asked
    broker(clustered, "start")
    assert [node.pid for node in cluster.nodes][1:] == [node["pid"] for node in nodes][1:]

    assert "Stopped" in broker(clustered, "stop").stderr
    broker(clustered, "status", code=4)
    broker(clustered, "start")  # as many as last time
    assert [node["url"] for node in status(clustered)["nodes"]] == [node["url"] for node in nodes]
    assert "kept" in broker(clustered, "ctl", "-q", "list_vhosts").stdout.split()


def test_a_running_node_keeps_its_rabbitmq(running: Environment, other_rabbitmq: Path, tmp_path: Path) -> None:
    assert Node(Path(status(running)["folder"]))._load_state().rabbitmq == str(other_rabbitmq)
    assert broker(running, "ctl", "version").returncode == 0  # of the RabbitMQ that runs
    assert "stop it with" in broker(running, "start", "--rabbitmq", str(tmp_path), code=4).stderr


def test_a_folder_without_rabbitmq_is_named(tmp_path: Path) -> None:
    nobody = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state"), "RMQKIT_RABBITMQ": str(tmp_path / "none")}
    assert f"no RabbitMQ in {tmp_path / 'none'}" in broker(nobody, "start", code=4).stderr


def test_an_even_number_of_nodes_is_bad_usage(tmp_path: Path) -> None:
    said = broker(os.environ | {"XDG_STATE_HOME": str(tmp_path)}, "start", "--nodes", "2", code=2).stderr
    assert "--nodes must be odd" in said
