"""The patterns of `rmqkit demo`, which help, completion, errors and tests read: a table in `patterns.yaml`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from rmqkit.topology.file.document import parse


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern and its demo; `patterns.yaml` explains the fields."""

    sentence: str
    topology: str
    count: int
    steps: Sequence[Mapping[str, Any]]
    result: str
    workers: int | None = None
    clustered: bool = False
    shorten: tuple[str, str] | None = None


_TABLE = parse(files(__package__).joinpath("patterns.yaml").read_text("utf-8"), "patterns.yaml").data
PATTERNS: Mapping[str, Pattern] = {name: Pattern(**entry) for name, entry in _TABLE.items()}
