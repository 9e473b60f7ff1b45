"""XML Schemas (XSD 1.0): the only module that imports lxml.

Neither a schema nor a body may have a DOCTYPE, so that there is no entity to expand; a body's `xsi:schemaLocation` is
never followed.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rmqkit.errors import Location, PayloadError, Problem, SettingsError
from rmqkit.payload import formats
from rmqkit.payload.formats import Check
from rmqkit.payload.schema_files import SchemaFiles

try:
    from lxml import etree
except ImportError as exc:
    raise SettingsError(
        "an XML Schema needs the package lxml, which is not installed", advice="Run `pip install 'rmqkit[xsd]'`."
    ) from exc

MAX_PROBLEMS = 20  # reported of one body
_NAME = re.compile(r"[^/\[\]*:@]+(?=\[|/|$)")  # of a step in a path, without its prefix


def compile_schema(file: Path) -> Check:
    """Return a check of bodies: XML that keeps to the schema. Raises PayloadError for a bad schema."""
    files = SchemaFiles(file)
    resolver = _XmlSchemaResolver(files)
    schema = None
    if (body := resolver.read(file)) is not None:
        parser = _parser()
        parser.resolvers.add(resolver)
        try:
            schema = etree.XMLSchema(etree.fromstring(body, parser, base_url=str(files.folder / file.name)))
        except etree.LxmlError as exc:
            if not files.problems:
                files.problems += [
                    Problem(Location(str(file), each.line, each.column + 1), f"not an XML Schema: {each.message}")
                    for each in exc.error_log
                ]
    files.raise_problems()
    return _XmlSchemaChecker(schema, frozenset(resolver.names)).check


def _parser() -> Any:
    return etree.XMLParser(no_network=True, resolve_entities=False, load_dtd=False, huge_tree=False)


class _XmlSchemaResolver(etree.Resolver):  # type: ignore[misc] # lxml has no types
    """Finds the files a schema includes and imports; `names` are those of elements and attributes."""

    def __init__(self, files: SchemaFiles) -> None:
        super().__init__()
        self._files = files
        self.names: set[str] = set()

    def resolve(self, url: str, _public_id: object, context: object) -> Any:
        """Return a file to libxml2, which would skip an import that does not exist."""
        file = self._files.resolve(url, f"{self._files.folder}/")
        body = None if file is None else self.read(file)
        return self.resolve_string(body or b"<none/>", context, base_url=url)

    def read(self, file: Path) -> bytes | None:
        """Return well-formed XML; None, and record a problem, if it is not."""
        return self._files.read(file, self._parse)

    def _parse(self, body: bytes, where: Location) -> bytes:
        formats.check_xml(body, where)
        try:
            root = etree.fromstring(body, _parser())
        except etree.XMLSyntaxError as exc:
            raise formats.error_at(where, f"not well-formed XML: {exc}") from None
        self.names.update(filter(None, (each.get("name") for each in root.iter())))
        return body


class _XmlSchemaChecker:
    """A compiled schema, and the names in it, which an error may show."""

    def __init__(self, schema: Any, names: frozenset[str]) -> None:
        self._schema = schema
        self._names = names
        self._parser = _parser()
        self._lock = threading.Lock()  # the schema keeps the errors of its last document

    def check(self, body: bytes, where: Location) -> None:
        formats.check_xml(body, where)
        try:
            document = etree.fromstring(body, self._parser)
        except etree.XMLSyntaxError as exc:  # libxml2 has limits that expat lacks
            place = Location(where.file, (where.line or 1) + (exc.lineno or 1) - 1, 1)
            raise formats.error_at(place, "not XML that libxml2 can read") from None
        with self._lock:
            if self._schema.validate(document):
                return
            problems = list(islice(self._problems(where), MAX_PROBLEMS))
        raise PayloadError("Bad payload", problems=problems)

    def _problems(self, where: Location) -> Iterator[Problem]:
        for error in self._schema.error_log:
            rule = error.type_name.removeprefix("SCHEMAV_").lower().replace("_", "-")
            path = _NAME.sub(self._known, error.path or "the document")
            place = Location(where.file, (where.line or 1) + max(error.line, 1) - 1, 1)
            yield Problem(place, f"{path} breaks the rule {rule}")

    def _known(self, found: re.Match[str]) -> str:
        """Return a name of the schema; any other may be secret, and becomes `*`."""
        return found[0] if found[0] in self._names else "*"
