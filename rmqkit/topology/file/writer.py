"""Write a Topology as a file that looks handwritten."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from rmqkit.errors import TopologyError
from rmqkit.model import QUEUE_TYPES, Contract, Publication, Queue, Retry, Suppression, Topology
from rmqkit.topology.file import variables
from rmqkit.topology.file.document import KeyPath
from rmqkit.topology.file.scalars import LONGEST_NUMBER, read_scalar
from rmqkit.topology.file.yaml_errors import MAX_DEPTH
from rmqkit.topology.retry import collapse, delay_text

_WIDTH = 120  # characters of a line that can be broken
_LONGEST_KEY = 1024  # characters; YAML 1.1 and 1.2 allow no longer key
_TOO_LARGE = 10 ** (LONGEST_NUMBER - 1)  # with a sign, too many digits for the reader
_PLAIN = re.compile(r"(?:[^\W\d]|/)[\w./*+@;-]*(?: [\w./*+@;-]+)*|[1-9][0-9]*(?:ms|[smhDMY])")
_ESCAPES = {"\0": "\\0", "\t": "\\t", "\n": "\\n", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def to_yaml(topology: Topology) -> str:
    """Write a topology as a file, without defaults, one entity a line if it fits; reading it returns an equal topology.

    Raises TopologyError for values that a file cannot hold: half a surrogate pair, infinity, nesting of more than 64
    levels, anything but text, numbers, booleans, lists, mappings and null.
    """
    sections = {name: value for name, value in _sections(topology).items() if value} or {"queues": {}}
    return "\n\n".join(_section(name, value) for name, value in sections.items()) + "\n"


def _sections(topology: Topology) -> dict[str, Any]:
    publish = topology.publish
    external = {"exchanges": topology.external_exchanges, "queues": topology.external_queues}
    return {
        "vhost": topology.vhost,
        "description": topology.description,
        "exchanges": {each.name: {"type": each.type} | _given(each) for each in topology.exchanges},
        "queues": {each.name: _queue(each) for each in collapse(topology).queues},
        "bindings": [_given(each) for each in topology.bindings],
        "publish": publish and {"exchange": publish.exchange} | _given(publish),
        "delay": topology.delay,
        "external": {kind: list(names) for kind, names in external.items() if names},
        "policies": {each.name: _given(each) for each in topology.policies},
        "services": {each.name: _given(each) for each in topology.services},
        "scope": list(topology.scope),
        "lint": [{"ignore": each.code} | _given(each) for each in topology.suppressions],
    }


def _queue(queue: Queue) -> dict[str, Any]:
    """Return the properties to write of a queue, its type first."""
    given = _given(queue)
    if (kind := queue.arguments.get("x-queue-type")) not in QUEUE_TYPES:
        return given
    if arguments := {name: value for name, value in queue.arguments.items() if name != "x-queue-type"}:
        return {"type": kind} | given | {"arguments": arguments}
    del given["arguments"]
    return {"type": kind} | given


def _given(entity: Any) -> dict[str, Any]:
    """Return the fields that differ from their defaults, under their names in a file."""
    elsewhere = ("where", "code" if isinstance(entity, Suppression) else "name")
    return {
        "apply-to" if each.name == "apply_to" else each.name: _part(value)
        for each in fields(entity)
        if each.name not in elsewhere and (value := getattr(entity, each.name)) != _default(each)
    }


def _part(value: Any) -> Any:
    if isinstance(value, Retry):
        written = {"delays": [delay_text(each) for each in value.delays_ms], "then": value.then}
        return written | ({"native": True} if value.native else {})
    if isinstance(value, tuple):
        return [_part(each) for each in value]
    return _given(value) if isinstance(value, Contract | Publication) else value


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _section(name: str, value: Any) -> str:
    if name == "description" and _is_plain(value.replace(", ", " ")):  # a comma ends a text only inside braces
        return f"{name}: {value}"
    if name in ("exchanges", "queues", "bindings", "policies", "services", "lint") and value:
        return "\n".join([f"{name}:", *_block(value, "  ", (name,))])
    return "\n".join(_entry(f"{name}:", value, (name,)))


def _block(value: Any, indent: str, path: KeyPath) -> Iterator[str]:
    """Yield the lines of a mapping or list, an entry each if it is short."""
    entries = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, item in entries:
        head = f"{indent}{_key(key, path)}:" if isinstance(value, Mapping) else f"{indent}-"
        yield from _entry(head, item, (*path, key))


def _entry(head: str, value: Any, path: KeyPath) -> Iterator[str]:
    """Yield a value after its key or dash, on separate lines if it is too long for one."""
    line = f"{head} {_flow(value, path)}"
    if len(line) <= _WIDTH or not value or not isinstance(value, list | Mapping):
        yield line
        return
    indent = " " * (len(head) - len(head.lstrip()) + 2)
    first, *rest = _block(value, indent, path)
    yield from [f"{head} {first.lstrip()}"] if head.endswith("-") else [head, first]
    yield from rest


def _flow(value: Any, path: KeyPath) -> str:
    match value:
        case str():
            return _text(value, path)
        case bool() | None:
            return {True: "true", False: "false", None: "null"}[value]
        case int() if abs(value) < _TOO_LARGE:
            return str(value)
        case float() if math.isfinite(value):
            text = repr(value)  # YAML 1.1 requires a point before an exponent
            return text if "." in text else text.replace("e", ".0e")
        case list() | Mapping() if len(path) >= MAX_DEPTH:
            raise _refusal(path, f"the nesting is deeper than {MAX_DEPTH} levels")
        case list():
            return f"[{', '.join(_flow(item, (*path, index)) for index, item in enumerate(value))}]"
        case Mapping():
            return f"{{{', '.join(f'{_key(key, path)}: {_flow(item, (*path, key))}' for key, item in value.items())}}}"
        case _:
            raise _refusal(path, f"this {type(value).__name__} cannot be written")


def _key(key: Any, path: KeyPath) -> str:
    if not isinstance(key, str):
        raise _refusal(path, f"a key must be text, not {type(key).__name__}")
    if len(written := _text(key, path)) > _LONGEST_KEY:
        raise _refusal(path, f"the key {key[:30]!r}... is longer than {_LONGEST_KEY} characters")
    return written


def _text(text: str, path: KeyPath) -> str:
    """Write a text as it is, or in quotes if it needs them; raise TopologyError for half a surrogate pair."""
    if _is_plain(text):
        return text
    text = variables.escape(text)
    if text.isprintable() and "'" not in text and ('"' in text or "\\" in text):
        return f"'{text}'"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _refusal(path, f"the lone surrogate U+{ord(text[error.start]):04X} is not a character") from error
    return f'"{"".join(map(_escape, text))}"'


def _is_plain(text: str) -> bool:
    """Tell whether every reader reads the unquoted text as the same text."""
    return bool(_PLAIN.fullmatch(text)) and read_scalar(text) == (text, "", "")


def _escape(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"  # noqa: PLR2004


def _refusal(path: KeyPath, message: str) -> TopologyError:
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
    return TopologyError(f"{place}: {message}", advice="A topology file cannot hold it.")
