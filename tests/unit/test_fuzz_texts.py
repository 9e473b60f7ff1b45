"""Whatever a file, a line or an argument holds: it is read, or an error of ours with its place, in bounded time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from rmqkit import strict_json
from rmqkit.address import parse_urls
from rmqkit.errors import DocumentError, InputError, Location, PayloadError, RmqkitError, SettingsError, TopologyError
from rmqkit.message import Properties
from rmqkit.model import Topology
from rmqkit.payload import amqp_json, envelopes, formats, properties, rows
from rmqkit.payload.formats import Format
from rmqkit.payload.jinja_sandbox import Expression, JinjaTemplate, TemplateSandbox
from rmqkit.topology.dead_letters import dead_letters
from rmqkit.topology.diagram.graph import build_diagram, collapse
from rmqkit.topology.diagram.mermaid_dot import dot, mermaid
from rmqkit.topology.diagram.text_tree import tree
from rmqkit.topology.examples import example_names
from rmqkit.topology.file import scenarios
from rmqkit.topology.file.definitions import from_definitions, to_definitions
from rmqkit.topology.file.loader import load, loads
from rmqkit.topology.file.writer import to_yaml
from rmqkit.topology.lint.linter import examine
from rmqkit.topology.routing import route
from tests.support.fuzzing import JSON_VALUES, examples, mutated, outcome, tampered

CASES = Path(__file__).parents[1] / "cases"
WHERE = Location("input", 7, 3)


def samples(*patterns: str) -> list[bytes]:
    return [path.read_bytes() for pattern in patterns for path in sorted(CASES.glob(pattern))]


def placed(error: Exception, file: str = "input") -> bool:
    """Tell whether an error has problems, and each of them its place in the file."""
    assert isinstance(error, RmqkitError)
    return bool(error.problems) and all(each.where.file == file and each.message for each in error.problems)


TOPOLOGIES = [*samples("valid/*.yaml", "invalid/*.yaml"), *(path.read_bytes() for path in example_names().values())]
SMALL = [text for text in TOPOLOGIES if len(text) < 3000]
YAML_TOKENS = [
    b": ", b"- ", b"\n", b"\n  ", b"\t", b"#", b"*", b"&a ", b"*a", b"<<: ", b"!!python/object:os.system ",
    b"!!binary ", b"---\n", b"...\n", b"%YAML 1.1\n", b"'", b'"', b"|\n", b">\n", b"{", b"}", b"[", b"]", b",", b"? ",
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"on", b"017", b"1_0", b"1:30", b"2001-01-01", b".nan", b"1e999", b"\\ud800",
    b"\xc2\x85", "\u2028".encode(), b"queues:", b"bindings:", b"amq.x", b"{}", b"[]", b"~", b"9" * 5000, b"{a: " * 70,
    b"[" * 3000,
]  # fmt: skip


def use(topology: Topology) -> None:
    """Do all that is done offline with what was read: nothing of it may fail but with an error of ours."""
    examine(topology)
    to_definitions(topology)
    graph = collapse(build_diagram(topology))
    list(tree(graph))
    dot(graph)
    mermaid(graph)
    if topology.publish:
        found = route(topology, topology.publish, {"a": 1})
        dead_letters(topology, found)


def check_topology(text: bytes, folder: Path) -> None:
    file = folder / "input"
    file.write_bytes(text)
    found = outcome(lambda: load(file), DocumentError, TopologyError)
    if isinstance(found, Topology):
        outcome(lambda: use(found))
        assert loads(to_yaml(found)) == found
    else:
        assert placed(found, str(file)), found


@examples(120)
@given(mutated(SMALL, YAML_TOKENS))
def test_an_almost_valid_topology_is_read_or_refused_with_places(tmp_path: Path, text: bytes) -> None:
    check_topology(text, tmp_path)


@examples(100)
@given(st.binary(max_size=200) | st.lists(st.sampled_from(YAML_TOKENS), max_size=30).map(b"".join))
def test_any_file_is_read_or_refused_with_places(tmp_path: Path, text: bytes) -> None:
    check_topology(text, tmp_path)


NAMES = st.sampled_from(["a", "b", "", "amq.topic", "amq.gen", "é" * 128, "x/y", "*", "#", "^a", "(", "12", "a.b"])
SETTINGS = st.dictionaries(
    st.sampled_from(
        ["x-max-length", "x-queue-type", "x-dead-letter-exchange", "x-dead-letter-routing-key", "x-message-ttl",
         "x-match", "alternate-exchange", "x-overflow", "x-expires", "x-max-priority", "message-ttl",
         "dead-letter-exchange", "x-own"]
    ),
    NAMES | JSON_VALUES,
    max_size=3,
)  # fmt: skip


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def by_name(value: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(NAMES, value, max_size=most)


TOPOLOGY = some(
    description=NAMES,
    exchanges=by_name(
        st.none()
        | some(
            type=st.sampled_from(["direct", "topic", "headers", "x-own"]), arguments=SETTINGS, internal=st.booleans()
        )
    ),
    queues=by_name(
        st.none()
        | some(
            type=st.sampled_from(["classic", "quorum", "stream", "x"]),
            arguments=SETTINGS,
            durable=st.booleans(),
            retry=some(delays=st.lists(st.sampled_from(["1s", "5m", "-1s", "0", "9999d"]), max_size=3), then=NAMES),
            contract=some(format=st.sampled_from(["json", "xml"]), schema=NAMES),
        )
    ),
    bindings=st.lists(
        st.fixed_dictionaries({"source": NAMES, "destination": NAMES})
        | some(
            source=NAMES,
            destination=NAMES,
            routing_key=NAMES,
            arguments=SETTINGS,
            destination_type=st.sampled_from(["queue", "exchange"]),
        ),
        max_size=4,
    ),
    policies=by_name(some(pattern=NAMES, definition=SETTINGS, priority=st.integers(-5, 5)), 2),
    publish=some(exchange=NAMES, routing_key=NAMES),
    external=some(exchanges=st.lists(NAMES, max_size=2), queues=st.lists(NAMES, max_size=2)),
    scope=st.lists(NAMES, max_size=2),
    lint=st.lists(some(ignore=NAMES, reason=NAMES), max_size=2),
)


@examples(120)
@given(TOPOLOGY.flatmap(lambda topology: tampered(topology) | st.just(topology)))
def test_a_topology_of_any_structure_is_read_or_refused_with_places(tmp_path: Path, topology: Any) -> None:
    check_topology(json.dumps(topology).encode(), tmp_path)


@examples(80)
@given(mutated(samples("scenarios/*.test.yaml", "scenarios/invalid/*.yaml"), YAML_TOKENS))
def test_almost_valid_scenarios_are_read_or_refused_with_places(tmp_path: Path, text: bytes) -> None:
    for path in CASES.glob("scenarios/*.yaml"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    file = tmp_path / "input.test.yaml"
    file.write_bytes(text)
    found = outcome(lambda: scenarios.load(file), DocumentError, TopologyError)
    assert isinstance(found, tuple) or found.problems  # type: ignore[attr-defined]


DEFINITIONS = to_definitions(load(CASES / "valid" / "design_example.yaml"), vhost="/") | {
    "vhosts": [{"name": "/", "metadata": {"default_queue_type": "quorum"}}],
    "parameters": [{"vhost": "/", "component": "shovel", "name": "x", "value": {}}],
}


@examples(120)
@given(tampered(DEFINITIONS), st.sampled_from([None, "/", "x"]))
def test_definitions_of_any_structure_are_read_or_refused(definitions: Any, vhost: str | None) -> None:
    text = json.dumps(definitions)
    found = outcome(lambda: from_definitions(text, file="input", vhost=vhost), InputError)
    if isinstance(found, tuple):
        outcome(lambda: use(found[0]))
        outcome(lambda: loads(to_yaml(found[0])), TopologyError)  # a broker holds what a topology file may not say
    else:
        assert "input" in str(found)


# JSON and XML: what is let pass is what the standard parsers read.

JSON_TOKENS = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u", b"\\ud800", b"\\udc00", b"null", b"NaN", b"-Infinity",
    b"1e999", b"-", b"0", b"1" * 400, b"\xef\xbb\xbf", b"\0", b"\xe2\x80\xa8", b"\xed\xa0\x80", b'"a":1,', b"[" * 600,
    b'{"a":' * 400,
]  # fmt: skip
JSONS = [
    b'{"a": [1, -2.5e3, "\\u00e9\\ud83d\\ude00", null, true], "b": {}}',
    b"[]",
    b'"x"',
    b"-0",
    b'{"a": {"b": [{}]}}',
]


@examples(120)
@given(mutated(JSONS, JSON_TOKENS) | st.binary(max_size=60))
def test_accepted_json_is_read_as_python_reads_it(body: bytes) -> None:
    found = outcome(lambda: formats.read_json(body, WHERE), PayloadError)
    if isinstance(found, tuple):
        assert found == (body.decode(), json.loads(body))
        assert outcome(lambda: strict_json.find_fault(body.decode())) is None
    else:
        assert placed(found)


XMLS = [
    b'<?xml version="1.0" encoding="utf-8"?><a b="c">&amp;&#65;<!-- x --><d/><![CDATA[e]]></a>',
    b"<a/>",
    b"<a>\xc3\xa4</a>",
]
XML_TOKENS = [
    b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"<!ENTITY", b"&b;", b"<", b">", b"</a>", b"<a>", b"]]>", b"<?", b"?>", b"--",
    b"\0", b'encoding="utf-16"', b'encoding="ebcdic"', b"\xff\xfe", b"<a " * 300, b"<a>" * 3000, b"&#0;", b"&#xD800;",
    b" xmlns:a='a'",
]  # fmt: skip


@examples(120)
@given(mutated(XMLS, XML_TOKENS) | st.binary(max_size=60))
def test_xml_passes_or_is_refused_with_its_place_and_never_with_a_doctype(body: bytes) -> None:
    found = outcome(lambda: formats.check(body, Format.XML, WHERE), PayloadError)
    assert found is None or placed(found)
    assert found is not None or b"<!DOCTYPE" not in body or b"<!--" in body or b"CDATA" in body


# Lines: envelopes and rows.

ENVELOPES = [
    b'{"exchange": "", "routing_key": "a", "headers": {"t": {"$timestamp": "2026-01-01T00:00:00Z"}}, "body": ""}',
    b'{"body_base64": "/w==", "delivery_mode": 2, "priority": 3, "expiration": "5", "timestamp": "2026-01-01T00:00Z"}',
    b'{"body_file": "x", "headers": {"$$a": {"$bytes": "AA=="}, "d": {"$decimal": "1.5"}, "f": {"$double": "nan"}}}',
]
ENVELOPE_TOKENS = [
    *JSON_TOKENS, b'"$decimal": ', b'"$double": "inf"', b'"$timestamp": ', b'"9999-12-31T23:59:59-23:59"',
    b'"$bytes": "="', b"1" * 5000, b"NaN", b"1e-400", b"99999999999999999999", b"../x", b'"1e1000000000"', b"true",
    b"0.5", b"{}", "²".encode(),
]  # fmt: skip


def check_envelope(line: bytes, folder: Path) -> None:
    (folder / "x").write_bytes(b"body")
    found = outcome(lambda: envelopes.EnvelopeReader(folder).read(line, WHERE), PayloadError)
    if isinstance(found, envelopes.Envelope):
        outcome(lambda: properties.check(found.message.properties))
    else:
        assert placed(found)


@examples(120)
@given(mutated(ENVELOPES, ENVELOPE_TOKENS))
def test_an_almost_valid_envelope_is_read_or_refused_with_its_place(tmp_path: Path, line: bytes) -> None:
    check_envelope(line, tmp_path)


TAGGED = st.dictionaries(
    st.sampled_from(["$bytes", "$timestamp", "$decimal", "$double", "$x", "$$bytes", "a", ""]),
    JSON_VALUES
    | st.sampled_from(
        ["1e999999999", "-0E-300", "sNaN", "2026-01-31", "0001-01-01T00:00:00+23:59", "AA==", "²", "inf"]
    ),
    max_size=2,
)
ENVELOPE = st.fixed_dictionaries(
    {"body": st.just("x")},
    optional={"headers": TAGGED | st.dictionaries(st.text(max_size=3), TAGGED | JSON_VALUES, max_size=2)}
    | dict.fromkeys(
        ("exchange", "routing_key", "timestamp", "received_at", "priority", "expiration", "type"), JSON_VALUES
    ),
)


@examples(120)
@given(ENVELOPE)
def test_an_envelope_of_any_values_is_read_or_refused_with_its_place(tmp_path: Path, envelope: Any) -> None:
    check_envelope(json.dumps(envelope).encode(), tmp_path)


ROWS = [b'id,name\n1,"a, ""b"""\n2,c\n', b'{"id": 1}\n\n{"id": 2, "x": [1]}\n', b'\xef\xbb\xbfa,b\r\n1,2\r\n"x\ny",3']
ROW_TOKENS = [
    b'"',
    b'""',
    b",",
    b"\n",
    b"\r\n",
    b"\r",
    b"{",
    b"\xff",
    b"\0",
    b"\xef\xbb\xbf",
    b'"' * 301,
    b"," * 300,
    *JSON_TOKENS,
]


