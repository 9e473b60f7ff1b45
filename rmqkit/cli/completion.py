"""Completion of names that the broker, the contexts or a topology file know, in bash, zsh and fish.

It runs before the command line is imported, which would take longer than the answer; Typer completes everything else.
Nobody is asked for a password, and a broker that does not answer in time completes nothing. `completion.json`, which
docs/generate.py writes, has the kinds of the arguments and of the values of options.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

VARIABLE = "_RMQKIT_COMPLETE"
TIMEOUT_S = 0.5
_MOST = 100  # names
_OTHER_BROKER = {"--url": "url", "-u": "url", "--context": "context", "--vhost": "vhost", "--api-url": "api_url"}
_OTHER_BROKER |= {"--password-file": "password_file", "--exchange": "exchange", "-e": "exchange"}
# A name of the broker becomes part of a command line: any other is not offered, as a shell could run a part of it.
_HARMLESS = re.compile(r"[\w.:/@+,%*#][\w.:/@+,%*#=-]*")
_KEY = re.compile(r"""\brouting_key:\s*(?:"([^"\n]*)"|'([^'\n]*)'|([^\s"',}#]+))""")
_SHELLS = ("bash", "zsh", "fish")


@dataclass
class _CommandLine:
    """A command line up to the cursor."""

    command: str = ""
    arguments: list[str] = field(default_factory=list)
    values: dict[str, list[str]] = field(default_factory=dict)  # of options, by the names of _OTHER_BROKER
    kind: str = ""  # of the word at the cursor


def run() -> bool:
    """Print the completions of the word at the cursor; return False if Typer is to complete it."""
    shell = os.environ.get(VARIABLE, "").removeprefix("complete_")
    if shell not in _SHELLS:
        return False
    *words, word = _words(shell)
    option, equals, text = word.partition("=")
    head = f"{option}=" if word.startswith("--") and equals else ""
    line = _parse(words[1:], option if head else "")
    if not line.kind or (not head and word.startswith("-")):
        return False
    names: list[str] = []
    search = threading.Thread(target=lambda: names.extend(_search(line, text if head else word)), daemon=True)
    search.start()
    search.join(TIMEOUT_S)
    found = sorted({f"{head}{name}" for name in names if _HARMLESS.fullmatch(name)})
    _print(shell, found, word)
    return True


def _words(shell: str) -> list[str]:
    """Return the words before the cursor, and the one at it, as Typer's scripts for the shells pass them."""
    text = os.environ.get("COMP_WORDS" if shell == "bash" else "_TYPER_COMPLETE_ARGS", "")
    quoted = re.findall(r"(?:\\.|\"[^\"]*\"?|'[^']*'?|[^\s\\\"'])+", text)
    words = [re.sub(r"\\(.)|[\"']", r"\1", each) for each in quoted]
    if shell != "bash":
        return words if text[-1:].strip() else [*words, ""]
    position = int(os.environ.get("COMP_CWORD", "0"))
    joined: list[str] = []
    for each in [*words, ""][: position + 1]:  # bash makes words of ':' and '='
        if joined and (each in (":", "=") or (joined[-1][-1:] in (":", "=") and each)):
            joined[-1] += each
        else:
            joined.append(each)
    return joined


def _parse(words: Sequence[str], option: str) -> _CommandLine:
    """Return the command line with the kind of the word that follows, or of the value of an `option`."""
    table: Mapping[str, Any] = json.loads((Path(__file__).parent / "completion.json").read_bytes())
    line, expected = _CommandLine(), ""
    arguments: Sequence[str] = ()
    options: Mapping[str, str] = table["connection"][1]
    for word in words:
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if expected:
            line.values.setdefault(_OTHER_BROKER.get(expected, expected), []).append(word)
            expected = ""
        elif equals:
            line.values.setdefault(_OTHER_BROKER.get(name, name), []).append(value)
        elif word.startswith("-"):
            expected = word if word in options else ""
        elif line.command in table:
            line.arguments.append(word)
        else:
            line.command = f"{line.command} {word}".strip()
            arguments, own = table.get(line.command, ((), {}))
            options = {**options, **own}
    if option or expected:
        line.kind = options.get(option or expected, "")
    elif arguments:
        line.kind = arguments[min(len(line.arguments), len(arguments) - 1)]
    return line


