"""Bytes as they arrive from standard input, a FIFO or a file, whole or by line."""

from __future__ import annotations

import os
import select
import stat
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

from rmqkit.errors import PayloadError
from rmqkit.payload import compression
from rmqkit.stop import Stop, StopRequested

STDIN = "-"
_CHUNK_BYTES = 65_536  # the capacity of a pipe


class InputPosition(NamedTuple):
    """A place between two lines: the bytes, the lines and the messages before it."""

    offset: int = 0
    line: int = 0
    n: int = 0


BEGINNING = InputPosition()


class InputStream:
    """An open input. Opening a FIFO waits for its writer.

    `rereadable` is true for a file other than standard input, part of which another program may have read. `offset`
    and `line` count the bytes and lines up to the end of the last line yielded. To `decompress` a file that its name
    says is compressed, it is copied to a temporary one, on disk. Raises PayloadError if it cannot be
    opened, and StopRequested when asked to stop while it waits.
    """

    def __init__(self, path: str, stop: Stop, *, decompress: bool = False) -> None:
        self.name = "standard input" if path == STDIN else path
        self._stop = stop
        self.offset = self.line = self._bytes_read = 0
        try:
            self._fd = 0 if path == STDIN else self._open(path)
            if decompress and path != STDIN and (codec := compression.codec_of(path)):
                self._fd = self._decompressed(codec)
            status = os.fstat(self._fd)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(21, "it is a folder")
            regular = stat.S_ISREG(status.st_mode)
            start = os.lseek(self._fd, 0, os.SEEK_CUR) if regular else 0
        except OSError as exc:
            raise PayloadError(f"{self.name}: cannot be read: {exc.strerror}") from exc
        self.rereadable = regular and path != STDIN
        self._expected_bytes = status.st_size - start if regular else 0
        self._poll = None if regular else select.poll()
        if self._poll:
            self._poll.register(self._fd, select.POLLIN)

    def _open(self, path: str) -> int:
        with self._stop.interruptible():
            return os.open(path, os.O_RDONLY)

    def _decompressed(self, codec: compression.Codec) -> int:
        """Return a temporary file with the contents of a compressed one. Raises PayloadError, StopRequested."""
        end: int | None = 0
        with os.fdopen(self._fd, "rb") as source, tempfile.TemporaryFile() as plain:
            try:
                for text, end in compression.members(source, codec):  # noqa: B007 - the last one counts
                    plain.write(text)
                    if self._stop.requested:
                        raise StopRequested
            except ValueError as exc:
                raise PayloadError(f"{self.name}: cannot be decompressed: {exc}") from exc
            if end is None:
                raise PayloadError(f"{self.name}: it was cut short")
            plain.seek(0)
            return os.dup(plain.fileno())

    def lines(self) -> Iterator[bytes | None]:
        r"""Yield lines without their `\n`, the only line end: `\r` and U+2028 are kept. The last line needs none.

        Yields None before each wait for input. Raises PayloadError when reading fails, after the complete lines. Ends
        on a stop; an unfinished line is dropped then.
        """
        unfinished: list[bytes] = []  # joined once, so that one line of 200 MB takes linear time
        try:
            while True:
                if self._poll and not self._poll.poll(0):
                    yield None
                chunk = self._read()
                if not chunk:
                    break
                head, *rest = chunk.split(b"\n")
                unfinished.append(head)
                if rest:
                    *whole, tail = rest
                    for line in (b"".join(unfinished), *whole):
                        self.line += 1
                        self.offset += len(line) + 1
                        yield line
                    unfinished = [tail]
        except StopRequested:
            return
        last = b"".join(unfinished)
        if last:
            self.line += 1
            self.offset += len(last)
            yield last

    def read_all(self) -> bytes:
        """Read up to the end. Raises PayloadError when reading fails, and StopRequested."""
        return b"".join(iter(self._read, b""))

    @property
    def stopped(self) -> bool:
        """Tell whether a stop was requested."""
        return self._stop.requested

    def seek(self, place: InputPosition) -> None:
        """Move to a place in a `rereadable` file."""
        self.offset, self.line, self._bytes_read = place.offset, place.line, place.offset
        os.lseek(self._fd, place.offset, os.SEEK_SET)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return bytes of a file, fewer at its end, without moving. Raises PayloadError."""
        try:
            return os.pread(self._fd, size, offset)
        except OSError as exc:
            raise PayloadError(f"{self.name}: cannot be read: {exc.strerror}") from exc

    def close(self) -> None:
        """Close the input, except standard input, which belongs to the process."""
        if self._fd:
            os.close(self._fd)

    def _read(self) -> bytes:
        """Return the bytes available, waiting for the first; empty at the end. A stop drops nothing that was read."""
        while True:
            if self._poll:
                with self._stop.interruptible():
                    self._poll.poll()
            elif self._stop.requested:
                raise StopRequested
            try:
                chunk = os.read(self._fd, _CHUNK_BYTES)
            except BlockingIOError:  # another process made standard input non-blocking, and read first
                continue
            except OSError as exc:
                raise PayloadError(f"{self.name}: reading failed {self._place()}: {exc.strerror}") from exc
            self._bytes_read += len(chunk)
            if not chunk and self._bytes_read < self._expected_bytes:
                raise PayloadError(f"{self.name}: it was cut short while it was read; it ended {self._place()}")
            return chunk

    def _place(self) -> str:
        return f"after line {self.line} (byte {self._bytes_read})"
