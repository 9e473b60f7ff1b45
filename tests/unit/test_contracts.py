"""A body keeps its contract or is refused, with the place and the rule, and nothing of what is in it."""

import json
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from rmqkit.errors import Location, PayloadError, SettingsError
from rmqkit.model import Contract
from rmqkit.payload import contracts
from rmqkit.payload.formats import Check

ORDER = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "string", "pattern": "^o-[0-9]+$"},
        "total": {"type": "number", "minimum": 0},
        "kind": {"enum": ["new", "old"]},
        "mail": {"format": "email"},
        "lines": {"type": "array", "items": {"$ref": "line.json"}},
    },
    "additionalProperties": {"type": "integer"},
}
LINE = {"type": "object", "properties": {"a/b": {"type": "integer", "maximum": 9}}, "additionalProperties": False}
ORDER_XSD = """<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">
<xs:include schemaLocation="sku.xsd"/>
<xs:element name="order"><xs:complexType>
  <xs:sequence><xs:element name="sku" type="Sku" maxOccurs="9"/><xs:element name="n" type="xs:int"/></xs:sequence>
  <xs:attribute name="id" type="xs:int" use="required"/>
</xs:complexType></xs:element></xs:schema>"""
SKU_XSD = """<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:simpleType name="Sku">
<xs:restriction base="xs:string"><xs:pattern value="[A-Z]-[0-9]+"/></xs:restriction></xs:simpleType></xs:schema>"""


@pytest.fixture
def order(tmp_path: Path) -> Check:
    (tmp_path / "line.json").write_text(json.dumps(LINE))
    return compiled(tmp_path, "order.json", ORDER)


@pytest.fixture
def order_xml(tmp_path: Path) -> Check:
    (tmp_path / "sku.xsd").write_text(SKU_XSD)
    return compiled(tmp_path, "order.xsd", ORDER_XSD)


def compiled(folder: Path, name: str, schema: Any) -> Check:
    (folder / name).write_text(schema if isinstance(schema, str) else json.dumps(schema, indent=1))
    return contracts.compile_contract(contracts.from_schema(str(folder / name)))


def refusal(check: Check, body: bytes) -> PayloadError | None:
    try:
        check(body, Location("x"))
    except PayloadError as exc:
        return exc
    return None


def problems(check: Check, body: bytes) -> list[str]:
    with pytest.raises(PayloadError) as caught:
        check(body, Location("orders.jsonl", 3, 1))
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"total": 1}', '3:1: the value breaks the rule required: "id"'),
        (b'{"id":"o-1",\n "total": -1}', "4:11: /total breaks the rule minimum: 0"),
        (b'{"id": "x-1"}', '3:8: /id breaks the rule pattern: "^o-[0-9]+$"'),
        (b'{"id": "o-1", "kind": "odd"}', '3:23: /kind breaks the rule enum: ["new", "old"]'),
        (b'{"id": "o-1", "mail": "nobody"}', '3:23: /mail breaks the rule format: "email"'),
        (b'{"id": "o-1", "lines": [{}, {"a/b": 10}]}', "3:37: /lines/1/a~1b breaks the rule maximum: 9"),
        (b'{"id": "o-1", "lines": [{"z": 10}]}', "3:31: /lines/0/* breaks the rule additionalProperties"),
        (b'{"id": "o-1", "unheard-of": "x"}', '3:29: /* breaks the rule type: "integer"'),
        (b"[]", '3:1: the value breaks the rule type: "object"'),
        (b'{"id": "o-1", "id": "o-2"}', "3:15: not JSON: duplicate name in an object (first at 1:2 of the text)"),
        (b'{"id": NaN}', "3:8: not JSON: NaN and Infinity are not JSON"),
    ],
)  # fmt: skip
def test_a_violation_names_its_place_and_the_rule(order: Check, body: bytes, expected: str) -> None:
    assert problems(order, body) == [f"orders.jsonl:{expected}"]


