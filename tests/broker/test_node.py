"""The promises of the private node, each kept by a real one."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pika
import pytest

from rmqkit.errors import NodeError
from rmqkit.node import installation
from rmqkit.node.cluster import Cluster
from rmqkit.node.node import Node
from tests.support.nodes import evaluate, wait_until_on_disk
from tests.support.queues import declare, open_channel

pytestmark = pytest.mark.own_node
StartNode = Callable[[], Node]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A node's folder; whatever the test leaves running in it ends."""
    yield tmp_path / "node"
    Node(tmp_path / "node").discard()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is not a node's."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    yield process
    process.communicate()


def test_a_started_node_accepts_logins_and_a_second_start_leaves_it_alone(node: Node) -> None:
    pika.BlockingConnection(pika.URLParameters(node.url)).close()
    before = node.pid
    assert node.start().pid == before != 0


def test_two_nodes_run_side_by_side_each_with_a_cookie_that_only_its_owner_can_read(
    node: Node, own_node: StartNode
) -> None:
    other = own_node()
    assert node.url != other.url
    for each in (node, other):
        assert evaluate(each, "os:getpid()") == f'"{each.pid}"'
    cookies = [each.folder / "home" / ".erlang.cookie" for each in (node, other)]
    assert [stat.S_IMODE(cookie.stat().st_mode) for cookie in cookies] == [0o400, 0o400]
    assert cookies[0].read_text() != cookies[1].read_text()
    family = _family(other)
    assert len(family) >= 3
    other.discard()
    assert _gone_within(5.0, family)
    assert not other.folder.exists()


def test_messages_and_ports_survive_a_stop_that_leaves_no_process(node: Node) -> None:
    url, family = node.url, _family(node)
    _publish(url, "stopped", b"still here")
    assert node.stop() is True
    assert _gone_within(5.0, family)
    assert node.stop() is False
    assert (node.status().running, node.pid) == (False, 0)
    node.start()
    assert node.url == url
    assert _get(url, "stopped") == b"still here"


def test_confirmed_messages_survive_kill_9(node: Node) -> None:
    _publish(node.url, "killed", b"still here")
    wait_until_on_disk(node)
    url, pid = node.url, node.pid
    node.kill()
    assert not _exists(pid)
    assert not node.status().running
    node.start()
    assert node.url == url
    assert _get(url, "killed") == b"still here"


def test_every_listener_is_on_loopback(node: Node) -> None:
    listeners = _listeners(_family(node))
    assert len({port for _, port in listeners}) == 4  # AMQP, management, distribution, epmd
    assert {address for address, _ in listeners} <= {"127.0.0.1", "::1"}


def test_a_process_that_has_the_id_of_a_dead_node_is_never_signalled(
    folder: Path, stranger: subprocess.Popen[bytes]
) -> None:
    node = Node(folder)
    folder.mkdir()
    ports = {"amqp": 5672, "management": 15672, "distribution": 25672, "epmd": 4369}
    stale = {"pid": stranger.pid, "started": "an earlier process"}
    (folder / "node.json").write_text(json.dumps({"ports": ports, "version": "", "broker": stale, "epmd": stale}))
    assert node.status().running is False
    assert node.stop() is False
    node.kill()
    assert stranger.poll() is None


