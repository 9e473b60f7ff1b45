"""Contexts: named brokers, in `config.toml` in the user's configuration folder.

    current = "dev"

    [contexts.prod]
    url = ["amqps://ada@rabbit1.example", "amqps://ada@rabbit2.example"]
    password_command = ["pass", "show", "rabbit"]
    protected = true

The command line reads and writes the file; the library reads it only for a context that the caller or a variable names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rmqkit.address import Tls, parse_urls, split_urls
from rmqkit.errors import Location, Problem, SettingsError
from rmqkit.password import PasswordSource

COLORS = ("red", "yellow", "green", "blue", "magenta", "cyan")
NAME = re.compile(r"[^\W_][\w.@:+-]*")  # nothing that a shell or an option would need quotes for
_PATHS = ("password_file", "tls_ca_file", "tls_cert_file", "tls_key_file", "tls_key_password_file")
_LOGIN = re.compile(r"(?P<user>[a-z]+://[^:@/?]*):(?P<password>[^@/?]*)@(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_PASSWORDS = ("password", "password_file", "password_command", "password_keyring")


@dataclass(frozen=True, slots=True)
class Context:
    """The values of a named broker, for which options and variables may set others; empty ones are not set.

    At most one field of the password is set. Paths are absolute. A `protected` context is confirmed by its name before
    anything is deleted or moved.
    """

    name: str = ""
    url: tuple[str, ...] = field(default=(), repr=False)  # may contain a password, as `api_url` may
    api_url: str = field(default="", repr=False)
    vhost: str | None = None
    password: str = field(default="", repr=False)
    password_file: str = ""
    password_command: tuple[str, ...] = field(default=(), repr=False)
    password_keyring: bool = False
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    tls_key_password_file: str = ""
    tls_insecure: bool = False
    color: str = ""
    protected: bool = False

    def __str__(self) -> str:
        return f"context {self.name!r}" if self.name else ""

    @property
    def tls(self) -> Tls:
        """Return its TLS files."""
        return Tls(
            self.tls_ca_file,
            self.tls_cert_file,
            self.tls_key_file,
            insecure=self.tls_insecure,
            key_password_file=self.tls_key_password_file,
        )

    @property
    def has_password(self) -> bool:
        """Tell whether it says where the password is kept."""
        return any(getattr(self, each) for each in _PASSWORDS)

    @property
    def password_source(self) -> PasswordSource | None:
        """Return the command or keyring entry that has the password, if any."""
        if self.password_command or self.password_keyring:
            return PasswordSource(self.name, self.password_command)
        return None


FIELDS = {each.name: each for each in fields(Context) if each.name != "name"}
_LISTS = {name for name, each in FIELDS.items() if str(each.type).startswith("tuple")}
_FLAGS = {name for name, each in FIELDS.items() if each.type == "bool"}


@dataclass(frozen=True, slots=True)
class Contexts:
    """All contexts by name, in the order of the file, and the name of the one in use (empty: none)."""

    by_name: Mapping[str, Context] = field(default_factory=dict)
    current: str = ""

    def find(self, name: str) -> Context:
        """Return a context; raise SettingsError for an unknown name."""
        if name not in self.by_name:
            close = _similar(name, self.by_name)
            advice = f"Did you mean {' or '.join(close)}?" if close else "`rmqkit context list` shows all of them."
            raise SettingsError(f"unknown context {name!r}", advice=advice)
        return self.by_name[name]


def config_file() -> Path:
    """Return the path of the file, which need not exist."""
    import platformdirs  # noqa: PLC0415 - start-up time: a URL needs no context

    return Path(platformdirs.user_config_dir("rmqkit", appauthor=False)) / "config.toml"


def load() -> Contexts:
    """Read all contexts; raise SettingsError, with every problem of the file."""
    file = config_file()
    try:
        text = file.read_text("utf-8")
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return Contexts()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    if mode & 0o022:  # it names commands that rmqkit runs
        raise SettingsError(f"{file}: other users can change this file", advice=f"Run `chmod 600 {file}`.")
    return parse(text, file)


def parse(text: str, file: Path) -> Contexts:
    """Return the contexts of a file's text; raise SettingsError, with every problem, and no value."""
    import tomllib  # noqa: PLC0415 - start-up time: most users have no contexts

    try:
        root = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        place = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
        where = Location(str(file), *map(int, place.groups())) if place else Location(str(file))
        raise SettingsError(f"{where}: not valid TOML") from None
    tables = root.get("contexts", {})
    problems = [Problem(Location(str(file)), message) for message in _problems(root, tables)]
    if problems:
        raise SettingsError(f"{file} cannot be used", problems=problems)
    return Contexts(
        {name: _context(name, table, file.parent) for name, table in tables.items()}, root.get("current", "")
    )


def put(contexts: Mapping[str, Mapping[str, Any]], *, force: bool = False) -> None:
    """Add contexts by name; raise SettingsError, having added none, if one exists, unless `force`."""

    def add(known: Any) -> None:
        if not force:
            _refuse(name for name in contexts if name in known)
        known.update({name: _as_toml(values) for name, values in contexts.items()})

    _change(lambda document: add(document["contexts"]))


def check_new(names: Iterable[str]) -> None:
    """Raise SettingsError if one of the names is taken: before a password is stored under it."""
    known = load().by_name
    _refuse(name for name in names if name in known)


def _refuse(taken: Iterable[str]) -> None:
    if names := ", ".join(taken):
        raise SettingsError(f"context already exists: {names}", advice="Use `force=True` to replace it.")


