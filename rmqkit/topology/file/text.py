"""A file becomes text."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from rmqkit.errors import DocumentError, Location, Problem

MAX_BYTES = 5_000_000  # some 70,000 bindings

# What YAML cannot hold unescaped (YAML 1.1 section 5.1), surrogates included.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read_text(path: str | Path, limit: int = MAX_BYTES) -> str:
    """Read a file; raise DocumentError if it cannot be read, has more than `limit` bytes, or is not UTF-8."""
    file = str(path)
    try:
        content = _content(Path(path), file, limit)
    except OSError as error:
        raise fatal(Location(file), f"the file cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the path
        raise fatal(Location(file), f"this is no path: {error}") from error
    return _decode(content, file)


def _content(path: Path, file: str, limit: int) -> bytes:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise fatal(Location(file), "this is a folder, not a file", "Name the files in it.")
    if status.st_size <= limit:
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
        if len(content) <= limit:
            return content
    raise fatal(
        Location(file), f"the file is larger than {limit:,} bytes", "A topology is small: is this the right file?"
    )


def _decode(content: bytes, file: str) -> str:
    """Turn bytes into text; a byte order mark of UTF-8 is let pass, as some editors write one."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise fatal(Location(file, 1, 1), "the file is UTF-16, not UTF-8", "Save it as UTF-8.")
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        where = place(content[: error.start].decode("utf-8"), error.start, file)
        message = f"the byte 0x{content[error.start]:02x} is not UTF-8"
        raise fatal(where, message, "Save the file as UTF-8; it may be Latin-1.") from error


def place(text: str, index: int, file: str) -> Location:
    """Return the line and column of a character of the text."""
    before = text[:index]
    return Location(file, before.count("\n") + 1, len(before) - before.rfind("\n"))


def check_characters(text: str, file: str) -> None:
    """Raise DocumentError if YAML does not allow one of the characters."""
    if forbidden := _FORBIDDEN.search(text):
        message = f"the character U+{ord(forbidden[0]):04X} is not allowed in YAML"
        advice = 'Is this a text file? In double quotes it can be written with a backslash, like "\\x07".'
        raise fatal(place(text, forbidden.start(), file), message, advice)


def fatal(where: Location, message: str, advice: str = "") -> DocumentError:
    """Return the error for a file that cannot be read on."""
    return failed([Problem(where, message, advice)])


def failed(problems: list[Problem]) -> DocumentError:
    """Return the error for a file with problems."""
    return DocumentError(headline(problems), problems=problems)


def headline(problems: list[Problem]) -> str:
    """Say how many problems there are, in which file or how many."""
    files = {problem.where.file for problem in problems}
    count = counted(len(problems), "problem")
    return f"{files.pop()}: {count}" if len(files) == 1 else f"{count} in {len(files)} files"


def counted(number: int, noun: str) -> str:
    """Write a number and what it counts: `1 problem`, `2 problems`."""
    return f"{number} {noun}" + ("s" if number != 1 else "")