def test_a_port_in_use_is_named_in_the_error(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(NodeError, match=f"port {port} is not available"):
            Node(folder).start(port)
    assert Node(folder).pid == 0


def test_another_port_for_a_running_node_is_an_error_with_advice(node: Node) -> None:
    with pytest.raises(NodeError, match="already running") as caught:
        node.start(port=5999)
    assert "rmqkit broker stop" in caught.value.advice


def test_the_error_for_a_node_that_exits_while_starting_shows_the_end_of_its_log(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / installation.Identity(folder).name).write_text("a file where a folder must be")
    with pytest.raises(NodeError, match="exited while starting") as caught:
        Node(folder).start(port=0)
    assert "Full log: " in caught.value.advice
    assert len(caught.value.advice.splitlines()) > 1
    assert Node(folder).pid == 0


def test_a_node_that_cannot_start_leaves_nothing_of_its_cluster(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster")
    (tmp_path / "cluster" / "rmqkit-3").mkdir(parents=True)
    (tmp_path / "cluster" / "rmqkit-3" / "data").write_text("a file where a folder must be")
    with pytest.raises(NodeError, match="is unusable"):
        cluster.start(port=0)
    assert _within(5.0, lambda: not _of(tmp_path / "cluster"))
    cluster.discard()


def test_a_start_that_takes_too_long_leaves_nothing(folder: Path) -> None:
    with pytest.raises(NodeError, match=r"did not accept logins within 0\.5 s"):
        Node(folder).start(port=0, timeout_s=0.5)
    assert _ends(folder)


def test_a_start_interrupted_half_way_leaves_nothing(folder: Path) -> None:
    command = subprocess.Popen(_command(folder), stderr=subprocess.DEVNULL)
    assert _within(20.0, lambda: Node(folder).pid != 0)
    command.send_signal(signal.SIGINT)
    assert command.wait(90) != 0
    assert _ends(folder)


def test_two_starts_at_once_start_one_node(folder: Path) -> None:
    commands = [subprocess.Popen(_command(folder), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    pids = {command.communicate(timeout=90)[0] for command in commands}
    assert pids == {f"{Node(folder).pid}\n"}


def test_an_unusable_folder_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NodeError, match="is unusable") as caught:
        Node(tmp_path / "file" / "node").start(port=0)
    assert str(tmp_path / "file") in caught.value.message


def test_a_missing_rabbitmq_is_an_error_with_instructions(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(installation, "_search_path", lambda: str(tmp_path))
    monkeypatch.setattr(installation, "_WRAPPED", tmp_path)
    monkeypatch.delenv(installation.VARIABLE, raising=False)
    with pytest.raises(NodeError, match="not installed") as caught:
        Node(folder).start(port=0)
    assert "apt install rabbitmq-server" in caught.value.advice
    assert "RMQKIT_URL" in caught.value.advice


def test_no_root_is_needed() -> None:
    folder = Path(tempfile.mkdtemp(prefix="rmqkit-test-nobody-"))  # tmp_path is closed to other users
    python, option, code = _command(folder / "node")
    imports, start = code.rsplit("; ", 1)
    if os.geteuid() == 0:  # become nobody once all is imported: the interpreter may be closed to other users too
        os.chown(folder, 65534, 65534)
        imports += "; import encodings.idna, os; os.setgroups([]); os.setgid(65534); os.setuid(65534)"
    code = f"{imports}; {start}"
    try:
        pid = int(subprocess.run([python, option, code], capture_output=True, text=True, check=True).stdout)
        assert Path(f"/proc/{pid}").stat().st_uid != 0
    finally:
        Node(folder / "node").discard()
        folder.rmdir()


def _command(folder: Path) -> list[str]:
    """Return a command that starts a node in the folder and prints its process id."""
    code = (
        f"from pathlib import Path; from rmqkit.node.node import Node; print(Node(Path({str(folder)!r})).start(0).pid)"
    )
    return [sys.executable, "-c", code]


def _publish(url: str, queue: str, body: bytes) -> None:
    with open_channel(url) as channel:
        declare(channel, queue)
        channel.confirm_delivery()
        channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2), mandatory=True)


def _get(url: str, queue: str) -> bytes | None:
    with open_channel(url) as channel:
        body: bytes | None = channel.basic_get(queue)[2]
        return body


def _family(node: Node) -> set[int]:
    """Return the ids of the node's processes: those whose environment names its folder."""
    return _of(node.folder)


def _of(folder: Path) -> set[int]:
    mark = f"HOME={folder}/home\0".encode()
    return {int(process.name) for process in Path("/proc").glob("[0-9]*") if mark in _bytes(process / "environ")}


def _listeners(pids: set[int]) -> set[tuple[str, int]]:
    """Return the addresses and ports that the processes listen on (proc(5), /proc/net/tcp)."""
    ours = set()
    for file in [file for pid in pids for file in Path(f"/proc/{pid}/fd").glob("*")]:
        with suppress(FileNotFoundError):  # closed in the meantime; a listener stays open
            ours.add(str(file.readlink()))
    rows = [line.split() for table in ("tcp", "tcp6") for line in _lines(Path("/proc/net", table))]
    listening = "0A"
    found = [row[1].split(":") for row in rows if row[3] == listening and f"socket:[{row[9]}]" in ours]
    return {(_address(hexadecimal), int(port, 16)) for hexadecimal, port in found}


def _address(hexadecimal: str) -> str:
    """Read an address as the kernel prints it: words of four bytes, each in the machine's byte order."""
    words = [int(hexadecimal[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(hexadecimal), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def _lines(table: Path) -> list[str]:
    return table.read_text().splitlines()[1:] if table.exists() else []  # no tcp6: no IPv6


def _exists(pid: int) -> bool:
    return _bytes(Path(f"/proc/{pid}/cmdline")) != b""


def _gone_within(timeout_s: float, pids: set[int]) -> bool:
    return _within(timeout_s, lambda: not any(map(_exists, pids)))


def _ends(folder: Path) -> bool:
    return _within(5.0, lambda: not _family(Node(folder)))


def _within(timeout_s: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
