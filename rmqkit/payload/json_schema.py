"""JSON Schemas: the only module that imports jsonschema-rs.

Draft 2020-12, or the draft that `$schema` names (https://json-schema.org/specification); `format` is checked in every
draft.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from jsonschema_rs import ValidationError, Validator, validator_for

from rmqkit import strict_json
from rmqkit.errors import Location, PayloadError, Problem
from rmqkit.payload import formats
from rmqkit.payload.formats import Check
from rmqkit.payload.schema_files import SchemaFiles

MAX_PROBLEMS = 20  # reported of one body
_UNWANTED = ("additionalProperties", "unevaluatedProperties")
_NEWEST = "https://json-schema.org/draft/2020-12/schema"
_LONGEST = 60  # characters of a rule
# The parts of an error that come from the schema; all others come from the body.
_LIMITS = ("limit", "types", "property", "options", "pattern", "format", "expected_value", "multiple_of",
           "content_encoding", "content_media_type")  # fmt: skip


def compile_schema(file: Path) -> Check:
    """Return a check of bodies: JSON that keeps to the schema. Raises PayloadError for a bad schema."""
    return _JsonSchemaCompiler(file).compile()


class _JsonSchemaCompiler:
    """Reads a schema and those it refers to, and checks them all."""

    def __init__(self, file: Path) -> None:
        self._files = SchemaFiles(file)
        self._texts: set[str] = set()
        self._base = ""

    def compile(self) -> Check:
        file, files = self._files.file, self._files
        schema = self._read(file)
        files.raise_problems()
        own = urljoin(files.uri, schema.get("$id", "") if isinstance(schema, dict) else "")
        self._base = own.rpartition("/")[0] + "/"  # references are relative to it
        try:
            validator = validator_for(schema, validate_formats=True, retriever=self._retrieve, base_uri=files.uri)
        except ValueError as exc:
            if not files.problems:
                files.refuse(file, _shortened(getattr(exc, "message", str(exc)).partition("\n")[0]))
        files.raise_problems()
        return _JsonSchemaChecker(validator, frozenset(self._texts)).check

    def _retrieve(self, uri: str) -> Any:
        """Return a schema referred to. The library replaces an error raised here with its own."""
        file = self._files.resolve(uri.partition("#")[0], self._base)
        schema = None if file is None else self._read(file)
        if schema is None:
            raise ValueError(uri)
        return schema

    def _read(self, file: Path) -> Any:
        """Return a schema; None, and record problems, if it is not one."""
        found = self._files.read(file, formats.read_json)
        if found is None:
            return None
        text, schema = found
        try:
            faults = list(islice(_dialect(schema).iter_errors(schema), MAX_PROBLEMS))
        except ValueError:
            self._files.refuse(file, "its $schema is not known", f"Write {_NEWEST}, or omit it for that draft.")
            return None
        for fault in faults:
            place = Location(str(file)).after(text[: strict_json.position_of(text, fault.instance_path)])
            self._files.problems.append(Problem(place, f"not a JSON Schema: {_shortened(fault.message)}"))
        self._texts.update(_texts(schema))
        return schema


def _dialect(schema: Any) -> Validator:
    """Return the validator for schemas of this schema's draft. Raises ValueError for an unknown one."""
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
        kind, path = error.kind, error.instance_path
        if kind.name in _UNWANTED:
            path = path + kind.as_dict()["unexpected"][:1]
        place = where.after(text[: strict_json.position_of(text, path)])
        return Problem(place, f"{self._pointer(path)} breaks the rule {_rule(error)}")

    def _pointer(self, path: list[str | int]) -> str:
        """Write a JSON pointer (RFC 6901); a name that is not in the schema may be secret, and becomes `*`."""
        steps = [step if isinstance(step, int) or step in self._texts else "*" for step in path]
        return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps) or "the value"


def _rule(error: ValidationError) -> str:
    limit = next((value for name, value in error.kind.as_dict().items() if name in _LIMITS), None)
    if isinstance(limit, list) and len(limit) == 1:
        limit = limit[0]
    return error.kind.name if limit is None else f"{error.kind.name}: {_shortened(json.dumps(limit, default=str))}"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _texts(value: Any) -> Iterator[str]:
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
