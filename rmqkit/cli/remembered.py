"""What was applied last to a broker, so that `rmqkit publish` knows where to publish.

Comes in: settings, and the topology that was applied. Goes out: its publish target. Room: cli.

A file per broker and virtual host in the user's state folder, for its owner alone, and with no password. It is a
convenience: what cannot be written or read is a warning, never an error.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from rmqkit.cli import output
from rmqkit.model import Target, Topology
from rmqkit.settings import Settings

_LOOPBACK = {"127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class Remembered:
    """The publish target of the topology applied last (None: it names none), and the files it came from."""

    target: Target | None
    files: tuple[str, ...]


def remember(settings: Settings, topology: Topology, files: Sequence[str]) -> None:
    """Keep what was applied, in place of what was kept before."""
    import tempfile  # noqa: PLC0415 - start-up time: `publish` only reads

    file = _file(settings)
    target = topology.publish
    kept = {
        "broker": _key(settings),
        "files": list(files),
        "publish": target and {"exchange": target.exchange, "routing_key": target.routing_key},
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=file.parent)  # readable for its owner only
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as new:
                json.dump(kept, new, indent=2)
            Path(name).replace(file)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(name).unlink()
            raise
    except OSError as error:
        output.warn(f"what was applied could not be remembered in {file}: {error.strerror}")


def recall(settings: Settings) -> Remembered | None:
    """Return what was applied last to this broker and virtual host; None when nothing was."""
    file = _file(settings)
    try:
        kept = json.loads(file.read_bytes())
        publish = kept["publish"]
        target = None if publish is None else Target(_text(publish["exchange"]), _text(publish["routing_key"]))
        return Remembered(target, tuple(map(_text, kept["files"])))
    except FileNotFoundError:
        return None
    except OSError as error:
        output.warn(f"what was applied last cannot be read from {file}: {error.strerror}")
    except (ValueError, KeyError, TypeError, RecursionError):
        output.warn(f"what was applied last cannot be read from {file}: not what rmqkit writes there; it is ignored")
    return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _key(settings: Settings) -> str:
    address = settings.addresses[0]
    if address.host in _LOOPBACK:  # the same broker as localhost
        return f"localhost{address.key[address.key.rindex(f':{address.port}/') :]}"
    return address.key


def _file(settings: Settings) -> Path:
    name = hashlib.sha256(_key(settings).encode(errors="surrogatepass")).hexdigest()[:32]
    return Path(platformdirs.user_state_dir("rmqkit", appauthor=False)) / "applied" / f"{name}.json"