def edit(name: str, values: Mapping[str, Any], unset: Iterable[str]) -> Context:
    """Change values of a context, and remove those named in `unset`; another password replaces the known one."""

    def change(context: Any) -> None:
        gone = {*unset, *(_PASSWORDS if values.keys() & set(_PASSWORDS) else ())}
        for key in gone & context.keys():
            del context[key]
        context.update(_as_toml(values))

    return _change(lambda document: change(document["contexts"][name])).find(name)


def _as_toml(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as a person would write them: a single URL as a text."""
    urls = values.get("url", ())
    return {**values} | ({"url": urls[0]} if len(urls) == 1 else {})


def remove(name: str) -> None:
    """Remove a context; if it is the one in use, none is. Raises SettingsError."""

    def change(document: Any) -> None:
        del document["contexts"][name]
        if document.get("current") == name:
            del document["current"]

    _change(change)


def use(name: str) -> None:
    """Use a context where no other broker is named; an empty name uses none. Raises SettingsError."""
    load().find(name) if name else None
    _change(lambda document: document.update({"current": name}) if name else document.pop("current", None))


def _change(edit: Callable[[Any], object]) -> Contexts:
    """Change the file in one step, keeping its comments, and return the contexts. Raises SettingsError.

    Other programs that change it wait; a change that would make the file unusable is refused.
    """
    import fcntl  # noqa: PLC0415 - start-up time: only commands that write the file need these

    import tomlkit  # noqa: PLC0415

    from rmqkit.atomic_file import replace_file  # noqa: PLC0415

    file = config_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            load()  # which reports what is wrong with it now
            document = tomlkit.parse(file.read_text("utf-8") if file.exists() else "")
            if "contexts" not in document:
                document["contexts"] = tomlkit.table(is_super_table=True)
            edit(document)
            text = tomlkit.dumps(document)
            try:
                changed = parse(text, file)
            except SettingsError as error:
                raise SettingsError("no context was changed", problems=error.problems) from None
            replace_file(file.resolve(), text, private=True)
        finally:
            os.close(folder)
    except OSError as error:
        raise SettingsError(f"{file} cannot be written: {error.strerror}") from None
    return changed


def _problems(root: Mapping[str, Any], tables: object) -> Iterator[str]:
    for key in root.keys() - {"current", "contexts"}:
        yield f"unknown key {key!r}; known: current, contexts"
    current = root.get("current", "")
    if not isinstance(tables, dict):
        yield "contexts must be a table"
    elif not isinstance(current, str) or (current and current not in tables):
        yield "current must be the name of a context"
    for name, table in tables.items() if isinstance(tables, dict) else ():
        if not NAME.fullmatch(name):
            yield f"context {name!r}: a name begins with a letter or digit; letters, digits and . _ - @ : + may follow"
        for message in _problems_of(table) if isinstance(table, dict) else ["not a table"]:
            yield f"context {name!r}: {message}"


def _problems_of(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        if key not in FIELDS:
            close = _similar(key, FIELDS)
            yield f"unknown key {key!r}{f'; did you mean {close[0]}?' if close else ''}"
        elif key in _FLAGS and not isinstance(value, bool):
            yield f"{key} must be true or false"
        elif key in _LISTS and not _is_list(value) and not (key == "url" and isinstance(value, str)):
            yield f"{key} must be a list of strings"
        elif key not in _FLAGS | _LISTS and not isinstance(value, str):
            yield f"{key} must be a string"
    if not table.get("url"):
        yield "url is missing"
    if table.get("color", COLORS[0]) not in COLORS:
        yield f"color must be one of {', '.join(COLORS)}"
    if len(given := [key for key in _PASSWORDS if table.get(key)]) > 1:
        yield f"{' and '.join(given)} cannot be combined"


def _is_list(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)


def _context(name: str, table: Mapping[str, Any], folder: Path) -> Context:
    values = dict(table)
    for key in _LISTS & table.keys():
        values[key] = (table[key],) if isinstance(table[key], str) else tuple(table[key])
    for key in values.keys() & set(_PATHS):
        values[key] = str(folder / Path(values[key]).expanduser()) if values[key] else ""
    return Context(name, **values)


def _similar(name: str, known: Iterable[str]) -> list[str]:
    from difflib import get_close_matches  # noqa: PLC0415 - only for errors

    return get_close_matches(name, known)


def has_password(url: str) -> bool:
    """Tell whether a URL holds a password other than the one that RabbitMQ is installed with."""
    addresses = parse_urls(url)
    return any(each.tls_options.key_password or each.password not in (None, "guest", "") for each in addresses)


def split_password(urls: Iterable[str]) -> tuple[list[str], str]:
    """Return URLs without their password, and the password; that of guest stays, as everybody knows it.

    Raises SettingsError for a URL that cannot be used, for different passwords, and for the password of a key.
    """
    bare, secrets = [], set()
    for url in (one for text in urls for one in split_urls(text)):
        if not has_password(url):
            bare.append(url)
            continue
        found = _LOGIN.fullmatch(url)
        if not found or has_password(without := f"{found['user']}@{found['rest']}"):
            raise SettingsError("the URL contains the password of a private key", advice="Use `key_password_file=`.")
        bare.append(without)
        secrets.add(unquote(found["password"]))
    if len(secrets) > 1:
        raise SettingsError("the URLs contain different passwords")
    return bare, secrets.pop() if secrets else ""


def shown(url: str) -> str:
    """Return a URL of the HTTP API as it may be shown: without its password."""
    found = _LOGIN.fullmatch(url)
    return f"{found['user']}:***@{found['rest']}" if found else url
