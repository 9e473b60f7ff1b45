"""`rmqkit convert`: definitions and topology files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rmqkit.topology.file.loader import load
from tests.support.cli import rmqkit

DEFINITIONS = {
    "users": [{"name": "guest"}],
    "exchanges": [{"name": "orders", "type": "topic", "vhost": "shop"}],
    "queues": [{"name": "billing", "vhost": "shop"}, {"name": "elsewhere", "vhost": "/"}],
    "bindings": [{"source": "orders", "destination": "billing", "routing_key": "#", "vhost": "shop"}],
}
YAML = """\
exchanges:
  orders: {type: topic}

queues:
  billing: {}

bindings:
  - {source: orders, destination: billing, routing_key: "#"}
"""


def convert(folder: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return rmqkit("convert", *arguments, folder=folder, stdin=stdin)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "d.json").write_text(json.dumps(DEFINITIONS))
    (tmp_path / "t.yaml").write_text(f"description: Orders\n{YAML}")
    (tmp_path / "empty.json").touch()
    return tmp_path


def test_definitions_become_a_file_and_omissions_are_listed(folder: Path) -> None:
    done = convert(folder, "d.json", "new.yaml", "--vhost", "shop")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "",
        "Converting virtual host 'shop'.\nNot converted: 1 user.\n",
    )
    assert (folder / "new.yaml").read_text() == YAML


def test_converting_back_and_forth_through_pipes_changes_nothing(folder: Path) -> None:
    there = convert(folder, "t.yaml", "-", "--vhost", "/")
    assert there.stderr == "Not converted: the description.\n"
    assert {each["vhost"] for section in json.loads(there.stdout).values() for each in section} == {"/"}
    back = convert(folder, "-", "-", "--to", "yaml", stdin=there.stdout)
    assert (back.stdout, back.stderr) == (YAML, "Converting virtual host '/'.\n")


def test_an_existing_file_is_replaced_only_by_force_and_keeps_its_permissions(folder: Path) -> None:
    before = (folder / "t.yaml").read_text()
    (folder / "t.yaml").chmod(0o640)
    (folder / "link.yaml").symlink_to("t.yaml")
    done = convert(folder, "d.json", "link.yaml", "--vhost", "shop")
    assert (done.returncode, (folder / "t.yaml").read_text()) == (2, before)
    assert "already exists" in done.stderr
    assert convert(folder, "d.json", "link.yaml", "--vhost", "shop", "--force").returncode == 0
    assert ((folder / "t.yaml").read_text(), (folder / "t.yaml").stat().st_mode & 0o777) == (YAML, 0o640)
    assert (folder / "link.yaml").is_symlink()


def test_a_device_is_written_to_and_not_replaced(folder: Path) -> None:
    to_device = convert(folder, "t.yaml", "/dev/stdout", "--to", "definitions")
    assert to_device.stdout == convert(folder, "t.yaml").stdout
    assert convert(folder, "t.yaml", "/dev/null", "--force").returncode == 0
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["d.json", "new.yaml"],
            2,
            "d.json has 2 virtual hosts, and a topology describes one\n  Choose with --vhost: /, shop.",
        ),
        (["d.json", "new.json"], 2, "d.json already has the format definitions"),
        (["t.yaml", "new.yml"], 2, "t.yaml already has the format yaml"),
        (["-", "new"], 2, "/dev/stdin: the file is empty"),
        (["t.yaml", "no/folder/new.json"], 2, "new.json cannot be written: No such file or directory"),
        (["t.yaml", "."], 2, ". cannot be written: Is a directory"),
        (["missing.json"], 2, "missing.json: the file cannot be read: No such file or directory"),
        (["t.yaml", "--to", "yaml"], 2, "t.yaml already has the format yaml"),
        (["t.yaml", "/dev/full"], 3, "/dev/full: No space left on device"),
        (["empty.json"], 2, "empty.json:1:1: not JSON"),
    ],
)
def test_a_failed_conversion_leaves_no_file(folder: Path, arguments: list[str], code: int, message: str) -> None:
    before = sorted(folder.iterdir())
    done = convert(folder, *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(folder.iterdir()) == before


def test_a_full_disk_leaves_the_old_file_unchanged(folder: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20));"
    code = (
        f"import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); {limited} from rmqkit.cli import main; main()"
    )
    command = [sys.executable, "-B", "-c", code, "convert", "d.json", "t.yaml", "--vhost", "shop", "--force"]
    before = sorted(folder.iterdir()), (folder / "t.yaml").read_text()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, "t.yaml: File too large; nothing was changed" in done.stderr) == (3, True)
    assert (sorted(folder.iterdir()), (folder / "t.yaml").read_text()) == before


def test_a_topology_that_apply_would_refuse_is_converted_with_a_warning(folder: Path) -> None:
    circle = [{"name": name, "arguments": {"alternate-exchange": other}} for name, other in ("ab", "ba")]
    (folder / "d.json").write_text(json.dumps({"exchanges": circle}))
    done = convert(folder, "d.json", "new.yaml")
    assert done.returncode == 0
    assert "warning: " in done.stderr
    assert "the alternate exchanges form a cycle" in done.stderr
    assert "alternate-exchange: b" in (folder / "new.yaml").read_text()


def test_undeclared_names_become_external(folder: Path) -> None:
    bindings = [{"source": "amq.topic", "destination": "theirs"}]
    (folder / "d.json").write_text(json.dumps({"bindings": bindings}))
    done = convert(folder, "d.json", "new.yaml")
    assert done.stderr == "Not declared there, so listed under external: theirs.\n"
    assert load(folder / "new.yaml").external_queues == ("theirs",)
