"""The folder of a schema, which holds every file the schema may refer to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from rmqkit.errors import Location, PayloadError, Problem

T = TypeVar("T")


class SchemaFiles:
    """Reads a schema file and those in its folder.

    It collects `problems`: the libraries that call it back would not pass an exception on.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.folder = Path(os.path.abspath(file)).parent  # noqa: PTH100 - resolves `..`, but not links
        self.uri = (self.folder / file.name).as_uri()

    def refuse(self, about: Path | str, message: str, advice: str = "") -> None:
        """Record a problem of a file as a whole."""
        self.problems.append(Problem(Location(str(about)), message, advice))

    def read(self, file: Path, parse: Callable[[bytes, Location], T]) -> T | None:
        """Return a parsed file; None, and record a problem, if it cannot be read or `parse` raises PayloadError."""
        try:
            return parse(file.read_bytes(), Location(str(file)))
        except OSError as exc:
            self.refuse(file, f"the schema cannot be read: {exc.strerror}")
        except PayloadError as exc:
            self.problems += exc.problems
        return None

    def resolve(self, address: str, base: str) -> Path | None:
        """Return the file of an address; `base`, which ends with a slash, is the address of the folder.

        Return None, and record a problem, if the file is not in the folder.
        """
        name = address.removeprefix(base)
        if not os.path.exists(self.folder / name):  # noqa: PTH110 - never fails
            name = unquote(name)
        path = Path(os.path.normpath(self.folder / name))
        if not address.startswith(base) or not path.is_relative_to(self.folder):
            message = f"it refers to {address}, which is not in its folder"
            self.refuse(self.file, message, "Put the file into the schema's folder, and refer to it by its name.")
            return None
        return self.file.parent / path.relative_to(self.folder)  # named as the user does

    def raise_problems(self) -> None:
        """Raise PayloadError if there are problems."""
        if self.problems:
            raise PayloadError("Bad schema", problems=dict.fromkeys(self.problems))
