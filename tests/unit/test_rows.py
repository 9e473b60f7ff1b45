"""Rows are read as CSV and JSON have them, and a bad one is refused with its place."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmqkit.errors import PayloadError
from rmqkit.payload.rows import Row, RowReader


def _read(data: bytes, name: str = "in") -> list[Row]:
    reader = RowReader(name)
    lines = data.split(b"\n")
    found = [reader.read(line, number) for number, line in enumerate(lines, 1)]
    reader.finish(len(lines))
    return [row for row in found if row is not None]


def _fault(data: bytes, name: str = "in") -> str:
    with pytest.raises(PayloadError) as caught:
        _read(data, name)
    [problem] = caught.value.problems
    return str(problem)


# No carriage return: csv.writer ends lines with \r\n, and a field that ends with \r cannot be told from that.
_CELL = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=6) | st.sampled_from(
    ['"', ",", "\n", '""', '","', "\n\n", " a ", "\u2028"]
)
_NAMES = st.lists(_CELL.filter(bool), min_size=2, max_size=4, unique=True)


@given(_NAMES.flatmap(lambda names: st.tuples(st.just(names), st.lists(st.tuples(*[_CELL] * len(names)), max_size=5))))
def test_csv_that_python_writes_is_read_back_unchanged(table: tuple[list[str], list[tuple[str, ...]]]) -> None:
    names, rows = table
    written = io.StringIO()
    csv.writer(written).writerows([names, *rows])
    data = written.getvalue().encode()
    if data.startswith((b"{", b"\xef\xbb\xbf")):
        return  # JSON, or a byte order mark
    assert [row.fields for row in _read(data)] == [dict(zip(names, row, strict=True)) for row in rows]


_JSON = st.dictionaries(
    st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=5), max_size=4
)


@given(st.lists(_JSON, max_size=5))
def test_json_lines_keep_their_types_and_their_bytes(rows: list[dict[str, object]]) -> None:
    lines = [json.dumps(row).encode() for row in rows]
    found = _read(b"\n\n".join(lines), "in.jsonl")
    assert [(row.fields, row.as_json()) for row in found] == list(zip(rows, lines, strict=True))


def test_a_row_of_csv_as_json_is_an_object_of_text() -> None:
    [row] = _read("id,näme\n7,grüße\n".encode())
    assert row.as_json() == '{"id": "7", "näme": "grüße"}'.encode()


def test_a_byte_order_mark_and_windows_line_ends_are_not_part_of_a_field() -> None:
    rows = _read(b'\xef\xbb\xbfa,b\r\n1,"2\r\n3"\r\n')
    assert [row.fields for row in rows] == [{"a": "1", "b": "2\r\n3"}]


def test_the_place_of_a_row_is_where_it_begins() -> None:
    rows = _read(b'a\n"1\n2"\n\n3\n')
    assert [row.where.line for row in rows] == [2, 5]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a,b\n1,2\n1,2,3", "in:3:1: 3 fields; the header has 2"),
        (b"a,b\n1", "in:2:1: 1 fields; the header has 2"),
        (b'a,b\n1,"x', "in:2:1: a double quote in this row is not closed"),
        (b'a,b\n\n1,"x\n2,3\n', "in:3:1: a double quote in this row is not closed"),
        (b'a,b\n"x"y,2', "in:2:4: expected a comma after the field"),
        (b'a,b\n1,x"y"', "in:2:4: expected a comma after the field"),
        (b'a,b\n"1\n2"3,', "in:3:3: expected a comma after the field"),
        (b"a,b\n1,\xff", "in:2:3: not UTF-8"),
        (b"a,a\n", "in:1:1: the header has 'a' twice"),
        (b"a,\n", "in:1:1: field 2 of the header has no name"),
        (b'{"a": 1}\n{"a": }', "in:2:7: not JSON"),
        (b'{"a": 1}\n[1]', "in:2:1: a row is an object"),
        (b'{"a": 1, "a": 2}', "in:1:10: not JSON: duplicate name in an object"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(data: bytes, words: str) -> None:
    assert words in _fault(data)


def test_an_unclosed_quote_does_not_exhaust_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmqkit.payload.rows.MAX_ROW_BYTES", 100)
    with pytest.raises(PayloadError, match="in:1:1: a double quote"):
        RowReader("in").read(b'"' + b"x" * 200, 1)
