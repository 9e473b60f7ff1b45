"""The publish target last applied to a broker, and the contracts, dead letters and retries of each entity.

The broker does not know these, and `rmqkit publish` and `consume` need them. The user's state folder has a file for
each broker and virtual host, readable only by its owner and without the password. It is a convenience: a file that
cannot be written or read is a warning, never an error.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import platformdirs

from rmqkit.atomic_file import replace_file
from rmqkit.cli import output
from rmqkit.model import Contract, Exchange, Queue, Retry, Target, Topology
from rmqkit.settings import Settings


@dataclass(frozen=True, slots=True)
class LastApplied:
    """The publish target of a topology (None: it has none), the files it came from, and more by exchange or queue name.

    `exchanges` and `queues` have their contracts. `dead_letters` says where the messages go that a queue rejects: an
    empty routing key stands for the message's own, and None for a queue that drops them. `sources` has the files that
    each exchange and queue came from, by the text of its kind and name; they may have been applied at different times.
    """

    target: Target | None
    files: tuple[str, ...]
    exchanges: Mapping[str, Contract] = field(default_factory=dict)
    queues: Mapping[str, Contract] = field(default_factory=dict)
    dead_letters: Mapping[str, Target | None] = field(default_factory=dict)
    retries: Mapping[str, Retry] = field(default_factory=dict)
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def files_of(self, target: Target) -> str:
        """Name the files that declare an exchange or, in the default exchange, a queue."""
        return ", ".join(self.sources.get(_key_of(target), self.files))

    def failure_target(self, queue: str) -> Target | None:
        """Return where the messages of a queue go that are not to be retried; None: they are rejected."""
        return Target("", self.retries[queue].then) if queue in self.retries else self.dead_letters.get(queue)


def from_topology(topology: Topology, files: Sequence[str]) -> LastApplied:
    """Return the saved part of a topology, with absolute paths of its schemas."""
    from rmqkit.topology.policies import dead_letter_target  # noqa: PLC0415 - start-up time

    return LastApplied(
        topology.publish,
        tuple(files),
        exchanges=_contracts(topology.exchanges),
        queues=_contracts(topology.queues),
        dead_letters={each.name: dead_letter_target(topology, each) for each in topology.queues},
        retries={each.name: each.retry for each in topology.queues if each.retry},
        sources=dict.fromkeys(_keys(topology), tuple(files)),
    )


def remember(settings: Settings, topology: Topology, files: Sequence[str]) -> None:
    """Save a topology that was applied: its target, and its entities beside those of other files.

    Names and keys are saved as the broker knows them, with their variables resolved, and no other values. A topology is
    not saved if one of them holds the value of a secret variable.
    """
    applied, before = from_topology(topology, files), recall(settings)
    text = json.dumps(asdict(applied))
    for secret in topology.variables:
        if secret.is_secret and secret.value and json.dumps(secret.value)[1:-1] in text:
            message = f"not saved as the topology applied last: a name or key contains the value of {secret.name}"
            output.warn(f"{', '.join(files)}: {message}")
            return
    _save(settings, _merged(_without(before, topology), applied) if before else applied)


def forget(settings: Settings, topology: Topology) -> None:
    """Forget the entities of a topology that was destroyed, and its target."""
    if before := recall(settings):
        kept = _without(before, topology)
        _save(settings, replace(kept, target=None, files=()) if topology.publish == kept.target else kept)


def _merged(before: LastApplied, applied: LastApplied) -> LastApplied:
    both: dict[str, Any] = {name: {**getattr(before, name), **getattr(applied, name)} for name in _BY_NAME}
    return replace(applied, **both)


def _without(applied: LastApplied, topology: Topology) -> LastApplied:
    """Leave out the entities of a topology."""
    exchanges, queues = {each.name for each in topology.exchanges}, {each.name for each in topology.queues}
    gone = dict.fromkeys(_BY_NAME, queues) | {"exchanges": exchanges, "sources": set(_keys(topology))}
    kept: dict[str, Any] = {
        name: {key: value for key, value in getattr(applied, name).items() if key not in gone[name]}
        for name in _BY_NAME
    }
    return replace(applied, **kept)


def _keys(topology: Topology) -> Iterator[str]:
    yield from (_key_of(Target(each.name)) for each in topology.exchanges)
    yield from (_key_of(Target("", each.name)) for each in topology.queues)


def _key_of(target: Target) -> str:
    return f"exchange {target.exchange}" if target.exchange else f"queue {target.routing_key}"


def _save(settings: Settings, applied: LastApplied) -> None:
    file = state_file(settings, "applied")
    saved = asdict(applied, dict_factory=lambda fields: {name: value for name, value in fields if name != "where"})
    saved = {"broker": _key(settings), "publish": saved.pop("target"), **saved}
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(file, json.dumps(saved, indent=2), private=True)
    except OSError as error:
        output.warn(f"could not save the topology as the one applied last: {file}: {error.strerror}")


def recall(settings: Settings) -> LastApplied | None:
    """Return the topology that was last applied to this broker and virtual host, if any."""
    file = state_file(settings, "applied")
    try:
        saved = json.loads(file.read_bytes())
        by_name: dict[str, Any] = {
            key: {name: read(value) for name, value in saved.get(key, {}).items()} for key, read in _BY_NAME.items()
        }
        return LastApplied(_target(saved["publish"]), _texts(saved["files"]), **by_name)
    except FileNotFoundError:
        return None
    except OSError as error:
        output.warn(f"could not read which topology was applied last: {file}: {error.strerror}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        output.warn(f"ignoring {file}, where rmqkit keeps the topology applied last: its content is damaged")
    return None


def _contracts(entities: Iterable[Exchange | Queue]) -> dict[str, Contract]:
    return {
        each.name: Contract(each.contract.format, os.path.abspath(each.contract.path))  # noqa: PTH100
        for each in entities
        if each.contract
    }


# Readers of the file's values. Each raises ValueError, KeyError or TypeError for any other.


def _target(saved: Mapping[str, object] | None) -> Target | None:
    return None if saved is None else Target(_text(saved["exchange"]), _text(saved["routing_key"]))


def _contract(saved: Mapping[str, object]) -> Contract:
    return Contract("xml" if saved["format"] == "xml" else "json", _text(saved["schema"]))


def _retry(saved: Mapping[str, Any]) -> Retry:
    delays_ms = tuple(saved["delays_ms"])
    if not delays_ms or not all(type(each) is int and each > 0 for each in delays_ms):
        raise ValueError
    return Retry(delays_ms, _text(saved["then"]), saved.get("native") is True)


def _texts(saved: Iterable[object]) -> tuple[str, ...]:
    return tuple(map(_text, saved))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


_BY_NAME: dict[str, Callable[[Any], object]] = {
    "exchanges": _contract,
    "queues": _contract,
    "dead_letters": _target,
    "retries": _retry,
    "sources": _texts,
}


def _key(settings: Settings) -> str:
    address = settings.addresses[0]
    if address.host in ("127.0.0.1", "::1"):  # the same broker as localhost
        return f"localhost{address.key[address.key.rindex(f':{address.port}/') :]}"
    return address.key


def state_file(settings: Settings, kind: str) -> Path:
    """Return the path of the user's state of this kind for a broker and virtual host."""
    name = hashlib.sha256(_key(settings).encode(errors="surrogatepass")).hexdigest()[:32]
    return Path(platformdirs.user_state_dir("rmqkit", appauthor=False)) / kind / f"{name}.json"