def test_a_body_that_satisfies_the_contract_passes(order: Check, order_xml: Check) -> None:
    order(b'{"id": "o-1", "lines": [{"a/b": 9}], "kind": "new", "n": 12345678901234567890123}', Location("x"))
    order_xml(b'<order id="1"><sku>A-1</sku><n>3</n></order>', Location("x"))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'<order id="1">\n<sku>hunter2</sku><n>1</n></order>', "4:1: /order/sku breaks the rule cvc-pattern-valid"),
        (b'<order id="1"><sku>A-1</sku><n>hunter2</n></order>', "3:1: /order/n breaks the rule cvc-datatype-valid"),
        (b"<order><sku>A-1</sku><n>1</n></order>", "3:1: /order breaks the rule cvc-complex-type-4"),
        (b'<order id="1"><n>1</n></order>', "3:1: /order/n breaks the rule element-content"),
        (b'<order id="1"><hunter2/></order>', "3:1: /order/* breaks the rule element-content"),
        (b'<x:hunter2 xmlns:x="urn:a"/>', "3:1: /x:* breaks the rule cvc-elt-1"),
        (b"<order>", "3:8: not well-formed XML: no element found"),
        (b"<!DOCTYPE order><order/>", "3:16: not well-formed XML: a DOCTYPE is not allowed"),
    ],
)  # fmt: skip
def test_a_violation_in_xml_names_its_place_and_the_rule(order_xml: Check, body: bytes, expected: str) -> None:
    [problem] = problems(order_xml, body)
    assert problem.startswith(f"orders.jsonl:{expected}")


_TEXTS = st.sampled_from(["a", "b", "ä", "hunter2"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, 2**70]) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)
_TYPES = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
_SIZES = st.integers(0, 3)
_SCHEMAS = st.recursive(
    st.booleans()
    | st.fixed_dictionaries(
        {},
        optional={
            "type": _TYPES | st.lists(_TYPES, min_size=1, unique=True),
            "enum": st.lists(_VALUES, min_size=1, max_size=3),
            "const": _VALUES,
            "minimum": st.integers(-2, 2),
            "exclusiveMaximum": st.integers(-2, 2),
            "multipleOf": st.sampled_from([1, 2, 0.5]),
            "minLength": _SIZES,
            "pattern": st.sampled_from(["^a", "b$", "^h.*[0-9]$"]),
            "uniqueItems": st.booleans(),
            "maxItems": _SIZES,
            "required": st.lists(_TEXTS, unique=True),
            "minProperties": _SIZES,
            "dependentRequired": st.dictionaries(_TEXTS, st.lists(_TEXTS, unique=True)),
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(_TEXTS, inner),
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "2$"]), inner),
            "additionalProperties": inner,
            "propertyNames": inner,
            "unevaluatedProperties": inner,
            "items": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "contains": inner,
            "not": inner,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "if": inner,
            "then": inner,
            "else": inner,
        },
    ),
    max_leaves=5,
)


