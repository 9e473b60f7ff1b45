"""Snapshots of queues: envelopes, one a line, in a file that is compressed if its name ends with .gz or .zst."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rmqkit.atomic_file import sync_folder
from rmqkit.errors import InputError, Location, OutputError
from rmqkit.message import Message
from rmqkit.payload import compression
from rmqkit.payload.envelopes import EnvelopeReader
from rmqkit.payload.field_table import encode_properties
from rmqkit.payload.input_stream import InputStream
from rmqkit.payload.sources import sent_again
from rmqkit.stop import Stop

SUFFIXES = (".jsonl", ".ndjson", *compression.CODECS)
_BLOCK_BYTES = 1024 * 1024  # of lines, written at once; of a compressed file, a member of its own
_SHOWN = 1000  # differences of two snapshots that are named


class SnapshotWriter:
    """Writes a snapshot to FILE.part, which becomes FILE once it is complete.

    A part that an earlier run has left is continued if it is `resumable`: `last` is its last line, and `count` the
    number of its lines; whatever a crash cut short behind its last whole block is dropped. Raises InputError if the
    file exists, or if another run writes it.
    """

    def __init__(self, path: Path, *, resumable: bool) -> None:
        self._path, self._part = path, path.with_name(f"{path.name}.part")
        self._codec = compression.codec_of(path.name)
        self._lines: list[bytes] = []
        self._size = 0
        self.last, self.count = b"", 0
        if path.exists():
            raise InputError(f"{path} exists; nothing was written", advice="Name another file, or remove this one.")
        try:
            self._fd = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            end = self._whole() if resumable else 0
            os.ftruncate(self._fd, end)
            os.lseek(self._fd, end, os.SEEK_SET)
        except BlockingIOError:
            raise InputError(f"{self._part}: another run is writing it", advice="Wait for it to end.") from None
        except OSError as exc:
            raise InputError(f"{self._part} cannot be written: {exc.strerror}") from exc

    def add(self, line: bytes) -> None:
        """Add an envelope. Raises OutputError when the disk is full."""
        self._lines += (line, b"\n")
        self._size += len(line) + 1
        self.count += 1
        if self._size >= _BLOCK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the block. Raises OutputError."""
        block, self._lines, self._size = b"".join(self._lines), [], 0
        if not block:
            return
        view = memoryview(self._codec.compress(block) if self._codec else block)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as exc:
            raise OutputError(f"{self._part} cannot be written: {exc.strerror}") from exc

    def finish(self) -> None:
        """Write the rest, and give the file its name once it is on disk. Raises OutputError."""
        self.flush()
        try:
            os.fsync(self._fd)
            self._part.rename(self._path)
            os.close(self._fd)
            with suppress(PermissionError):
                sync_folder(self._path.parent)
        except OSError as exc:
            raise OutputError(f"{self._path} cannot be written: {exc.strerror}") from exc

    def abandon(self, *, keep: bool) -> None:
        """Keep the part, for a run that resumes it, or remove it."""
        if keep:
            self.flush()
        else:
            self._part.unlink(missing_ok=True)
        os.close(self._fd)

    def _whole(self) -> int:
        """Find the last whole line, and return the offset behind its block."""
        end, begun, lines = 0, b"", 0
        with os.fdopen(os.dup(self._fd), "rb") as part, suppress(ValueError):
            for text, boundary in compression.members(part, self._codec):
                lines += text.count(b"\n")
                begun += text
                begun = begun[begun.rfind(b"\n", 0, -1) + 1 :]  # the last line
                if boundary is not None:
                    end, self.last, self.count = boundary, begun[:-1], lines
        return end


class SnapshotDiff(NamedTuple):
    """The messages that one of two snapshots has and the other has not, each with its line; whether the order differs.

    `totals` counts the messages of both, and `only` those that one alone has; the first thousand of each are named.
    """

    totals: tuple[int, int]
    only: tuple[int, int]
    named: tuple[list[tuple[int, Message]], list[tuple[int, Message]]]
    reordered: bool

    @property
    def equal(self) -> bool:
        """Tell whether both have the same messages in the same order."""
        return not any(self.only) and not self.reordered


def diff(paths: tuple[str, str], stop: Stop) -> SnapshotDiff:
    """Compare two snapshots, whatever was counted or said about the deliveries of a message.

    Each message is held as a digest of 16 bytes. Raises PayloadError.
    """
    digests = tuple([digest for _, _, digest in _read(path, stop)] for path in paths)
    counts = [Counter(each) for each in digests]
    more = (counts[0] - counts[1], counts[1] - counts[0])
    only = tuple(each.total() for each in more)
    named = tuple(_named(path, each.copy(), stop) for path, each in zip(paths, more, strict=True))
    both = [_without(each, extra) for each, extra in zip(digests, more, strict=True)]
    return SnapshotDiff((len(digests[0]), len(digests[1])), only, named, both[0] != both[1])  # type: ignore[arg-type]


def _named(path: str, wanted: Counter[bytes], stop: Stop) -> list[tuple[int, Message]]:
    if not wanted:
        return []

    def found() -> Iterator[tuple[int, Message]]:
        for line, message, digest in _read(path, stop):
            if wanted[digest]:
                wanted[digest] -= 1
                yield line, message

    return list(islice(found(), _SHOWN))


def _without(digests: list[bytes], extra: Counter[bytes]) -> list[bytes]:
    left = extra.copy()
    return [each for each in digests if not (left[each] and left.subtract((each,)) is None)]


def _read(path: str, stop: Stop) -> Iterator[tuple[int, Message, bytes]]:
    """Yield each message with its line and its digest."""
    reader, stream = EnvelopeReader(), InputStream(path, stop, decompress=True)
    try:
        for line in stream.lines():
            if line is not None and line.strip():
                message = reader.read(line, Location(stream.name, stream.line, 1)).message
                yield stream.line, message, _digest(message)
    finally:
        stream.close()


def _digest(message: Message) -> bytes:
    properties = encode_properties(sent_again(message.properties, to_queue=False))
    target = (message.exchange, message.routing_key)
    parts = (*(each.encode("utf-8", "surrogateescape") for each in target), properties, message.body)
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(len(part).to_bytes(8, "big") + part)
    return found.digest()
