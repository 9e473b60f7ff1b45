"""Distinguish the void arguments of a binding from text: the HTTP API writes both as "undefined".

A binding's `properties_key` ends with a hash of its arguments: four bytes of Erlang's `phash2` of the sorted field
table, in base64 (https://www.erlang.org/doc/apps/erts/erlang.html#phash2/1; `make_hash2` in its utils.c). A void header
in a binding matches messages that have the header, whatever its value (AMQP 0-9-1 section 3.1.3.4).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from functools import reduce
from itertools import islice, product
from typing import Any

_VOID = "undefined"
_INTEGERS = (
    "signedint", "long", "short", "byte", "unsignedint", "unsignedshort", "unsignedbyte", "timestamp",
)  # fmt: skip
_TRIES = 10_000
_MASK, _GOLDEN = 0xFFFFFFFF, 0x9E3779B9
_Term = str | bytes | int | tuple["_Term", ...]  # an Erlang term; a str is an atom


def read_arguments(arguments: Mapping[str, Any], properties_key: str) -> dict[str, Any]:
    """Return the arguments of a binding with None for each void; void is assumed where the hash cannot tell."""
    texts = {name for name, value in arguments.items() if value == _VOID}
    if texts:
        hashed = properties_key.rpartition("~")[2]
        for fields in islice(product(*(_fields(name, arguments[name]) for name in sorted(arguments))), _TRIES):
            if base64.urlsafe_b64encode(_hash_list(fields).to_bytes(4)).decode().rstrip("=") == hashed:
                texts = {name.decode() for name, kind, _ in fields if kind == "void"}
                break
    return {name: None if name in texts else value for name, value in arguments.items()}


def _fields(name: str, value: Any) -> Iterator[tuple[bytes, str, _Term]]:
    """Yield the entries of a field table that the HTTP API may show as this value."""
    match value:
        case bool():
            yield name.encode(), "bool", str(value).lower()
        case int():
            yield from ((name.encode(), kind, value) for kind in _INTEGERS)
        case str():
            if value == _VOID:
                yield name.encode(), "void", _VOID
            yield name.encode(), "longstr", value.encode()


def _hash_list(terms: tuple[_Term, ...]) -> int:
    return _add(reduce(_hash, terms, 0), 2, 2)


def _hash(seed: int, term: _Term) -> int:
    """Add a term to a hash."""
    match term:
        case str():
            atom = reduce(_hash_character, term.encode(), 0)
            return _add(seed, 3, atom) if seed else atom
        case bytes():
            return _hash_bytes(term, (_GOLDEN * 13 + seed) & _MASK)
        case int() if -1 << 27 <= term < 1 << 27:
            return _add(_add(seed, 1, -term) if term < 0 else seed, 1, term)
        case int():
            return _add(seed, 10 if term < 0 else 11, abs(term), abs(term) >> 32)
        case _:
            return reduce(_hash, term, _add(seed, 9, len(term)))


def _hash_character(seed: int, character: int) -> int:
    seed = ((seed << 4) + character) & _MASK
    return (seed ^ (high >> 24) ^ high) if (high := seed & 0xF0000000) else seed


def _hash_bytes(data: bytes, seed: int) -> int:
    a, b, c = _GOLDEN, _GOLDEN, seed
    for at in range(0, len(data), 12):
        part = data[at : at + 12]
        first, second, third = (int.from_bytes(part[begin : begin + 4], "little") for begin in (0, 4, 8))
        is_last = at + 12 > len(data)
        c += (third << 8) + len(data) if is_last else third
        a, b, c = _mix(a + first, b + second, c)
    return _mix(a, b, c + len(data))[2] if data and len(data) % 12 == 0 else c


def _add(seed: int, constant: int, first: int, second: int = 0) -> int:
    return _mix(_GOLDEN * constant + first, _GOLDEN * constant + second, seed)[2]


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    """Mix three words (https://burtleburtle.net/bob/hash/evahash.html)."""
    for right, left, again in ((13, 8, 13), (12, 16, 5), (3, 10, 15)):
        a = ((a - b - c) & _MASK) ^ ((c & _MASK) >> right)
        b = (b - c - a) & _MASK
        b ^= (a << left) & _MASK
        c = ((c - a - b) & _MASK) ^ (b >> again)
    return a, b, c
