"""`rmqkit init`: the shipped topologies as files of the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rmqkit.topology.examples import example_names
from tests.support.cli import rmqkit


def test_each_shipped_topology_is_written_with_its_scenarios_and_contracts_and_is_valid(tmp_path: Path) -> None:
    for name in example_names():
        written = json.loads(rmqkit("init", name, "shop", "--json", folder=tmp_path).stdout)["written"]
        assert f"shop/{name}.yaml" in written
        assert rmqkit("validate", f"shop/{name}.yaml", folder=tmp_path).returncode == 0
        assert "yaml-language-server" not in (tmp_path / f"shop/{name}.yaml").read_text()
        if f"shop/{name}.test.yaml" in written:
            assert rmqkit("test", f"shop/{name}.test.yaml", folder=tmp_path).returncode == 0
    assert (tmp_path / "shop/orders.schema.json").exists()


def test_the_path_in_the_help_of_other_commands_is_the_one_that_init_writes(tmp_path: Path) -> None:
    missing = rmqkit("apply", "topologies/work.yaml", folder=tmp_path)
    assert "the file cannot be read: No such file or directory\n  `rmqkit init work` writes it." in missing.stderr
    assert "rmqkit init" not in rmqkit("apply", "work.yaml", folder=tmp_path).stderr
    done = rmqkit("init", "work", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "topologies/work.yaml\n")
    assert "`rmqkit apply topologies/work.yaml`" in done.stderr


def test_no_file_is_replaced_unless_forced_and_then_all_are(tmp_path: Path) -> None:
    own = tmp_path / "topologies/topics.test.yaml"
    own.parent.mkdir()
    own.write_text("mine")
    refused = rmqkit("init", "topics", folder=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: topologies/topics.test.yaml already exists\n")
    assert [each.name for each in own.parent.iterdir()] == [own.name]
    assert own.read_text() == "mine"
    assert rmqkit("init", "topics", "--force", folder=tmp_path).returncode == 0
    assert own.read_text() != "mine"


def test_without_a_name_the_topologies_are_listed_with_their_purpose() -> None:
    assert "work           Tasks are distributed among workers" in rmqkit("init").stdout
    assert set(json.loads(rmqkit("init", "--json").stdout)) == set(example_names())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nope"], "no example topology 'nope'"),
        (["work", "file/x"], "folder file/x cannot be created: Not a directory"),
    ],
)
def test_an_unknown_topology_and_an_impossible_folder_are_errors(
    tmp_path: Path, arguments: list[str], error: str
) -> None:
    (tmp_path / "file").touch()
    refused = rmqkit("init", *arguments, folder=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {error}\n")
