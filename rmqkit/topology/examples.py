"""Find the topologies that are shipped with rmqkit."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from rmqkit.errors import DocumentError


def example_names() -> dict[str, Path]:
    """Return the shipped topologies by name, in alphabetical order, without their scenarios."""
    package = Path(str(files("rmqkit")))
    inside, beside = package / "topologies", package.parent / "topologies"  # a wheel; a checkout
    folder = inside if inside.is_dir() else beside
    return {path.stem: path for path in sorted(folder.glob("*.yaml")) if path.suffixes == [".yaml"]}


def find(name: str) -> Path:
    """Return the file of a shipped topology; raise DocumentError for an unknown name."""
    known = example_names()
    if name not in known:
        raise DocumentError(f"no example topology {name!r}", advice=f"Available: {', '.join(known)}.")
    return known[name]


def description(path: Path) -> str:
    """Return what a shipped topology is for, in a sentence."""
    found = re.search(r"^description: (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return found[1] if found else ""


def text(path: Path) -> str:
    """Return the text of a shipped file without the path of its schema, which holds only next to rmqkit's own files."""
    return re.sub(r"\A# yaml-language-server: .*\n#\n", "", path.read_text("utf-8"))
