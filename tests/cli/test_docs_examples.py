"""The examples of the documentation are run: Python as it stands, consoles command by command, output compared."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Broker
from tests.support.cli import rmqkit

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/README.md",
    "docs/bench.md",
    "docs/coming-from.md",
    "docs/contexts.md",
    "docs/contracts.md",
    "docs/delayed-messages.md",
    "docs/getting-started.md",
    "docs/handlers.md",
    "docs/library.md",
    "docs/browsing.md",
    "docs/life-of-a-topology.md",
    "docs/messages.md",
    "docs/monitoring.md",
    "docs/operations.md",
    "docs/patterns/dead-letters.md",
    "docs/patterns/offline-readers.md",
    "docs/patterns/priority.md",
    "docs/patterns/publish-subscribe.md",
    "docs/patterns/publisher-confirms.md",
    "docs/patterns/request-reply.md",
    "docs/patterns/retry.md",
    "docs/patterns/routing.md",
    "docs/patterns/streams.md",
    "docs/patterns/work-queue.md",
    "docs/scale.md",
    "docs/security.md",
    "docs/testing-topologies.md",
    "docs/upgrading.md",
)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_URL = re.compile(r"amqp://[^\s,]*?(?=[.:,]?(?:\s|$))")
_PLAIN = re.compile(r"""rmqkit( ('[^']*'|"[^"$`\\!]*"|[\w./:@,=+%-])+)+""")  # words that a shell leaves as they are
_LEAVES = re.compile(r"rmqkit (broker|demo)| (--handler|-v|--verbose)\b")  # signal handlers, a module or a log handler
_FILE = re.compile(r"# (\S+\.yaml)\n")


def _blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        text = (ROOT / page).read_text()
        for number, (found, block) in enumerate(_BLOCK.findall(text)):
            if found == language:
                yield f"{page}-{number}", block


def _environment(url: str, api_url: str, place: Path) -> dict[str, str]:
    scripts = str(Path(sys.executable).parent)
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    homes = {f"XDG_{kind}_HOME": str(place / kind.lower()) for kind in ("STATE", "CONFIG")}
    return {**os.environ, **homes, "RMQKIT_URL": url, "RMQKIT_API_URL": api_url, "PATH": path}


def _run(command: list[str], environment: dict[str, str], place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, timeout=30, check=False)


def _run_in_shell(line: str, environment: dict[str, str], place: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of a console; in this process if it needs no shell and leaves nothing in its process."""
    if _PLAIN.fullmatch(line) and not _LEAVES.search(line):
        return rmqkit(*shlex.split(line)[1:], env=environment, folder=place)
    return _run(["bash", "-c", line], environment, place)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder like the project's, that examples may write to."""
    for name in ("topologies", "tests/cases"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("code", [pytest.param(code, id=name) for name, code in _blocks("python")])
def test_an_example_in_python_runs(code: str, broker: Broker, vhost_url: str, place: Path) -> None:
    environment = _environment(vhost_url, broker.api_url, place)
    done = _run([sys.executable, "-W", "error", "-c", code], environment, place)
    assert done.returncode == 0, done.stderr


def _commands(console: str) -> Iterator[tuple[str, int, list[str]]]:
    """Yield each command of a console block, the exit code it is to have, and the lines it is to print."""
    for entry in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, *lines = entry.splitlines()
        code = next((int(line[6:-1]) for line in lines if line.startswith("[exit ")), 0)
        yield command, code, [line for line in lines if line and not line.startswith("[exit ")]


def _comparable(line: str) -> str:
    """Leave out numbers, how wide a column is, and which broker and virtual host the test has."""
    line = re.sub(r"vhost '[^']*'", "vhost", _URL.sub("URL", line))
    return " ".join(_NUMBER.sub("N", line).split())


@pytest.mark.timeout(180)  # a page has some twenty commands
@pytest.mark.parametrize("page", PAGES)
def test_the_console_examples_of_a_page_show_real_output(
    page: str, broker: Broker, vhost_url: str, place: Path
) -> None:
    environment = _environment(vhost_url, broker.api_url, place)
    for language, block in _BLOCK.findall((ROOT / page).read_text()):
        if language == "yaml" and (name := _FILE.match(block)):  # a file, as its first line says
            (place / name[1]).write_text(block)
        for command, code, lines in _commands(block if language == "console" else ""):
            done = _run_in_shell(command, environment, place)
            printed = {_comparable(line) for line in (done.stdout + done.stderr).splitlines()}
            missing = [line for line in lines if _comparable(line) not in printed]
            assert (done.returncode, missing) == (code, []), f"$ {command}\n{done.stdout}{done.stderr}"


def test_every_page_is_reached_from_the_readme_and_every_link_leads_somewhere() -> None:
    pages = {ROOT / "README.md", *(ROOT / "docs").rglob("*.md")}
    linked = set()
    for page in pages:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
            linked.add((page.parent / target).resolve())
    folders = {link for link in linked if link.is_dir()}
    unreached = {p for p in pages if p not in linked and p.parent not in folders and p.name != "README.md"}
    assert [page.name for page in unreached if not page.name.endswith(".intro.md")] == []  # parts of other pages
