"""A schema's folder: all that the schema may refer to."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from rmqkit.errors import Location, PayloadError, Problem


class SchemaFiles:
    """Reads a schema file and those beside it; `problems` are what libraries that call back would not pass on."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.folder = Path(os.path.abspath(file)).parent  # noqa: PTH100 - `..` goes, and links stay

    @property
    def uri(self) -> str:
        """Return the address of the file."""
        return (self.folder / self.file.name).as_uri()

    def refuse(self, about: Path | str, message: str, advice: str = "") -> None:
        """Note a problem of a file as a whole."""
        self.problems.append(Problem(Location(str(about)), message, advice))

    def read(self, file: Path) -> bytes | None:
        """Return what is in a file; None, and a problem, if it cannot be read."""
        try:
            return file.read_bytes()
        except OSError as exc:
            self.refuse(file, f"the schema cannot be read: {exc.strerror}")
        return None

    def beside(self, address: str, base: str) -> Path | None:
        """Return the file that an address means, one in the folder that `base` is, with a slash, the address of.

        Return None, and note a problem, if it means any other.
        """
        name = address.removeprefix(base)
        if not (self.folder / name).exists():
            name = unquote(name)
        path = Path(os.path.normpath(self.folder / name))
        if not address.startswith(base) or not path.is_relative_to(self.folder):
            message = f"it refers to {address}, which is not beside it"
            self.refuse(self.file, message, "Put the file into the schema's folder, and refer to it by its name.")
            return None
        return self.file.parent / path.relative_to(self.folder)  # as the user calls it

    def raise_problems(self) -> None:
        """Raise PayloadError if there are problems."""
        if self.problems:
            raise PayloadError("Bad schema", problems=dict.fromkeys(self.problems))