def _search(line: _CommandLine, prefix: str) -> list[str]:
    try:
        if line.kind == "context":
            from rmqkit import contexts  # noqa: PLC0415 - only where needed

            names: Iterable[str] = contexts.load().by_name
        elif line.kind == "routing_key" and (files := [each for each in line.arguments if Path(each).is_file()]):
            texts = (Path(each).read_text("utf-8", "replace") for each in files)
            names = ["".join(found) for text in texts for found in _KEY.findall(text)]
        else:
            names = _of_broker(line, prefix)
        return [name for name in names if name.startswith(prefix)]
    except Exception:  # noqa: BLE001 - a shell has no place for an error
        return []


def _of_broker(line: _CommandLine, prefix: str) -> list[str]:
    """Ask the HTTP API for names that begin with a text."""
    import base64  # noqa: PLC0415 - only where needed
    import socket  # noqa: PLC0415

    from rmqkit.cli.private_node import api_url  # noqa: PLC0415
    from rmqkit.settings import load_settings  # noqa: PLC0415

    last = {name: values[-1] for name, values in line.values.items()}
    settings = load_settings(
        line.values.get("url", ()),
        context=last.get("context"),
        vhost=last.get("vhost"),
        api_url=last.get("api_url", ""),
        password_file=last.get("password_file"),
        in_use=True,
    )
    if settings.password_source:  # it may ask
        return []
    address = settings.addresses[0]
    url = urlsplit(replace(settings, find_api_url=api_url).http_api_url(address))
    user, password = unquote(url.username or address.username), url.password
    login = f"{user}:{settings.password(address) if password is None else unquote(password)}"
    path, key = _path(line, last, quote(address.vhost, safe=""), quote(f"^{re.escape(prefix)}", safe=""))
    lines = (
        f"GET {url.path.rstrip('/').removesuffix('/api')}{path} HTTP/1.0",
        f"Host: {url.netloc.rpartition('@')[2]}",
        f"Authorization: Basic {base64.b64encode(login.encode()).decode()}",
    )
    # Not http.client, whose import takes as long as all of this; the server closes the connection after the answer.
    host, port = url.hostname or "", url.port or {"http": 80, "https": 443}[url.scheme]
    with socket.create_connection((host, port), TIMEOUT_S) as plain:
        name = host if settings.api_url else address.server_name
        tls = settings.tls_context(address) if url.scheme == "https" else None
        connection = tls.wrap_socket(plain, server_hostname=name) if tls else plain
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        with connection.makefile("rb") as response:
            answer = json.loads(response.read().partition(b"\r\n\r\n")[2])
    items = answer["items"] if isinstance(answer, dict) else answer
    return [each[key] for each in items]


def _path(line: _CommandLine, last: Mapping[str, str], vhost: str, pattern: str) -> tuple[str, str]:
    """Return the path of the HTTP API for names, and the key of a name in its answer."""
    if line.kind == "vhost":
        return "/api/vhosts?columns=name", "name"
    if line.kind == "routing_key":
        exchange = last.get("exchange") or line.arguments[0]
        return f"/api/exchanges/{vhost}/{quote(exchange, safe='')}/bindings/source?columns=routing_key", "routing_key"
    page = f"page=1&page_size={_MOST}&use_regex=true&name={pattern}&columns=name"
    return f"/api/{line.kind}s/{vhost}?{page}&disable_stats=true", "name"


def _print(shell: str, found: Sequence[str], word: str) -> None:
    if shell == "fish" and os.environ.get("_TYPER_COMPLETE_FISH_ACTION") == "is-args":
        sys.exit(0 if found else 1)
    if shell == "bash":  # which replaces what follows the last ':' or '='
        start = max(word.rfind(":"), word.rfind("=")) + 1
        text = "\n".join(re.sub(r"([*#])", r"\\\1", each[start:]) for each in found)
    elif shell == "zsh":  # Typer's script evaluates it
        text = "\n".join('"{}"'.format(each.replace(":", r"\\:")) for each in found)
        text = f"_arguments '*: :(({text}))'" if found else "_files"
    else:
        text = "\n".join(found)
    sys.stdout.buffer.write(f"{text}\n".encode())
