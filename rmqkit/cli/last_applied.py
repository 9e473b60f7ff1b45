"""What was applied last to a broker, so that `rmqkit publish` and `consume` know what the broker does not.

A file per broker and virtual host in the user's state folder, for its owner alone, and with no password. It is a
convenience: what cannot be written or read is a warning, never an error.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from rmqkit.cli import output
from rmqkit.model import Contract, Exchange, Queue, Retry, Target, Topology
from rmqkit.settings import Settings

_LOOPBACK = {"127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class LastApplied:
    """Of the topology applied last: its publish target (None: it names none), and the files it came from.

    `exchanges` and `queues` have the contracts by name, `dead_letters` where what a queue rejects goes; there an empty
    routing key is the message's own, and None stands for a queue that drops it. `retries` has the retries of queues.
    """

    target: Target | None
    files: tuple[str, ...]
    exchanges: Mapping[str, Contract] = field(default_factory=dict)
    queues: Mapping[str, Contract] = field(default_factory=dict)
    dead_letters: Mapping[str, Target | None] = field(default_factory=dict)
    retries: Mapping[str, Retry] = field(default_factory=dict)

    def way_out(self, queue: str) -> Target | None:
        """Return where messages leave a queue to that are not to be tried again; None: they are rejected."""
        return Target("", self.retries[queue].then) if queue in self.retries else self.dead_letters.get(queue)


def of(topology: Topology, files: Sequence[str]) -> LastApplied:
    """Return what is remembered of a topology; the schemas of its contracts are paths that hold in every folder."""
    from rmqkit.topology.policies import dead_letter_target  # noqa: PLC0415 - start-up time

    return LastApplied(
        topology.publish,
        tuple(files),
        exchanges=_contracts(topology.exchanges),
        queues=_contracts(topology.queues),
        dead_letters={each.name: dead_letter_target(topology, each) for each in topology.queues},
        retries={each.name: each.retry for each in topology.queues if each.retry},
    )


def remember(settings: Settings, topology: Topology, files: Sequence[str]) -> None:
    """Keep what was applied, in place of what was kept before."""
    import tempfile  # noqa: PLC0415 - start-up time: `publish` only reads

    file = _file(settings)
    found = of(topology, files)
    kept = {
        "broker": _key(settings),
        "files": list(files),
        "publish": found.target and asdict(found.target),
        "exchanges": _written(found.exchanges),
        "queues": _written(found.queues),
        "dead_letters": {name: target and asdict(target) for name, target in found.dead_letters.items()},
        "retries": {name: {"delays_ms": each.delays_ms, "then": each.then} for name, each in found.retries.items()},
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


def recall(settings: Settings) -> LastApplied | None:
    """Return what was applied last to this broker and virtual host; None when nothing was."""
    file = _file(settings)
    try:
        kept = json.loads(file.read_bytes())
        publish = kept["publish"]
        return LastApplied(
            None if publish is None else _target(publish),
            tuple(map(_text, kept["files"])),
            exchanges={name: _contract(each) for name, each in kept.get("exchanges", {}).items()},
            queues={name: _contract(each) for name, each in kept.get("queues", {}).items()},
            dead_letters={
                name: None if each is None else _target(each) for name, each in kept.get("dead_letters", {}).items()
            },
            retries={name: _retry(each) for name, each in kept.get("retries", {}).items()},
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        output.warn(f"what was applied last cannot be read from {file}: {error.strerror}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        output.warn(f"what was applied last cannot be read from {file}: not what rmqkit writes there; it is ignored")
    return None


def _contracts(entities: Iterable[Exchange | Queue]) -> dict[str, Contract]:
    return {
        each.name: Contract(each.contract.format, os.path.abspath(each.contract.path))  # noqa: PTH100
        for each in entities
        if each.contract
    }


def _written(contracts: Mapping[str, Contract]) -> dict[str, dict[str, str]]:
    return {name: {"format": each.format, "schema": each.schema} for name, each in contracts.items()}


def _target(kept: Mapping[str, object]) -> Target:
    return Target(_text(kept["exchange"]), _text(kept["routing_key"]))


def _contract(kept: Mapping[str, object]) -> Contract:
    return Contract("xml" if kept["format"] == "xml" else "json", _text(kept["schema"]))


def _retry(kept: Mapping[str, Any]) -> Retry:
    delays_ms = tuple(kept["delays_ms"])
    if not delays_ms or not all(type(each) is int and each > 0 for each in delays_ms):
        raise ValueError
    return Retry(delays_ms, _text(kept["then"]))


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
