"""The contents of compressed bodies, for contracts, filters and envelopes; the body itself stays compressed.

`content_encoding` has the names of HTTP (https://www.rfc-editor.org/rfc/rfc9110#section-8.4.1). Spring AMQP writes the
encoding of the text behind it: `gzip:UTF-8`.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from rmqkit.errors import Location
from rmqkit.payload.formats import error_at

MAX_BYTES = 32 * 1024 * 1024  # of contents: a small body may hold any number of zeros
_MAX_MEMBERS = 100  # of a body, each of which costs a copy of the rest
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's wbits
_TOO_LARGE = f"the body holds more than {MAX_BYTES // 1024 // 1024} MiB when decompressed"


def contents(body: bytes, content_encoding: str | None, where: Location) -> bytes:
    """Return the contents of a compressed body; any other body is returned itself. Raises PayloadError with the place.

    Deflate may have zlib's header, as the standard requires, or lack it, as some clients do.
    """
    names = re.split(r"\s*[:,]\s*", content_encoding.strip().lower()) if content_encoding and body else ()
    decompress = next((_DECOMPRESS[name] for name in names if name in _DECOMPRESS), None)
    if decompress is None:
        return body
    try:
        return decompress(body)
    except (ValueError, zlib.error) as exc:
        raise error_at(where, f"content_encoding is {content_encoding}, but {exc}") from exc


def _inflate(body: bytes, decompressor: Callable[[], Any]) -> bytes:
    """Decompress a body of one member or several, each with a new decompressor."""
    found: bytes = b""
    for _ in range(_MAX_MEMBERS):
        member = decompressor()
        found += member.decompress(body, MAX_BYTES + 1 - len(found))
        if len(found) > MAX_BYTES:
            raise ValueError(_TOO_LARGE)
        if not member.eof:
            raise ValueError("the body is truncated")
        body = member.unused_data
        if not body:
            return found
    raise ValueError(f"the body has more than {_MAX_MEMBERS} members")


def _gzip(body: bytes) -> bytes:
    return _inflate(body, partial(zlib.decompressobj, _GZIP))


def _deflate(body: bytes) -> bytes:
    has_header = body[0] & 0x0F == zlib.DEFLATED and int.from_bytes(body[:2], "big") % 31 == 0
    return _inflate(body, partial(zlib.decompressobj, _ZLIB if has_header else _RAW))


def _zstd(body: bytes) -> bytes:
    try:
        zstd = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError:
        raise ValueError("reading it before Python 3.14 requires `pip install 'rmqkit[zstd]'`") from None
    try:
        return _inflate(body, zstd.ZstdDecompressor)
    except zstd.ZstdError as exc:
        raise ValueError(str(exc)) from exc


_DECOMPRESS = {"gzip": _gzip, "x-gzip": _gzip, "deflate": _deflate, "zstd": _zstd}