@given(_SCHEMAS, st.lists(_VALUES, min_size=1, max_size=8))
def test_the_verdict_agrees_with_another_library_and_shows_no_text_of_the_body(
    tmp_path_factory: pytest.TempPathFactory, schema: Any, values: list[Any]
) -> None:
    file = tmp_path_factory.getbasetemp() / "generated.json"
    file.write_text(json.dumps(schema))
    check = contracts.compile_contract(Contract("json", str(file)))
    for value in values:
        error = refusal(check, json.dumps(value).encode())
        assert (error is None) == Draft202012Validator(schema).is_valid(value)
        assert "hunter2" in json.dumps(schema) or "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("name", "schema", "expected"),
    [
        ("s.json", '{"type": "objekt"}', 's.json:1:10: not a JSON Schema: "objekt" is not'),
        ("s.json", '{\n "properties": {"a": {"pattern": "("}}}', "s.json:2:34: not a JSON Schema:"),
        ("s.json", '{"type": }', "s.json:1:10: not JSON: expected a value"),
        ("s.json", '{"$ref": "#/$defs/none"}', "s.json: Pointer '/$defs/none' does not exist"),
        ("s.json", '{"$ref": "none.json"}', "none.json: the schema cannot be read: No such file"),
        ("s.json", '{"$ref": "bad.json"}', "bad.json:1:13: not a JSON Schema:"),
        ("s.json", '{"$ref": "../beside.json"}', "s.json: it refers to file:///"),
        ("s.json", '{"$ref": "%2e%2e/x.json"}', "s.json: it refers to "),
        ("s.json", '{"$ref": "file:///etc/hostname"}', "s.json: it refers to file:///etc/hostname, which is not"),
        ("s.json", '{"$schema": "https://example.com/dialect"}', "s.json: its $schema is not known"),
        ("s.json", '{"$schema": 5}', "s.json: its $schema is not known"),
        ("s.xsd", "<a/>", "s.xsd: not an XML Schema:"),
        ("s.xsd", "<a>", "s.xsd:1:4: not well-formed XML: no element found"),
        ("s.xsd", '<!DOCTYPE a SYSTEM "file:///etc/hostname"><a/>', "s.xsd:1:42: not well-formed XML: a DOCTYPE"),
        ("s.xsd", '<xs:include schemaLocation="none.xsd"/>', "none.xsd: the schema cannot be read: No such file"),
        ("s.xsd", '<xs:import namespace="urn:a" schemaLocation="none.xsd"/>', "none.xsd: the schema cannot be read:"),
        ("s.xsd", '<xs:include schemaLocation="../x.xsd"/>', "s.xsd: it refers to "),
        ("s.xsd", '<xs:include schemaLocation="/etc/x.xsd"/>', "s.xsd: it refers to /etc/x.xsd, which is not"),
        ("s.xsd", '<xs:element name="a" type="None"/>', "s.xsd:1:"),
        ("none.json", None, "none.json: the schema cannot be read: No such file"),
    ],
)  # fmt: skip
def test_a_bad_schema_is_reported_with_its_own_place(
    tmp_path: Path, name: str, schema: str | None, expected: str
) -> None:
    (tmp_path / "bad.json").write_text('{"minimum": "x"}')
    if schema and schema.startswith("<xs:"):
        schema = f'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">{schema}</xs:schema>'
    if schema:
        (tmp_path / name).write_text(schema)
    with pytest.raises(PayloadError) as caught:
        contracts.compile_contract(contracts.from_schema(str(tmp_path / name)))
    [problem, *_] = map(str, caught.value.problems)
    assert problem.removeprefix(f"{tmp_path}/").startswith(expected)


def test_neither_a_schema_nor_a_body_opens_a_network_connection(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        imports = f'<xs:import namespace="urn:a" schemaLocation="{url}.xsd"/>'
        for name, schema in (
            ("s.json", {"$ref": f"{url}.json"}),
            ("s.json", {"$schema": f"{url}.json"}),
            ("s.json", {"$id": f"{url}.json", "$ref": f"{url}/y.json"}),
            ("s.xsd", f'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">{imports}</xs:schema>'),
        ):
            with pytest.raises(PayloadError):
                compiled(tmp_path, name, schema)
        check = compiled(tmp_path, "plain.xsd", SKU_XSD.replace("</xs:schema>", '<xs:element name="a"/></xs:schema>'))
        hint = f'xmlns:i="http://www.w3.org/2001/XMLSchema-instance" i:schemaLocation="urn:a {url}.xsd"'
        check(f'<a {hint} i:noNamespaceSchemaLocation="{url}"/>'.encode(), Location("x"))
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    "base", ["https://example.com/schemas/order.json", "order.json", "elsewhere/order.json", "urn:a"]
)
def test_a_schema_with_its_own_id_finds_the_files_in_its_folder(tmp_path: Path, base: str) -> None:
    folder = tmp_path / "a b%20ä"
    (folder / "parts").mkdir(parents=True)
    (folder / "parts" / "line.json").write_text(json.dumps(LINE | {"description": "uses itself"}))
    reference = "#/$defs/line" if base.startswith("urn") else "parts/line.json"
    check = compiled(folder, "order.json", {"$id": base, "items": {"$ref": reference}, "$defs": {"line": LINE}})
    assert problems(check, b'[{"z": 1}]') == ["orders.jsonl:3:8: /0/* breaks the rule additionalProperties"]


