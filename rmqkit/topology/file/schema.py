"""Check a document against its JSON Schema, and explain each violation in plain words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from rmqkit.errors import Problem
from rmqkit.topology.file.document import Document, KeyPath
from rmqkit.topology.names import Fault, suggest

TOPOLOGY, SCENARIOS = "schema.json", "scenarios.schema.json"
_NOUNS = {  # by the schema's type: how to name it, and an example
    "string": ("text", 'text, like "orders"'),
    "integer": ("a whole number", "a number, like 10"),
    "boolean": ("true or false", "true or false"),
    "object": ("a mapping of names to values", "{key: value}, or indented lines of `key: value`"),
    "array": ("a list", "indented lines that begin with `- `"),
}
_COMPLETE = {
    "bindings": "Write {source: EXCHANGE, destination: QUEUE}.",
    "policies": 'Write {pattern: "^orders", definition: {message-ttl: 60000}}.',
    "contract": "Write {format: json, schema: FILE}.",
    "retry": "Write {delays: [5s, 30s, 2m], then: QUEUE}.",
    "lint": "Write {ignore: CODE, name: QUEUE, reason: WHY}.",
    "scenarios": "Write {expect: [QUEUE]}, or {expect: []} for a message that reaches no queue.",
    "then": "Write {queue: QUEUE, when: rejected, expect: [QUEUE]}.",
    "": "Write `topology: FILE`, and `scenarios:` with a name and `expect: [QUEUE]` below it.",
}
_Faults = Iterator[tuple[KeyPath, Problem]]  # each with the value it is about


def schema_text(file: str = TOPOLOGY) -> str:
    """Return the JSON Schema of topology files, or of scenario files, as `rmqkit schema` prints it."""
    return files("rmqkit.topology").joinpath(file).read_text("utf-8")


@cache
def schema(file: str = TOPOLOGY) -> Mapping[str, Any]:
    """Return the parsed schema; do not change it."""
    parsed: Mapping[str, Any] = json.loads(schema_text(file))
    return parsed


@cache
def _violations(file: str) -> Callable[[Any], Iterable[Any]]:
    violations: Callable[[Any], Iterable[Any]] = validator(schema(file)).iter_errors
    return violations


def validator(rules: Mapping[str, Any]) -> Any:
    """Return a validator of JSON Schema to which 60000.0 is no integer: RabbitMQ refuses it."""
    from jsonschema import Draft202012Validator, validators  # noqa: PLC0415 - a tenth of a second that most commands save

    integers = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    return validators.extend(Draft202012Validator, type_checker=integers)(rules)  # type: ignore[no-untyped-call]


def check(document: Document, file: str = TOPOLOGY) -> _Faults:
    """Yield the problem of every value that the schema does not allow; each unknown key is a separate problem."""
    for violation in _violations(file)(document.data):
        path: KeyPath = tuple(violation.absolute_path)
        match violation.validator:
            case _ if path in document.doubtful:
                continue  # reported already
            case "additionalProperties":
                yield from _unknown_keys(document, path, violation)
            case "required" | "dependentRequired":
                yield from _missing_keys(document, path, violation)
            case "type" if "enum" in violation.schema:
                continue  # reported better as an enum
            case "type" if "pattern" not in violation.schema:  # the explanation of a pattern says more
                yield path, Problem(document.where(path), *_wrong_type(document, path, violation))
            case _:
                yield path, Problem(document.where(path), *_wrong_value(document, path, violation))


def _unknown_keys(document: Document, path: KeyPath, violation: Any) -> _Faults:
    known = list(violation.schema["properties"])
    inside = f"in {_name(path[:2])}" if path else f"at the top of a {violation.schema['title'].lower()}"
    for key in violation.instance:
        if key not in known:
            advice = f"Did you mean {guess}?" if (guess := suggest(key, known)) else f"Valid keys: {', '.join(known)}."
            yield (*path, key), Problem(document.where_key((*path, key)), f"unknown key {key!r} {inside}", advice)


def _missing_keys(document: Document, path: KeyPath, violation: Any) -> _Faults:
    limit, present = violation.validator_value, violation.instance
    if isinstance(limit, Mapping):  # {a key: the keys it needs}
        for key, needed in limit.items():
            lacking = [each for each in needed if each not in present]
            if key in present and lacking:
                message, advice = f"{key} needs {lacking[0]} too", f'Add {lacking[0]}: "" for the default exchange.'
                yield (*path, key), Problem(document.where_key((*path, key)), message, advice)
        return
    # jsonschema reports each missing key separately, and names it only in its message: report all of them once.
    lacking = [each for each in limit if each not in present]
    if violation.message.startswith(repr(lacking[0])):
        message = f"{_name(path)} lacks {' and '.join(lacking)}"
        inner = next((each for each in ("then", "contract", "retry") if each in path[2:]), "")
        section = inner or (str(path[0]) if path else "")
        yield path, Problem(document.where(path), message, _COMPLETE[section])


def _wrong_type(document: Document, path: KeyPath, violation: Any) -> Fault:
    limit, value = violation.validator_value, violation.instance
    expected = limit if isinstance(limit, str) else limit[0]
    name, source, (noun, example) = _name(path), document.sources.get(path, ""), _NOUNS[expected]
    if value is None and source.startswith("#"):
        advice = f'Quote it: {path[-1]}: "{source}".' if isinstance(path[-1], str) else f'Quote it: "{source}".'
        return f"{name} is empty, because # begins a comment in YAML", advice
    if value is None:
        return f"{name} is empty, but should be {noun}", f"Write {example}, or leave the key out."
    message = f"{name} is {_actual(value, source)}, but should be {noun}"
    if expected == "string" and source:
        return message, f'Quote it: "{source}".'
    if expected == "integer" and isinstance(value, float) and value.is_integer():
        return message, f"Write {value:.0f}."
    is_number = expected == "integer" and isinstance(value, str) and value.lstrip("-").isdecimal()
    if is_number or (expected == "boolean" and value in ("true", "false")):
        return message, f"Write {value} without quotes."
    return message, f"Write {example}."


def _wrong_value(document: Document, path: KeyPath, violation: Any) -> Fault:
    name, limit, value = _name(path), violation.validator_value, violation.instance
    shown = "empty" if value is None else document.sources.get(path) or _short(value)
    match violation.validator:
        case "enum":
            known = [str(each) for each in limit]
            advice = f"Did you mean {guess}?" if (guess := suggest(str(value), known)) else ""
            return f"{name} is {shown}, but should be one of {', '.join(known)}", advice
        case "minimum" | "maximum" as edge:
            beyond, within = ("less", "more") if edge == "minimum" else ("more", "less")
            return f"{name} is {shown}, and cannot be {beyond} than {limit}", f"Write {limit} or {within}."
        case "pattern" | "type":
            example = _short(violation.schema["examples"][0])
            return f"{name} is {shown}, which is not a duration", f"Write a number above 0 and a unit: {example}."
        case "uniqueItems":
            duplicate = next(each for each in value if value.count(each) > 1)
            return f"{name} contains {_short(duplicate)} twice", "Remove one."
        case "minLength" | "minProperties" | "minItems" | "maxItems":
            empty = f"{name} is empty", "Write a value, or leave the key out."
            return (f"{name} has {len(value)} entries, and cannot have more than {limit}", "") if value else empty
        case _:
            return f"{name}: {violation.message}", ""


_KINDS = {
    "exchanges": "exchange",
    "queues": "queue",
    "policies": "policy",
    "services": "service",
    "scenarios": "scenario",
}
_ITEMS = {"bindings": "a binding", "lint": "an entry of lint", "scope": "a name pattern in scope"}


def _name(path: KeyPath) -> str:
    """Name the value at a path: `durable of queue 'a'`, `queue 'a'`, `routing_key`."""
    match path:
        case (str(section), str(name)) if section in _KINDS:
            return f"{_KINDS[section]} {name!r}"
        case ("queues" | "services" | "scenarios" as section, str(name), *_, str(last), int()):
            return f"an entry of {last} in {_KINDS[section]} {name!r}"
        case (str(section), str(name), *_) if section in _KINDS:
            return f"{path[-1]} of {_KINDS[section]} {name!r}"
        case ("bindings" | "lint" | "scope" as section, int()):
            return _ITEMS[section]
        case ("external", str(section), int()):
            return f"a name in external {section}"
        case _:
            return str(path[-1]) if path else "the file"


def _actual(value: Any, source: str) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if source:
        return source if isinstance(value, bool) else f"the number {source}"
    return f"the text {_short(value)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - fits a line of output with the rest
