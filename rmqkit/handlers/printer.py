"""Print deliveries to a file descriptor, as bodies or envelopes, one a line."""

import errno
import fcntl
import os
import re
import select
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rmqkit.errors import OutputError
from rmqkit.handlers.handler import OUTPUT_CLOSED, HandledBatch, Handler, Source
from rmqkit.message import Delivery
from rmqkit.payload import envelopes
from rmqkit.stop import Stop

_BLOCK_BYTES = 1024 * 1024  # joined and written at once
_PIPE_BYTES = select.PIPE_BUF  # a pipe that is ready accepts this many without blocking
_STOP_CHECK_S = 0.1  # how often a blocked write checks for a stop
# Characters a terminal would obey and not show: all control characters but tab and newline, including those of Latin-1
# and those that change the direction of writing.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Printer(Handler):
    """Writes deliveries to `fd`, as bodies or, with `as_json`, as envelopes.

    On a terminal, control characters are escaped, so that no message can manipulate it; anywhere else, every byte is
    written as it is. `lock_fd` is a file that all processes sharing the output have open: batches never interleave, nor
    do those of threads that share the printer.
    """

    may_fail = False  # on a message alone

    def __init__(self, fd: int = 1, *, as_json: bool = False, lock_fd: int | None = None) -> None:
        self._fd = fd
        self._lock_fd = lock_fd
        self._lock = threading.Lock()
        self._envelopes = envelopes.EnvelopeWriter() if as_json else None
        self._is_terminal = os.isatty(fd)
        try:
            self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        except OSError as exc:
            raise OutputError(f"cannot write the output: {exc.strerror}") from exc
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def handle(self, source: Source, stop: Stop) -> Iterator[HandledBatch]:
        """Print deliveries. Raises OutputError when the output cannot be written."""
        for batch in source.batches():
            try:
                written = self.write(batch, stop)
            except OutputError as exc:
                yield HandledBatch(batch[: exc.written])
                raise
            yield HandledBatch(batch[:written])
            if written < len(batch):
                return

    def write(self, deliveries: Sequence[Delivery], stop: Stop | None = None) -> int:
        """Write a batch; return how many deliveries were written whole: all, unless a stop ended a wait for the reader.

        Raises OutputError, with `written`, when the reader has closed the output or the disk is full.
        """
        written = 0
        with self._locked():
            for block in _blocks([self._line(each) for each in deliveries]):
                size = sum(map(len, block))
                out, failure = self._write(b"".join(block), stop)
                written += len(block) if out == size else _count_whole(block, out)
                if failure:
                    error = OutputError(failure)
                    error.written = written
                    raise error
                if out < size:
                    break
        return written

    def _line(self, delivery: Delivery) -> bytes:
        line = self._envelopes.write(delivery) if self._envelopes else delivery.body
        if self._is_terminal:
            text = line.decode("utf-8", "backslashreplace")
            line = _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()
        return line + b"\n"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the locks of the threads and processes that share the output; the lock of a dead process is released."""
        with self._lock:
            if self._lock_fd is None:
                yield
                return
            fcntl.lockf(self._lock_fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._lock_fd, fcntl.LOCK_UN)

    def _write(self, data: bytes, stop: Stop | None) -> tuple[int, str]:
        """Write everything, unless a stop is requested while the reader does not read, or writing fails.

        Return the number of bytes written, and why writing failed (empty: it did not).
        """
        view, out = memoryview(data), 0
        while out < len(data):
            try:
                while not self._is_file and not self._poll.poll(_STOP_CHECK_S * 1000):
                    if stop is not None and stop.requested:
                        return out, ""
                out += os.write(self._fd, view[out:] if self._is_file else view[out : out + _PIPE_BYTES])
            except BlockingIOError:  # another process made the output non-blocking and filled it
                continue
            except OSError as exc:
                return out, OUTPUT_CLOSED if exc.errno == errno.EPIPE else f"cannot write the output: {exc.strerror}"
        return out, ""


def _blocks(lines: list[bytes]) -> Iterator[list[bytes]]:
    """Cut a batch so that no join copies more than a block, or a single larger line."""
    start = size = 0
    for number, line in enumerate(lines):
        if size and size + len(line) > _BLOCK_BYTES:
            yield lines[start:number]
            start, size = number, 0
        size += len(line)
    if lines:
        yield lines[start:]


def _count_whole(lines: list[bytes], out: int) -> int:
    for number, line in enumerate(lines):
        out -= len(line)
        if out < 0:
            return number
    return len(lines)