@examples(120)
@given(mutated(ROWS, ROW_TOKENS), st.sampled_from(["input", "input.csv", "input.jsonl"]))
def test_rows_are_read_or_refused_with_their_place(text: bytes, name: str) -> None:
    def read() -> list[rows.Row | None]:
        reader = rows.RowReader(name)
        lines = text.split(b"\n")
        found = [reader.read(line, number) for number, line in enumerate(lines, 1)]
        reader.finish(len(lines))
        return found

    found = outcome(read, PayloadError)
    assert isinstance(found, list) or (placed(found, name) and found.problems[0].where.line)  # type: ignore[attr-defined]


# Arguments: URLs, headers, expressions, templates.

CANARY = "c4n4ry"
URLS = [
    f"amqp://user:{CANARY}@host:5672/vhost?heartbeat=5&connection_timeout=100".encode(),
    f"amqps://u:{CANARY}@[::1]:5671/%2Fv?verify=verify_none&cacertfile=/x".encode(),
    f"amqp://u:{CANARY}@one:1,two,three:3/v , amqp://h".encode(),
]
URL_TOKENS = [
    b"%", b"%2F", b"%00", b"%ff", b"/", b"//", b"@", b":", b"?", b"&", b"#", b",", b"[", b"]", b"::", b":99999",
    b"amqp://", b" ", b"\n", b"\0", b"frame_max=1", b"heartbeat=" + b"9" * 5000, b"\xc2\xb2", "é".encode(),
    b"auth_mechanism=external", b"=",
]  # fmt: skip


