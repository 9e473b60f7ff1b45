"""Compressed bodies: reading their contents, within a bounded amount of memory."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zlib
from importlib import import_module
from typing import Any

import pytest

from rmqkit.errors import Location, PayloadError
from rmqkit.handlers.contract_filter import ContractFilter
from rmqkit.handlers.delivery_filter import DeliveryFilter
from rmqkit.message import Delivery, Message, Properties
from rmqkit.payload.compression import codec_of, contents, members
from rmqkit.payload.envelopes import EnvelopeReader, EnvelopeWriter
from tests.support.fuzzing import bounded
from tests.support.origin import FakeOrigin

HERE = Location("here")
ORDER = b'{"total": 5}'
RAW_DEFLATE = zlib.compressobj(wbits=-15)
ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
ZSTD_ORDER = bytes.fromhex("28b52ffd200c610000") + ORDER  # one frame with one raw block
COMPRESSED = {
    "gzip": gzip.compress(ORDER),
    "GZIP:UTF-8": gzip.compress(ORDER[:3]) + gzip.compress(ORDER[3:]),
    "deflate": zlib.compress(ORDER),
    "Deflate, utf-8": RAW_DEFLATE.compress(ORDER) + RAW_DEFLATE.flush(),
}


def delivery(body: bytes, encoding: str) -> Delivery:
    return Delivery(body, 1, False, FakeOrigin(properties=Properties(content_encoding=encoding)))


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_contracts_filters_and_envelopes_look_inside_and_the_bytes_stay(encoding: str) -> None:
    given = delivery(COMPRESSED[encoding], encoding)
    assert DeliveryFilter("body.total == 5")(given)
    checked: list[bytes] = []

    class Source:
        def batches(self, **_: Any) -> list[list[Delivery]]:
            return [[given]]

    source = ContractFilter(Source(), lambda body, _: checked.append(body), print)  # type: ignore[arg-type]
    assert (list(source.batches()), checked) == ([[given]], [ORDER])
    line = EnvelopeWriter().write(given)
    assert json.loads(line)["body"] == ORDER.decode()
    message: Message = EnvelopeReader().read(line, HERE).message
    assert message.body == given.body
    edited = json.dumps(json.loads(line) | {"body": "other"}).encode()
    with pytest.raises(PayloadError, match="different bodies"):
        EnvelopeReader().read(edited, HERE)


@pytest.mark.parametrize("encoding", ["utf-8", "", None, "br"])
def test_a_body_that_is_not_compressed_is_unchanged(encoding: str | None) -> None:
    assert contents(ORDER, encoding, HERE) is ORDER


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (ORDER, "header"),
        (gzip.compress(ORDER)[:-4], "truncated"),
        (101 * gzip.compress(b""), "more than 100 members"),
        (gzip.compress(bytes(33 * 1024 * 1024)), "more than 32 MiB"),
    ],
    ids=["not gzip", "truncated", "many members", "a bomb"],
)
def test_a_body_that_cannot_be_decompressed_within_bounds_is_an_error(body: bytes, words: str) -> None:
    with bounded(), pytest.raises(PayloadError, match=words):
        contents(body, "gzip", HERE)
    assert "body" not in json.loads(EnvelopeWriter().write(delivery(body, "gzip")))
    assert not DeliveryFilter("body is defined")(delivery(body, "gzip"))


def test_zstd_is_read_within_bounds() -> None:
    compress = import_module(ZSTD).compress
    bomb = compress(bytes(33 * 1024 * 1024))
    for body in (ZSTD_ORDER, compress(ORDER), compress(ORDER[:3]) + compress(ORDER[3:])):
        assert contents(body, "zstd", HERE) == ORDER
    for body, words in (ZSTD_ORDER[:-1], "truncated"), (ORDER, "content_encoding is zstd"), (bomb, "more than 32 MiB"):
        with bounded(), pytest.raises(PayloadError, match=words):
            contents(body, "zstd", HERE)


def test_zstd_without_the_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, ZSTD, None)
    with pytest.raises(PayloadError, match=r"rmqkit\[zstd\]"):
        contents(ZSTD_ORDER, "zstd", HERE)


@pytest.mark.parametrize("name", ["orders.jsonl.gz", "orders.jsonl.zst"])
def test_a_changed_byte_of_a_compressed_file_never_goes_unnoticed(name: str) -> None:
    if name.endswith("zst"):
        pytest.importorskip(ZSTD)
    codec = codec_of(name)
    assert codec is not None
    lines = b"".join(b'{"body": "%d"}\n' % (number * 7919 % 1009) for number in range(200))
    file = codec.compress(lines)
    for position in range(len(file)):
        damaged = bytearray(file)
        damaged[position] ^= 1
        try:
            parts = [*members(io.BytesIO(damaged), codec)]
        except ValueError:
            continue
        whole = parts[-1][1] is not None
        assert not whole or b"".join(text for text, _ in parts) == lines, f"byte {position}"
