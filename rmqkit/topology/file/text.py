"""Read files as text, and build the errors of those that cannot be read."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from rmqkit.errors import DocumentError, Location, Problem
from rmqkit.plural import plural

MAX_BYTES = 5_000_000  # some 70,000 bindings

# Characters that YAML cannot hold unescaped (YAML 1.1 section 5.1), surrogates included.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read_text(path: str | Path, limit: int = MAX_BYTES) -> str:
    """Read a file; raise DocumentError if it cannot be read, has more than `limit` bytes, or is not UTF-8."""
    file = str(path)
    try:
        status = Path(path).stat()
        if stat.S_ISDIR(status.st_mode):
            raise fatal(Location(file), "this is a directory, not a file", "Name the files in it.")
        content = b""
        if status.st_size <= limit:
            with Path(path).open("rb") as stream:
                content = stream.read(limit + 1)
    except OSError as error:
        advice = _advise_init(Path(path)) if isinstance(error, FileNotFoundError) else ""
        raise fatal(Location(file), f"the file cannot be read: {error.strerror or error}", advice) from error
    except ValueError as error:  # a NUL in the path
        raise fatal(Location(file), f"invalid path: {error}") from error
    if max(status.st_size, len(content)) > limit:
        raise fatal(Location(file), f"the file is larger than {limit:,} bytes", "Check that this is the right file.")
    return _decode(content, file)


def _advise_init(path: Path) -> str:
    from rmqkit.topology.examples import example_names  # noqa: PLC0415 - start-up time: only if a file is missing

    is_shipped = path.parts == ("topologies", path.name) and path.name.partition(".")[0] in example_names()
    return f"`rmqkit init {path.name.partition('.')[0]}` writes it." if is_shipped else ""


def _decode(content: bytes, file: str) -> str:
    """Decode a file; a byte order mark of UTF-8 is allowed, as some editors write one."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise fatal(Location(file, 1, 1), "the file is UTF-16, not UTF-8", "Save it as UTF-8.")
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        where = Location(file).after(content[: error.start].decode("utf-8"))
        message = f"the byte 0x{content[error.start]:02x} is not UTF-8"
        raise fatal(where, message, "Save the file as UTF-8; it may be Latin-1.") from error


def check_characters(text: str, file: str) -> None:
    """Raise DocumentError if the text has a character that YAML does not allow."""
    if forbidden := _FORBIDDEN.search(text):
        message = f"the character U+{ord(forbidden[0]):04X} is not allowed in YAML"
        advice = 'Check that this is a text file; in double quotes the character can be escaped, like "\\x07".'
        raise fatal(Location(file).after(text[: forbidden.start()]), message, advice)


def fatal(where: Location, message: str, advice: str = "") -> DocumentError:
    """Return the error for a problem that ends the reading of a file."""
    return failed([Problem(where, message, advice)])


def failed(problems: list[Problem]) -> DocumentError:
    """Return the error for a file with problems."""
    return DocumentError(headline(problems), problems=problems)


def headline(problems: list[Problem]) -> str:
    """Count the problems, and name their file or count the files."""
    files = {problem.where.file for problem in problems}
    count = plural(len(problems), "problem")
    return f"{files.pop()}: {count}" if len(files) == 1 else f"{count} in {len(files)} files"
