"""JSON, XML, text or binary: what a body is called on the wire, and whether it is what it is called."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import PurePath
from typing import Any, NamedTuple, NoReturn

from rmqkit import json_text
from rmqkit.errors import Location, PayloadError, Problem

Check = Callable[[bytes, Location], None]
"""Refuses a body that is not what it should be; the place is that of its first byte. Raises PayloadError."""


class Format(Enum):
    """What the bodies are said to be; all but BINARY are checked."""

    JSON = "json"
    XML = "xml"
    TEXT = "text"
    BINARY = "binary"


class ContentType(NamedTuple):
    """The properties `content_type` and `content_encoding`; none means not set."""

    type: str
    encoding: str | None = None


TEXT = ContentType("text/plain", "utf-8")
BINARY = ContentType("application/octet-stream")
_OF_FORMAT = {
    Format.JSON: ContentType("application/json", "utf-8"),
    Format.XML: ContentType("application/xml"),  # an XML document names its encoding itself
    Format.TEXT: TEXT,
    Format.BINARY: BINARY,
}
_SMALL = 1024 * 1024  # characters; beyond it, checking takes longer, and no memory
_CHECKED_BY_NAME = {".json": Format.JSON, ".xml": Format.XML}


def format_of(name: str) -> Format | None:
    """Return the format a file's name promises, if it is one that can be checked."""
    return _CHECKED_BY_NAME.get(PurePath(name).suffix.lower())


def content_type(body: bytes, format: Format | None, name: str = "") -> ContentType:  # noqa: A002 - the flag's word
    """Say what a body is: by its format, else by the file's name, else text if it is UTF-8 and binary if not."""
    if format is not None:
        return _OF_FORMAT[format]
    guessed, coding = _guess(name) if name else (None, None)
    if guessed is None:
        return TEXT if _is_utf8(body) else BINARY
    if coding is None and guessed.startswith("text/") and _is_utf8(body):
        coding = "utf-8"
    return ContentType(guessed, coding)


def check(body: bytes, format: Format | None, where: Location) -> None:  # noqa: A002 - the flag's word
    """Refuse a body that is not of its format; None and BINARY take any bytes.

    `where` is the place of the body's first byte. Raises PayloadError with one problem, placed where the fault is.
    """
    if format is Format.JSON:
        check_json(body, where)
    elif format is Format.XML:
        check_xml(body, where)
    elif format is Format.TEXT:
        decode(body, where, "text")


def check_json(body: bytes, where: Location) -> str:
    """Refuse what RFC 8259 forbids, and what parsers disagree on; return the text.

    Raises PayloadError: see `json_text.find_fault`.
    """
    text = decode(body, where, "JSON")
    if len(text) > _SMALL:
        _check_json(text, where)
    else:
        _read_json(text, where)
    return text


def read_json(body: bytes, where: Location) -> tuple[str, Any]:
    """Refuse what `check_json` refuses; return the text and its value."""
    text = decode(body, where, "JSON")
    return text, _read_json(text, where)


def _read_json(text: str, where: Location) -> Any:
    with suppress(ValueError, RecursionError):
        return json_text.read(text)
    _check_json(text, where)
    return json.loads(text)


def _check_json(text: str, where: Location) -> None:
    if fault := json_text.find_fault(text):
        refuse(text[: fault.position], where, f"not JSON: {fault.message}")


def check_xml(body: bytes, where: Location) -> None:
    """Refuse what is not well-formed XML, and any DOCTYPE: no entity can be declared without one.

    Raises PayloadError.
    """
    from xml.parsers import expat  # noqa: PLC0415 - lazy; nothing is built, fetched or expanded: see no_doctype

    parser = expat.ParserCreate()

    def no_doctype(*_: object) -> NoReturn:
        raise ValueError("a DOCTYPE is not allowed: it can define entities that grow without end or read files")

    parser.StartDoctypeDeclHandler = no_doctype
    try:
        parser.Parse(body, True)  # noqa: FBT003 - expat takes no keyword
    except expat.ExpatError as exc:
        line, column, message = exc.lineno, exc.offset, expat.ErrorString(exc.code)
    except (ValueError, LookupError) as exc:  # LookupError: the declaration names no encoding there is
        line, column, message = parser.CurrentLineNumber, parser.CurrentColumnNumber, str(exc)
    else:
        return
    place = Location(where.file, (where.line or 1) + line - 1, column + 1)
    raise PayloadError("Bad payload", problems=[Problem(place, f"not well-formed XML: {message}")])


def decode(body: bytes, where: Location, what: str) -> str:
    """Decode UTF-8, or say where it is none. Raises PayloadError."""
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        refuse(body[: exc.start].decode(), where, f"not UTF-8, which {what} has to be ({exc.reason})")
    return text


def refuse(before: str, where: Location, message: str) -> NoReturn:
    """Raise PayloadError, with the fault placed after `before`, the part of the body that is in order."""
    raise PayloadError("Bad payload", problems=[Problem(place(before, where), message)])


def place(before: str, where: Location) -> Location:
    """Return the place after `before`, the begin of a body whose first byte is at `where`."""
    line = (where.line or 1) + before.count("\n")
    column = len(before) - (before.rfind("\n") + 1) + 1
    return Location(where.file, line, column)


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _guess(name: str) -> tuple[str | None, str | None]:
    import mimetypes  # noqa: PLC0415 - lazy: most publishing is not from files

    suffix = PurePath(name).suffix.lower()
    if suffix in _CHECKED_BY_NAME:
        return _OF_FORMAT[_CHECKED_BY_NAME[suffix]]
    # Python's own table alone: the machine's /etc/mime.types would make the result differ from host to host.
    return mimetypes.MimeTypes().guess_type(PurePath(name).name)
