"""JSON Schemas: the one module that knows jsonschema-rs.

Draft 2020-12, or what `$schema` says (https://json-schema.org/specification); `format` is checked too, in every draft.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from jsonschema_rs import ValidationError, Validator, validator_for

from rmqkit import json_text
from rmqkit.errors import Location, PayloadError, Problem
from rmqkit.payload import formats
from rmqkit.payload.formats import Check
from rmqkit.payload.schema_files import SchemaFiles

MAX_PROBLEMS = 20  # that are told of one body
_UNWANTED = ("additionalProperties", "unevaluatedProperties")
_NEWEST = "https://json-schema.org/draft/2020-12/schema"
_LONGEST = 60  # characters of a rule
# What an error says of the schema; all else in it is of the body.
_LIMITS = ("limit", "types", "property", "options", "pattern", "format", "expected_value", "multiple_of",
           "content_encoding", "content_media_type")  # fmt: skip


def compile_schema(file: Path) -> Check:
    """Return what refuses a body that is not JSON, or not as the schema says. Raises PayloadError for a bad schema."""
    return _Compiler(file).compile()


class _Compiler:
    """Reads a schema and those it refers to, all of them without a fault."""

    def __init__(self, file: Path) -> None:
        self._folder = SchemaFiles(file)
        self._texts: set[str] = set()
        self._base = ""

    def compile(self) -> Check:
        file, folder = self._folder.file, self._folder
        schema = self._read(file)
        folder.raise_problems()
        own = urljoin(folder.uri, schema.get("$id", "") if isinstance(schema, dict) else "")
        self._base = own.rpartition("/")[0] + "/"  # what references are relative to
        try:
            validator = validator_for(schema, validate_formats=True, retriever=self._retrieve, base_uri=folder.uri)
        except ValueError as exc:
            if not folder.problems:
                folder.refuse(file, _in_short(getattr(exc, "message", str(exc)).partition("\n")[0]))
        folder.raise_problems()
        return _JsonSchemaChecker(validator, frozenset(self._texts)).check

    def _retrieve(self, uri: str) -> Any:
        """Return a schema that is referred to. The library makes an error of its own of what this raises."""
        file = self._folder.beside(uri.partition("#")[0], self._base)
        schema = None if file is None else self._read(file)
        if schema is None:
            raise ValueError(uri)
        return schema

    def _read(self, file: Path) -> Any:
        """Return a schema; None, and problems, if it is none."""
        body = self._folder.read(file)
        if body is None:
            return None
        try:
            text, schema = formats.read_json(body, Location(str(file)))
        except PayloadError as exc:
            self._folder.problems += exc.problems
            return None
        try:
            faults = list(islice(_dialect(schema).iter_errors(schema), MAX_PROBLEMS))
        except ValueError:
            self._folder.refuse(file, "its $schema is not known", f"Write {_NEWEST}, or leave it out for that.")
            return None
        for fault in faults:
            place = formats.place(text[: json_text.position_of(text, fault.instance_path)], Location(str(file)))
            self._folder.problems.append(Problem(place, f"not a JSON Schema: {_in_short(fault.message)}"))
        self._texts.update(_texts(schema))
        return schema


def _dialect(schema: Any) -> Validator:
    """Return what checks schemas of a schema's dialect. Raises ValueError if that is not known."""
    name = schema.get("$schema", _NEWEST) if isinstance(schema, dict) else _NEWEST
    return validator_for({"$schema": name, "$ref": name}, validate_formats=True, offline=True)


class _JsonSchemaChecker:
    """A compiled schema, and all texts in it, which an error may show."""

    def __init__(self, validator: Validator, texts: frozenset[str]) -> None:
        self._validator = validator
        self._is_valid = validator.is_valid
        self._texts = texts

    def check(self, body: bytes, where: Location) -> None:
        text, value = formats.read_json(body, where)
        if not self._is_valid(value):
            errors = islice(self._validator.iter_errors(value), MAX_PROBLEMS)
            raise PayloadError("Bad payload", problems=[self._problem(text, where, error) for error in errors])

    def _problem(self, text: str, where: Location, error: ValidationError) -> Problem:
        path = error.instance_path + _unwanted(error)
        place = formats.place(text[: json_text.position_of(text, path)], where)
        return Problem(place, f"{self._pointer(path)} breaks the rule {_rule(error)}")

    def _pointer(self, path: list[str | int]) -> str:
        """Write a JSON pointer (RFC 6901); a name that is not the schema's may be a secret: `*` stands for it."""
        steps = [step if isinstance(step, int) or step in self._texts else "*" for step in path]
        return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps) or "the value"


def _unwanted(error: ValidationError) -> list[str | int]:
    """Return the first name that should not be in the object, if that is the fault."""
    return error.kind.as_dict()["unexpected"][:1] if error.kind.name in _UNWANTED else []


def _rule(error: ValidationError) -> str:
    """Name the keyword, and what the schema says under it."""
    limit = next((value for name, value in error.kind.as_dict().items() if name in _LIMITS), None)
    if isinstance(limit, list) and len(limit) == 1:
        limit = limit[0]
    return error.kind.name if limit is None else f"{error.kind.name}: {_in_short(json.dumps(limit, default=str))}"


def _in_short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a schema, names included."""
    pending = [value]
    while pending:
        match pending.pop():
            case str(text):
                yield text
            case list(items):
                pending += items
            case dict(pairs):
                yield from pairs
                pending += pairs.values()