def test_an_xml_schema_finds_the_files_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "a b%20ä"
    folder.mkdir()
    (folder / "sku.xsd").write_text(SKU_XSD)
    check = compiled(folder, "order.xsd", ORDER_XSD)
    assert problems(check, b'<order id="1"><sku>1</sku><n>1</n></order>')


@pytest.mark.parametrize(("dialect", "draft_4"), [("http://json-schema.org/draft-04/schema#", True), (None, False)])
def test_a_schema_is_read_by_the_draft_it_names(tmp_path: Path, dialect: str | None, draft_4: bool) -> None:
    schema = {"items": [{"type": "integer"}]} if draft_4 else {"prefixItems": [{"type": "integer"}]}
    check = compiled(tmp_path, "s.json", schema | ({"$schema": dialect} if dialect else {}))
    assert problems(check, b'["x"]') == ['orders.jsonl:3:2: /0 breaks the rule type: "integer"']


def test_deep_json_is_checked_or_refused_and_never_ends_the_run(tmp_path: Path) -> None:
    check = compiled(
        tmp_path, "s.json", {"$ref": "#/$defs/tree", "$defs": {"tree": {"items": {"$ref": "#/$defs/tree"}}}}
    )
    check(b"[" * 500 + b"]" * 500, Location("x"))
    assert "levels deep" in problems(check, b"[" * 501 + b"]" * 501)[0]


def test_a_pattern_that_backtracks_without_end_is_abandoned(tmp_path: Path) -> None:
    check = compiled(tmp_path, "s.json", {"pattern": r"^(a|aa)*\1$"})
    assert problems(check, b'"' + b"a" * 60 + b'b"')


def test_a_schema_file_with_another_suffix_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"order.yaml: a schema is a JSON Schema \(.json\)"):
        contracts.from_schema("order.yaml")


def test_threads_share_a_contract_and_each_sees_only_its_own_faults(order_xml: Check) -> None:
    mixed: list[str] = []

    def work(bad: bytes, path: str) -> None:
        for _ in range(300):
            mixed.extend(each for each in problems(order_xml, bad) if path not in each)

    bodies = {b'<order id="1"><sku>1</sku><n>1</n></order>': "/order/sku ", b"<sku/>": "/sku "}
    threads = [threading.Thread(target=work, args=each) for each in bodies.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mixed == []


def test_the_path_of_a_schema_is_relative_to_the_topology_file() -> None:
    assert Contract("json", "a.json", Location("topologies/x.yaml", 3, 1)).path == "topologies/a.json"
    assert Contract("json", "a.json").path == "a.json"


def test_the_error_for_an_xml_schema_without_lxml_explains_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lxml", None)
    monkeypatch.delitem(sys.modules, "rmqkit.payload.xml_schema", raising=False)
    monkeypatch.delattr("rmqkit.payload.xml_schema", raising=False)
    with pytest.raises(SettingsError, match=r"pip install 'rmqkit\[xsd\]'"):
        compiled(tmp_path, "s.xsd", SKU_XSD)


@pytest.mark.parametrize("own", [{}, {"$id": "https://example.com/tree.json"}])
def test_schemas_may_refer_to_each_other(tmp_path: Path, own: dict[str, str]) -> None:
    (tmp_path / "leaf.json").write_text('{"anyOf": [{"type": "integer"}, {"$ref": "tree.json"}]}')
    check = compiled(tmp_path, "tree.json", own | {"type": "array", "items": {"$ref": "leaf.json"}})
    check(b"[1, [2, [3]]]", Location("x"))
    assert problems(check, b'[1, ["x"]]') == ["orders.jsonl:3:5: /1 breaks the rule anyOf"]
    includes = '<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:include schemaLocation="{}"/>'
    (tmp_path / "b.xsd").write_text(includes.format("a.xsd") + "</xs:schema>")
    compiled(tmp_path, "a.xsd", includes.format("b.xsd") + '<xs:element name="a"/></xs:schema>')(b"<a/>", Location("x"))
