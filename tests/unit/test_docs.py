"""The reference pages say what the code does."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from rmqkit.cli.command_table import COMMANDS
from rmqkit.topology.file.loader import loads
from rmqkit.topology.lint.rule import rules

DOCS = Path(__file__).parents[2] / "docs"


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate, record = _script("generate"), _script("record")


@pytest.mark.parametrize("name", generate.PAGES)
def test_a_generated_page_is_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text("utf-8") == generate.page(name), "run python docs/generate.py"


def test_every_page_is_on_the_site() -> None:
    assert generate.unlisted() == []
    places = [place for _, _, place in generate.nav()]
    assert len(places) == len(set(places))


def test_the_example_of_the_topology_reference_is_valid() -> None:
    text = (DOCS / "topology-reference.md").read_text("utf-8")
    example = text.split("```yaml\n")[1].split("```")[0]
    assert loads(example).publish


def test_pages_that_count_the_mistakes_found_by_validate_are_right() -> None:
    for page in (DOCS.parent / "README.md", DOCS / "README.md"):
        assert re.findall(r"(\d+) kinds of", page.read_text()) == [str(len(rules()))], page
    assert f" and {len(rules()) - 2} other mistakes " in (DOCS.parent / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("page", ["security.md", "reliability.md", "lint.md"])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    tests = "".join(file.read_text() for file in (DOCS.parent / "tests").rglob("test_*.py"))
    promised = re.findall(r"`(test_\w+)`", (DOCS / page).read_text())
    assert promised
    assert [name for name in promised if f"def {name}(" not in tests] == []


def test_every_recorded_terminal_is_shown_and_its_commands_stand_in_its_page() -> None:
    shown = "".join(page.read_text() for page in (DOCS.parent / "README.md", *DOCS.rglob("*.md")))
    for name, recording in record.RECORDINGS.items():
        commands = [command for file, command in record.steps(recording) if not file]
        assert [each for each in recording.commands if each not in commands] == [], f"{name}: change docs/record.py"
        assert f"pictures/{name}.svg)" in shown
    drawn = {file.stem for file in (DOCS / "pictures").glob("*.svg")}
    assert drawn == set(record.RECORDINGS), "run make pictures, and remove what docs/record.py no longer names"


def test_a_command_that_fails_unexpectedly_is_not_recorded(tmp_path: Path) -> None:
    page, command = tmp_path / "page.md", "rmqkit validate nothing.yaml"
    recording = record.Recording(str(page), (command,))

    page.write_text(f"```console\n$ {command}\n[exit 2]\n$ rmqkit version\n```\n")
    assert "nothing.yaml" in record.play(recording, "", "", tmp_path / "expected")

    page.write_text(f"```console\n$ {command}\n$ rmqkit version\n[exit 2]\n```\n")
    with pytest.raises(SystemExit, match="exited with 2, not 0"):
        record.play(recording, "", "", tmp_path / "unexpected")


def test_every_pattern_and_every_command_but_a_few_has_a_recorded_terminal() -> None:
    lines = [line for recording in record.RECORDINGS.values() for line in (*recording.commands, recording.screen)]
    recorded = set(re.findall(r"\brmqkit ([\w-]+)", "\n".join(lines)))
    few = {"broker", "convert", "graph", "route", "schema", "subscribe", "test", "unsubscribe"}
    assert set(COMMANDS) - recorded - few == set(), "add a recording to docs/record.py"
    patterns = {f"docs/patterns/{page.name}" for page in (DOCS / "patterns").glob("*.md")} - {"docs/patterns/README.md"}
    assert patterns - {recording.page for recording in record.RECORDINGS.values()} == set()


def test_a_picture_needs_nothing_from_other_hosts() -> None:
    for file in (*DOCS.glob("pictures/*.svg"), *DOCS.glob("curves/*.svg")):
        drawing = re.sub(r"(<text[^>]*>)[^<]*", r"\1", file.read_text()).replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"(?:https?:)?//[^\s\"')]+", drawing) == [], file.name