@examples(120)
@given(mutated(URLS, URL_TOKENS).map(lambda url: url.decode("utf-8", "surrogateescape")))
@example(f"amqp://user:{CANARY}/x@host")
def test_a_url_is_read_or_refused_without_its_password(url: str) -> None:
    found = outcome(lambda: parse_urls(url, source="input"), SettingsError)
    if isinstance(found, tuple):
        assert all(0 < each.port < 65536 and each.host for each in found)
        assert not any(
            each.password and len(each.password) > 3 and each.password in str(each)
            for each in found
            if each.password == CANARY
        )
    else:
        assert str(found).startswith("input: ")
        assert CANARY not in str(found)


HEADERS = [b"n:=1", b'm:={"$timestamp": "2026-01-31T12:00:00Z"}', b"a=b=c", b"x:=[1, {}]"]


@examples(120)
@given(mutated(HEADERS, ENVELOPE_TOKENS).map(lambda text: text.decode("utf-8", "surrogateescape")))
def test_a_header_argument_is_read_or_refused(text: str) -> None:
    def read() -> None:
        properties.check(Properties(headers=properties.parse_headers([text])))

    outcome(read, PayloadError)


EXPRESSIONS = [
    b"body.total > 100 and 'eu' in routing_key", b"headers['x'] | default(0) * 2", b"[1, 2][0:1] | length",
    b"body.items() | list", b"(1, {'a': body})[1].a if body else 'x' ~ 1",
    b"not body is defined or body[0].b == 2 ** 3",
]  # fmt: skip
EXPRESSION_TOKENS = [
    b"**", b"*", b"%", b"~", b"|", b" | join", b" | tojson", b"(", b")", b"[", b"]", b"{", b"}", b"'", b'"',
    b".__class__", b"9999999", b"'%9999999d'", b".format(9)", b" | attr('x')", b"\n", b"#", b"}}", b"{{", b"{%", b"%}",
    b"((" * 300, b"not " * 300, b"\xff", b"\0", b"1e999", b" | sort", b" | map('x')", b"lambda", b"-" * 300, b" | sum",
    b" | groupby('a')", b" | round(99999999)", b" | int", b" | wordcount", b"range(9)", b" | truncate(1)", b" | float",
    b" | filesizeformat", b" | urlencode", b"+", b"//0", b"%0", b" if ", b" | string * 9", b"[" * 150,
]  # fmt: skip
VARIABLES = {"body": {"total": 5, "items": [1], "a": "x" * 100}, "headers": {"x": 2}, "routing_key": "a.eu"}


