"""Read YAML into plain data, and record the place of every value.

PyYAML's events are read, never its object loaders: no tag is obeyed, no alias followed, and only dicts, lists and
scalars are built. Scalars are read by YAML 1.2; those that YAML 1.1 reads differently (`on`, `017`, `1:30`, dates) are
problems, because their meaning is ambiguous.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from rmqkit.errors import Location, Problem
from rmqkit.model import Variable
from rmqkit.topology.file import variables
from rmqkit.topology.file.scalars import NOT_TEXT, read_scalar
from rmqkit.topology.file.text import check_characters, failed, fatal, read_text
from rmqkit.topology.file.yaml_errors import MAX_DEPTH, TOO_DEEP, Trap, explain, find_trap
from rmqkit.topology.names import Fault

MAX_PROBLEMS = 100  # a file with more is not a topology
MAX_REPAIRS = 20  # each one reads the file again

_SURROGATE = re.compile("[\ud800-\udfff]")
_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # libyaml yields the same events many times faster

KeyPath = tuple[str | int, ...]
"""The keys and list positions that lead to a value from the top."""


@dataclass(slots=True)
class Document:
    """A file as plain data: a dict at the top, and the place of everything in it.

    `values` and `keys` hold the places of values and keys. `sources` holds the source text of values that are not text
    (a number, a boolean; for an empty value, the comment in its place). `problems` are those that did not end the
    reading, and `doubtful` the values they are about: these are read as text, and not reported again. `variables` are
    those that were resolved.
    """

    file: str
    data: dict[str, Any] = field(default_factory=dict)
    values: dict[KeyPath, Location] = field(default_factory=dict)
    keys: dict[KeyPath, Location] = field(default_factory=dict)
    sources: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    doubtful: set[KeyPath] = field(default_factory=set)
    variables: set[Variable] = field(default_factory=set)

    def where(self, path: KeyPath) -> Location:
        """Return the place of a value, or of the innermost value around it."""
        while path and path not in self.values:
            path = path[:-1]
        return self.values[path]

    def where_key(self, path: KeyPath) -> Location:
        """Return the place of the key of a value, or of the value itself if it is in a list."""
        return self.keys.get(path) or self.where(path)


def read(path: str | Path, environ: Mapping[str, str] = os.environ) -> Document:
    """Read a file; raise DocumentError if it cannot be read, or is not a YAML mapping."""
    return parse(read_text(path), str(path), environ)


def parse(text: str, file: str = "<text>", environ: Mapping[str, str] = os.environ) -> Document:
    """Read YAML text, with variables from `environ`; raise DocumentError if it is invalid.

    A routing key that YAML takes for a comment or an alias often breaks the syntax: it is reported and read as text, so
    that the rest of the file is checked too.
    """
    check_characters(text, file)
    text, braces = variables.hide_braces(text)
    traps: dict[int, Trap] = {}
    while True:
        reader = _YamlReader(text, braces, traps, Document(file), environ)
        try:
            reader.read()
        except yaml.YAMLError as error:
            index = _index(error)
            trap = find_trap(text, index) if len(traps) < MAX_REPAIRS else None
            if trap:
                traps[trap.index] = trap
                text = text[: trap.index] + "_" + text[trap.index + 1 :]
                continue
            message, advice = explain(getattr(error, "problem", None) or str(error), text, index)
            index = _index(error, opening="is not closed" in message or "lacks" in message)
            reader.problem(Location(file).after(text[:index]), message, advice)
            raise failed(reader.all_problems()) from error
        reader.document.problems = reader.all_problems()
        if len(reader.problems) >= MAX_PROBLEMS:
            raise failed(reader.document.problems)
        return reader.document


def _index(error: yaml.YAMLError, *, opening: bool = False) -> int:
    """Return the position at which reading stopped, or at which the unfinished value began."""
    mark = getattr(error, "context_mark" if opening else "problem_mark", None) or getattr(error, "problem_mark", None)
    return mark.index if mark else 0


@dataclass(slots=True)
class _YamlReader:
    """The events of a text, read into a document; those of a list or mapping are read up to its end."""

    text: str
    braces: Mapping[int, str]  # the characters that stand for those of variables
    traps: dict[int, Trap]
    document: Document
    environ: Mapping[str, str]
    problems: list[Problem] = field(default_factory=list)
    events: Iterator[Any] = field(init=False)

    def read(self) -> None:
        file, root = self.document.file, None
        self.events = self._first_document()
        for event in self.events:
            if isinstance(event, yaml.NodeEvent):
                root = self._node(event, ())
        if root is None:
            raise fatal(Location(file), "the file is empty", "Write at least `queues:` and a name below it.")
        if not isinstance(root, dict):
            kind = "a list" if isinstance(root, list) else "text or a number"
            advice = "Write `exchanges:`, `queues:` and `bindings:` at the top."
            raise fatal(self.document.values[()], f"the file has {kind} at the top, not named sections", advice)
        self.document.data = root

    def _first_document(self) -> Iterator[Any]:
        """Yield the events of the first document, until there are too many problems."""
        documents = 0
        for event in yaml.parse(self.text, Loader=_Loader):
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    advice = "Put it into a separate file: `rmqkit apply` takes several."
                    self.problem(self._at(event), "a second YAML document begins here", advice)
                    return
            if len(self.problems) >= MAX_PROBLEMS:
                return
            yield event

    def all_problems(self) -> list[Problem]:
        start = Location(self.document.file)
        found = [Problem(start.after(self.text[:index]), *trap.fault) for index, trap in self.traps.items()]
        return sorted(found + self.problems, key=lambda each: (each.where.line, each.where.column))

    def problem(self, where: Location, message: str, advice: str) -> None:
        self.problems.append(Problem(where, message, advice))

    def _fault(self, where: Location, fault: Fault) -> None:
        self.problem(where, *fault)

    def _at(self, event: Any) -> Location:
        return Location(self.document.file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _node(self, event: Any, path: KeyPath) -> Any:
        """Return the value that begins with an event."""
        self.document.values[path] = where = self._at(event)
        if isinstance(event, yaml.ScalarEvent | yaml.AliasEvent):
            return self._value(event, path, where)
        self._check_plain(event, where)
        if len(path) >= MAX_DEPTH:
            raise failed([*self.problems, Problem(where, *TOO_DEEP)])
        return self._mapping(path) if isinstance(event, yaml.MappingStartEvent) else self._list(path)

    def _list(self, path: KeyPath) -> list[Any]:
        items: list[Any] = []
        for event in self.events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, (*path, len(items))))
        return items

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._key(event, path, entries)
            entries.setdefault(key)
            if value := next(self.events, None):
                entries[key] = self._node(value, (*path, key))
        return entries

    def _value(self, event: Any, path: KeyPath, where: Location) -> Any:
        """Return a scalar that is not a key, and record its source."""
        count = len(self.problems)
        value, source = self._scalar(event, where)
        trap = self.traps.get(event.start_mark.index)
        if trap:
            value = trap.word[0] + str(value)[1:]
        if value is None and (comment := re.match(r"[ \t]*(#\S*)", self.text[event.end_mark.index :][:200])):
            source = comment[1].translate(self.braces)
        if not isinstance(value, str):
            self.document.sources[path] = source
        if trap or len(self.problems) > count:
            self.document.doubtful.add(path)
        return value

    def _scalar(self, event: Any, where: Location) -> tuple[Any, str]:
        """Return the value and source of a scalar, with its variables resolved; an ambiguous one is text."""
        if isinstance(event, yaml.AliasEvent):
            source = f"*{event.anchor}"
            advice = f'Write "{source}" in quotes if the star is intended, or write the value out.'
            self.problem(where, f"{source} is a YAML alias, and aliases are not supported", advice)
            return source, source
        self._check_plain(event, where)
        text = source = event.value.translate(self.braces)
        if "${" in source:
            text = variables.resolve(source, self.environ, self.document.variables.add, partial(self._fault, where))
        if surrogate := _SURROGATE.search(text):
            message = f"the lone surrogate U+{ord(surrogate[0]):04X} is not a character"
            self.problem(where, message, "Write the character itself.")
            return "?", source
        if event.style or (text != source and not variables.is_variable(source)):
            return text, source  # quoted, a block, or with a variable in it: always text
        value, message, advice = read_scalar(text)
        if message and text == source:
            self.problem(where, message, advice)
        return value, source

    def _key(self, event: Any, path: KeyPath, entries: Mapping[str, Any]) -> str:
        """Return the key that begins with an event; a list or mapping is read, and dropped."""
        where = self._at(event)
        if isinstance(event, yaml.CollectionStartEvent):
            key = f"key at {where.line}:{where.column}"
            self.problem(where, "a list or mapping cannot be a key", "Write text before the colon.")
            self._node(event, (*path, key))
            return key
        value, source = self._scalar(event, where)
        key = value if isinstance(value, str) else source
        if value == "<<" and self.text.startswith("<<", event.start_mark.index):
            self.problem(where, "<< is a YAML merge key, and merge keys are not supported", "Write the entries out.")
        elif not isinstance(value, str):
            kind = NOT_TEXT[type(value)]
            advice = f'Quote it: "{key}".' if key else "Write a name before the colon."
            self.problem(where, f"{key or 'this key'} is {kind}, but a key must be text", advice)
        if key in entries:
            first = self.document.keys[*path, key]
            message = f"duplicate key {key!r}: in line {first.line} and in line {where.line}"
            self.problem(where, message, "Remove or rename one.")
        else:
            self.document.keys[*path, key] = where
        return key

    def _check_plain(self, event: Any, where: Location) -> None:
        if event.anchor:
            message = f"&{event.anchor} is a YAML anchor, and anchors are not supported"
            self.problem(where, message, "Remove it, or quote it.")
        if event.tag:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.problem(where, f"{tag} is a YAML tag, and tags are not supported", "Remove it, or quote it.")
