"""Rows: CSV with a header line, or JSON lines.

CSV is that of RFC 4180, in UTF-8: commas between fields, and double quotes around a field that holds a comma, a line
end or a quote, which is doubled. JSON lines are objects. The file's name tells which of the two it is, or else the
first character: `{` begins JSON. Empty lines are skipped.
"""

from __future__ import annotations

import codecs
import json
import re
from pathlib import PurePath
from typing import Any, NamedTuple

from rmqkit.errors import Location, PayloadError
from rmqkit.payload import formats

MAX_ROW_BYTES = 16 * 1024 * 1024  # an unclosed quote would otherwise swallow the rest of the input
_JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}
_QUOTED = re.compile(r'"((?:[^"]++|"")*+)"')
_PLAIN = re.compile(r'[^",]*+')


class Row(NamedTuple):
    """The fields of a row by name, where it begins, and its line if that is JSON."""

    fields: dict[str, Any]
    where: Location
    line: bytes | None = None

    def as_json(self) -> bytes:
        """Return the row as a JSON object."""
        return json.dumps(self.fields, ensure_ascii=False).encode() if self.line is None else self.line


class RowReader:
    """Assembles lines into rows. `names` are the fields that all rows have, none for JSON lines; None until known."""

    def __init__(self, name: str) -> None:
        self.names: tuple[str, ...] | None = None
        self._name = name
        self._is_json: bool | None = None
        self._unfinished: list[bytes] = []  # lines of a row with an open quote
        self._size = 0

    def read(self, line: bytes, number: int) -> Row | None:
        """Return the row that ends with this line, if one does. Raises PayloadError with the place of a fault."""
        if self._is_json is None:
            line = line.removeprefix(codecs.BOM_UTF8)  # Excel's CSV begins with one
            self._is_json = PurePath(self._name).suffix.lower() in _JSON_SUFFIXES or line.startswith(b"{")
            self.names = () if self._is_json else None
        if self._is_json:
            return _parse_json(line, Location(self._name, number, 1)) if line.strip() else None
        was_open = bool(self._unfinished)
        self._unfinished.append(line)
        self._size += len(line)
        if was_open == (line.count(b'"') % 2 == 0):  # still in quotes: all before had an odd number of them
            if self._size > MAX_ROW_BYTES:
                self.finish(number)
            return None
        record, number = b"\n".join(self._unfinished), number - len(self._unfinished) + 1
        self._unfinished, self._size = [], 0
        return self._parse_csv(record.removesuffix(b"\r"), Location(self._name, number, 1))

    def finish(self, number: int) -> None:
        """Note that the input ended after this line. Raises PayloadError if a row is incomplete."""
        if self._unfinished:
            where = Location(self._name, number - len(self._unfinished) + 1, 1)
            raise _error(where, "a double quote in this row is not closed")

    def _parse_csv(self, record: bytes, where: Location) -> Row | None:
        text = formats.decode(record, where, "CSV")
        if not text:
            return None
        values = text.split(",") if '"' not in text else _split(text, where)
        if self.names is None:
            _check_header(values, where)
            self.names = tuple(values)
            return None
        if len(values) != len(self.names):
            raise _error(where, f"{len(values)} fields; the header has {len(self.names)}")
        return Row(dict(zip(self.names, values, strict=True)), where)


def _parse_json(line: bytes, where: Location) -> Row:
    fields = json.loads(formats.check_json(line, where))
    if not isinstance(fields, dict):
        raise _error(where, 'a row is an object, like {"id": 1}')
    return Row(fields, where, line)


def _split(text: str, where: Location) -> list[str]:
    values = []
    position = 0
    while True:
        if quoted := _QUOTED.match(text, position):
            values.append(quoted[1].replace('""', '"'))
            position = quoted.end()
        else:
            plain = _PLAIN.match(text, position)
            values.append(plain[0] if plain else "")
            position += len(values[-1])
        if position == len(text):
            return values
        if text[position] != ",":
            raise _error(
                where.after(text[:position]), "expected a comma after the field; a quote inside quotes is doubled"
            )
        position += 1


def _check_header(names: list[str], where: Location) -> None:
    if "" in names:
        raise _error(where, f"field {names.index('') + 1} of the header has no name")
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise _error(where, f"the header has {duplicate!r} twice")


def _error(where: Location, message: str) -> PayloadError:
    return formats.error_at(where, message, summary="Bad row")
