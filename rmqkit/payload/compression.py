"""The contents of compressed bodies, for contracts, filters and envelopes; the body itself stays compressed.

`content_encoding` has the names of HTTP (https://www.rfc-editor.org/rfc/rfc9110#section-8.4.1). Spring AMQP writes the
encoding of the text behind it: `gzip:UTF-8`.
"""

from __future__ import annotations

import gzip
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any, BinaryIO, NamedTuple

from rmqkit.errors import Location, PayloadError
from rmqkit.payload.formats import error_at

MAX_BYTES = 32 * 1024 * 1024  # of contents: a small body may hold any number of zeros
_MAX_MEMBERS = 100  # of a body, each of which costs a copy of the rest
_CHUNK_BYTES = 8192  # of a file, which may hold thousands of times as many
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


def _load_zstd() -> Any:
    try:
        return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError:
        raise ValueError("reading it before Python 3.14 requires `pip install 'rmqkit[zstd]'`") from None


def _zstd(body: bytes) -> bytes:
    zstd = _load_zstd()
    try:
        return _inflate(body, zstd.ZstdDecompressor)
    except zstd.ZstdError as exc:
        raise ValueError(str(exc)) from exc


_DECOMPRESS = {"gzip": _gzip, "x-gzip": _gzip, "deflate": _deflate, "zstd": _zstd}


class Codec(NamedTuple):
    """The compression of a file: a member is compressed at once, and any file is decompressed in parts."""

    compress: Callable[[bytes], bytes]
    decompressor: Callable[[], Any]
    error: type[Exception]


def _gzip_codec() -> Codec:
    return Codec(partial(gzip.compress, mtime=0), partial(zlib.decompressobj, _GZIP), zlib.error)


def _zstd_codec() -> Codec:
    zstd = _load_zstd()
    options = {zstd.CompressionParameter.checksum_flag: 1}  # gzip always has one: a damaged message is not published
    return Codec(partial(zstd.compress, options=options), zstd.ZstdDecompressor, zstd.ZstdError)


CODECS = {".gz": _gzip_codec, ".zst": _zstd_codec}
"""The codec of a file by the end of its name."""


def codec_of(name: str) -> Codec | None:
    """Return the codec of a file, None if its name has none. Raises PayloadError if its library is not installed."""
    make = next((make for suffix, make in CODECS.items() if name.endswith(suffix)), None)
    try:
        return make() if make else None
    except ValueError as exc:
        raise PayloadError(f"{name}: {exc}") from exc


def members(source: BinaryIO, codec: Codec | None) -> Iterator[tuple[bytes, int | None]]:
    """Yield the contents of a file in parts, with the offset behind each that ends a member, or a line without a codec.

    The last offset is None if the file was cut short. Raises ValueError for bytes that the codec cannot read.
    """
    read = 0
    if codec is None:
        for line in source:
            read += len(line)
            yield line, read if line.endswith(b"\n") else None
        return
    member, data = None, b""
    try:
        while data or (data := source.read(_CHUNK_BYTES)):
            read += len(data)
            member = member or codec.decompressor()
            text = member.decompress(data)
            if member.eof:
                read -= len(data := member.unused_data)
                yield text, read
                member = None
            else:
                data = b""
                yield text, None
    except codec.error as exc:
        raise ValueError(str(exc)) from exc
