"""Bodies are checked, placed and named, and never changed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmqkit import strict_json
from rmqkit.errors import Location, PayloadError
from rmqkit.payload import formats
from rmqkit.payload.formats import ContentType, Format

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(_VALUES, st.booleans(), st.sampled_from([None, 2]))
def test_json_that_python_writes_is_accepted(value: object, ascii_only: bool, indent: int | None) -> None:
    assert strict_json.find_fault(json.dumps(value, ensure_ascii=ascii_only, indent=indent)) is None


@given(st.text(alphabet='[]{}:,"\\ntfu01.-eE \n', max_size=12))
def test_text_that_python_refuses_as_json_is_refused(text: str) -> None:
    try:
        json.loads(text)
    except ValueError:
        assert strict_json.find_fault(text)


@given(_VALUES, st.data())
def test_json_that_ends_too_early_is_refused_as_python_does(value: object, data: st.DataObject) -> None:
    text = json.dumps([value])
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    assert strict_json.find_fault(cut)


@pytest.mark.parametrize(
    ("body", "place", "words"),
    [
        (b"[1, NaN]", "1:5", "NaN"),
        (b"-Infinity", "1:1", "Infinity"),
        (b'{\n "a": 1e999}', "2:7", "range of a double"),
        (b'["\\ud800"]', "1:2", "surrogate"),
        (b'["\\udc00\\ud800"]', "1:2", "surrogate"),
        (b'{"a": 1,\n "\\u0061": 2}', "2:2", "duplicate name in an object (first at 1:2"),
        (b"9" * 5000, "1:1", "5000 characters"),
        (b"[" * 100_000, "1:501", "levels deep"),
        (b"\xef\xbb\xbf{}", "1:1", "byte order mark"),
        (b'["\xe4"]', "1:3", "not UTF-8"),
        (b"", "1:1", "unexpected end"),
        (b"[1,]", "1:4", "a value"),
        (b"{'a': 1}", "1:2", "double quotes"),
        (b'{"a" 1}', "1:6", "expected :"),
        (b"[1}", "1:3", "closing bracket"),
        (b"{} {}", "1:4", "after the value"),
        (b'"a\tb"', "1:3", "control character"),
        (b'"\\x"', "1:2", "escape"),
        (b'["\xc3\xa4\xc3\xa4", "', "1:8", "without closing quote"),
    ],
)
def test_bad_json_is_refused_with_line_and_column(body: bytes, place: str, words: str) -> None:
    with pytest.raises(PayloadError) as caught:
        formats.check(body, Format.JSON, Location("orders.json"))
    [problem] = caught.value.problems
    assert str(problem.where) == f"orders.json:{place}"
    assert words in problem.message


def test_a_fault_in_line_7_of_a_file_is_placed_in_line_7() -> None:
    with pytest.raises(PayloadError) as caught:
        formats.check(b"[1, nope]", Format.JSON, Location("orders.ndjson", 7, 1))
    assert str(caught.value.problems[0].where) == "orders.ndjson:7:5"


@pytest.mark.parametrize(
    ("body", "place", "words"),
    [
        (b"<!DOCTYPE a><a/>", "1:12", "DOCTYPE"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "1:13", "DOCTYPE"),
        (b'<?xml version="1.0" encoding="utf-16"?><a/>', "1:31", "encoding"),
        (b'<?xml version="1.0" encoding="nope"?><a/>', "1:31", "encoding"),
        (b'<?xml version="1.0" encoding="shift_jis"?><a/>', "1:31", "encoding"),
        (b'<?xml version="1.0" encoding="utf-8"?><a>\xe4</a>', "1:42", "not well-formed"),
        (b"<a>\n\0</a>", "2:1", "not well-formed"),
        (b"<a/>\n<b/>", "2:1", "junk after"),
        (b"", "1:1", "no element"),
        (b"<a>&b;</a>", "1:4", "undefined entity"),
    ],
)
def test_bad_xml_is_refused_with_line_and_column(body: bytes, place: str, words: str) -> None:
    with pytest.raises(PayloadError) as caught:
        formats.check(body, Format.XML, Location("order.xml"))
    [problem] = caught.value.problems
    assert str(problem.where) == f"order.xml:{place}"
    assert words in problem.message


def test_well_formed_xml_of_any_depth_and_encoding_is_accepted() -> None:
    formats.check(b"<a>" * 100_000 + b"</a>" * 100_000, Format.XML, Location("deep.xml"))
    formats.check('<?xml version="1.0" encoding="utf-16"?><a>ä</a>'.encode("utf-16"), Format.XML, Location("x.xml"))


def test_text_must_be_utf8_and_binary_may_be_anything() -> None:
    everything = bytes(range(256))
    formats.check(everything, Format.BINARY, Location("x"))
    formats.check(b"\0\r\n\xe2\x80\xa8", Format.TEXT, Location("x"))
    with pytest.raises(PayloadError, match="x:1:3: not UTF-8"):
        formats.check(b"ab\xff", Format.TEXT, Location("x"))


@pytest.mark.parametrize(
    ("body", "format"),
    [
        (b'{"secret": hunter2}', Format.JSON),
        (b'"hunter2', Format.JSON),
        (b"<hunter2", Format.XML),
        (b"<a>&hunter2;</a>", Format.XML),
        (b"hunter2\xff", Format.TEXT),
    ],
)
def test_an_error_never_shows_the_body(body: bytes, format: Format) -> None:  # noqa: A002 - the flag's word
    with pytest.raises(PayloadError) as caught:
        formats.check(body, format, Location("x"))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "format", "name", "expected"),
    [
        (b"{}", Format.JSON, "", ContentType("application/json", "utf-8")),
        (b"<a/>", Format.XML, "x.json", ContentType("application/xml")),
        (b"\xff", Format.BINARY, "", ContentType("application/octet-stream")),
        (b"{}", None, "a/B.JSON", ContentType("application/json", "utf-8")),
        (b"<a/>", None, "a.xml", ContentType("application/xml")),
        (b"\x89PNG", None, "a.png", ContentType("image/png")),
        (b"a,b", None, "a.csv", ContentType("text/csv", "utf-8")),
        (b"\xe4", None, "latin1.txt", ContentType("text/plain")),
        (b"\x1f\x8b", None, "a.json.gz", ContentType("application/json", "gzip")),
        (b"a", None, "README", ContentType("text/plain", "utf-8")),
        (b"\xff", None, "", ContentType("application/octet-stream")),
    ],
)
def test_the_content_type_follows_the_format_then_the_name_then_the_bytes(
    body: bytes,
    format: Format | None,  # noqa: A002 - the flag's word
    name: str,
    expected: ContentType,
) -> None:
    assert formats.content_type(body, format, name) == expected


@given(st.text(alphabet='[]{}:,"\\ntfuNad801.-eE \n', max_size=14) | _VALUES.map(json.dumps))
def test_text_that_the_fast_reader_accepts_has_no_fault(text: str) -> None:
    try:
        value = strict_json.read(text)
    except ValueError:
        return
    assert strict_json.find_fault(text) is None
    assert value == json.loads(text)


@pytest.mark.parametrize(
    "text",
    ["[" * 501 + "]" * 501, "1" * 310, "0." + "1" * 1000, "-1e999", '"\\ud800"', '{"a":1,"\\u0061":1}', "\ufeff1"],
)
def test_text_with_a_possible_fault_is_left_to_the_slow_reader(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        strict_json.read(text)


@given(_VALUES, st.sampled_from([None, 2]), st.data())
def test_every_value_is_found_in_its_text(value: object, indent: int | None, data: st.DataObject) -> None:
    text = " \n" + json.dumps(value, indent=indent)
    path: list[str | int] = []
    inner = value
    while isinstance(inner, list | dict) and inner and data.draw(st.booleans()):
        path.append(data.draw(st.sampled_from(list(inner) if isinstance(inner, dict) else range(len(inner)))))
        inner = inner[path[-1]]  # type: ignore[index]
    found, _ = json.JSONDecoder().raw_decode(text, strict_json.position_of(text, path))
    assert found == inner