@examples(120)
@given(mutated(EXPRESSIONS, EXPRESSION_TOKENS).map(lambda text: text.decode("utf-8", "surrogateescape")))
def test_an_expression_has_a_value_or_is_refused_with_its_place(text: str) -> None:
    found = outcome(lambda: Expression(text, names=VARIABLES, origin="input"), PayloadError)
    if isinstance(found, Expression):
        outcome(lambda: found.evaluate(VARIABLES), PayloadError)
    else:
        assert placed(found)


TEMPLATES = [
    b'{"id": {{ n }}, "x": "{{ row.a | upper }}"}', b"{% for each in row.list %}{{ each }},{% endfor %}",
    b"{% set x = row.a * 3 %}{% if x and n > 1 %}{{ x ~ n }}{% else %}-{% endif %}",
]  # fmt: skip
TEMPLATE_TOKENS = [
    *EXPRESSION_TOKENS, b"{% for a in x %}", b"{% endfor %}", b"{% include 'x' %}", b"{% macro a() %}",
    b"{% set a = [a, a] %}", b"{#", b"#}", b"{% raw %}", b"{% if 1 %}" * 50, b"{% for a in row.list %}" * 8,
    b"{% block a %}", b"{% set x = x ~ x %}" * 40,
]  # fmt: skip


@examples(120)
@given(mutated(TEMPLATES, TEMPLATE_TOKENS).map(lambda text: text.decode("utf-8", "surrogateescape")))
def test_a_template_is_filled_in_or_refused_with_its_place(text: str) -> None:
    values = {"n": 3, "row": {"a": "x", "list": list(range(9))}, "x": "y"}
    found = outcome(lambda: JinjaTemplate(TemplateSandbox(), values, text, "input"), PayloadError)
    if isinstance(found, JinjaTemplate):
        outcome(found.render, ValueError)
    else:
        assert placed(found)


@examples(120)
@given(TAGGED | JSON_VALUES)
def test_tagged_values_are_read_or_refused(value: Any) -> None:
    outcome(lambda: amqp_json.to_json(amqp_json.from_json(value)), ValueError)
