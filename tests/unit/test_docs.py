"""The reference pages say what the code does."""

import importlib.util
import re
from pathlib import Path

import pytest

from rmqkit.topology.file.loader import loads

DOCS = Path(__file__).parents[2] / "docs"
_spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
assert _spec
assert _spec.loader
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)


@pytest.mark.parametrize("name", generate.PAGES)
def test_a_generated_page_is_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text("utf-8") == generate.page(name), "run python docs/generate.py"


def test_the_example_of_the_topology_reference_is_valid() -> None:
    text = (DOCS / "topology-reference.md").read_text("utf-8")
    example = text.split("```yaml\n")[1].split("```")[0]
    assert loads(example).publish


@pytest.mark.parametrize("page", ["security.md", "reliability.md", "lint.md"])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    tests = "".join(file.read_text() for file in (DOCS.parent / "tests").rglob("test_*.py"))
    promised = re.findall(r"`(test_\w+)`", (DOCS / page).read_text())
    assert promised
    assert [name for name in promised if f"def {name}(" not in tests] == []
