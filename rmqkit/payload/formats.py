"""JSON, XML, text or binary: the content type of a body, and checks that it has that format."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import PurePath
from typing import Any, NamedTuple, NoReturn

from rmqkit import strict_json
from rmqkit.errors import Location, PayloadError, Problem

Check = Callable[[bytes, Location], None]
"""Refuses an invalid body; the location is that of its first byte. Raises PayloadError."""


class Format(Enum):
    """The declared format of bodies; all but BINARY are checked."""

    JSON = "json"
    XML = "xml"
    TEXT = "text"
    BINARY = "binary"


class ContentType(NamedTuple):
    """The properties `content_type` and `content_encoding`; None means not set."""

    type: str
    encoding: str | None = None


TEXT = ContentType("text/plain", "utf-8")
BINARY = ContentType("application/octet-stream")
_CONTENT_TYPES = {
    Format.JSON: ContentType("application/json", "utf-8"),
    Format.XML: ContentType("application/xml"),  # an XML document names its encoding itself
    Format.TEXT: TEXT,
    Format.BINARY: BINARY,
}
_SMALL = 1024 * 1024  # characters; a larger text is checked without building its value: slower, but in no memory
_CHECKED_SUFFIXES = {".json": Format.JSON, ".xml": Format.XML}


def format_of(name: str) -> Format | None:
    """Return the checked format that a file's suffix promises, if any."""
    return _CHECKED_SUFFIXES.get(PurePath(name).suffix.lower())


def content_type(body: bytes, format: Format | None, name: str = "") -> ContentType:  # noqa: A002 - the flag's word
    """Return a body's content type: by its format, else by the file's name, else text if it is UTF-8 or binary."""
    if format is not None:
        return _CONTENT_TYPES[format]
    guessed, encoding = _guess(name) if name else (None, None)
    if guessed is None:
        return TEXT if _is_utf8(body) else BINARY
    if encoding is None and guessed.startswith("text/") and _is_utf8(body):
        encoding = "utf-8"
    return ContentType(guessed, encoding)


def check(body: bytes, format: Format | None, where: Location) -> None:  # noqa: A002 - the flag's word
    """Refuse a body that is not of its format; None and BINARY accept any bytes.

    `where` is the place of the body's first byte. Raises PayloadError with one problem, placed where the fault is.
    """
    if format is Format.JSON:
        check_json(body, where)
    elif format is Format.XML:
        check_xml(body, where)
    elif format is Format.TEXT:
        decode(body, where, "text")


def check_json(body: bytes, where: Location) -> str:
    """Refuse JSON that RFC 8259 forbids or parsers read differently; return the text. Raises PayloadError."""
    text = decode(body, where, "JSON")
    if len(text) <= _SMALL:
        with suppress(ValueError, RecursionError):
            strict_json.read(text)
            return text
    _check_json(text, where)
    return text


def read_json(body: bytes, where: Location) -> tuple[str, Any]:
    """Refuse JSON as `check_json` does; return the text and its value."""
    text = decode(body, where, "JSON")
    with suppress(ValueError, RecursionError):
        return text, strict_json.read(text)
    _check_json(text, where)
    return text, json.loads(text)


def _check_json(text: str, where: Location) -> None:
    if fault := strict_json.find_fault(text):
        raise error_at(where.after(text[: fault.position]), f"not JSON: {fault.message}")


def check_xml(body: bytes, where: Location) -> None:
    """Refuse XML that is not well-formed, and any DOCTYPE: without one there are no entities. Raises PayloadError."""
    from xml.parsers import expat  # noqa: PLC0415 - lazy; nothing is built, fetched or expanded: see no_doctype

    parser = expat.ParserCreate()

    def no_doctype(*_: object) -> NoReturn:
        raise ValueError("a DOCTYPE is not allowed: it can define entities that grow without bound or read files")

    parser.StartDoctypeDeclHandler = no_doctype
    try:
        parser.Parse(body, True)  # noqa: FBT003 - expat takes no keyword
    except expat.ExpatError as exc:
        line, column, message = exc.lineno, exc.offset, expat.ErrorString(exc.code)
    except (ValueError, LookupError) as exc:  # LookupError: the declaration names an encoding that does not exist
        line, column, message = parser.CurrentLineNumber, parser.CurrentColumnNumber, str(exc)
    else:
        return
    fault = Location(where.file, (where.line or 1) + line - 1, column + 1)
    raise error_at(fault, f"not well-formed XML: {message}")


def decode(body: bytes, where: Location, kind: str) -> str:
    """Decode UTF-8. Raises PayloadError with the place of the first byte that is not."""
    try:
        return body.decode()
    except UnicodeDecodeError as exc:
        raise error_at(
            where.after(body[: exc.start].decode()), f"not UTF-8, which {kind} must be ({exc.reason})"
        ) from None


def error_at(where: Location, message: str, advice: str = "", *, summary: str = "Bad payload") -> PayloadError:
    """Return an error with one problem."""
    return PayloadError(summary, problems=[Problem(where, message, advice)])


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _guess(name: str) -> tuple[str | None, str | None]:
    import mimetypes  # noqa: PLC0415 - lazy: most publishing is not from files

    if known := format_of(name):
        return _CONTENT_TYPES[known]
    # Python's own table alone: the machine's /etc/mime.types would make the result differ from host to host.
    return mimetypes.MimeTypes().guess_type(PurePath(name).name)
