"""How far a run of publishing came, so that the next one goes on from there.

Fates come out of order. The mark is the place before which every record is confirmed, or noted as failed; what is
noted is sent again first. A message whose fate is unknown keeps the mark before it. The file is replaced in one step,
on the disk before it has its name, and names the input by a hash of all before the mark: a file that grew is the same
one, a file that was changed there is not.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import operator
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rmqkit.atomic_file import replace_file
from rmqkit.errors import OutputError, PayloadError
from rmqkit.message import Message
from rmqkit.payload.input_stream import InputPosition, InputStream
from rmqkit.report import Fate

MAX_FAILED = 1000  # failures noted; the mark stays before the next one
SAVE_EVERY = 10_000  # messages settled between two saves, at most
SAVE_EVERY_S = 1.0
_HASHED_BYTES = 1024 * 1024
_ADVICE = "Name another file to --resume, or remove this one to publish everything from the beginning."

Read = Callable[[InputPosition], Iterator[Message | None]]  # the messages of an input, from a place on


class Mark:
    """The place before which every record is confirmed or noted as failed. Pure; memory is bounded by the window.

    `failed` has the places of the records to be sent again, by their number. Records are taken in order of sending:
    those noted before, then all from `place` on.
    """

    def __init__(self, place: InputPosition, failed: dict[int, InputPosition], most: int = MAX_FAILED) -> None:
        self.place = place
        self._most = most
        self._noted = failed
        self._first = self._next = place.n
        self._taken = 0
        self._open: dict[int, tuple[InputPosition, InputPosition]] = {}  # index of a message -> its record, from and to
        self._ends: dict[int, InputPosition] = {}  # number of a record beyond the mark, settled -> its end

    @property
    def failed(self) -> dict[int, InputPosition]:
        """Return what failed and is behind the mark: what is beyond it is sent again anyhow."""
        return {n: place for n, place in self._noted.items() if n < self.place.n}

    @property
    def beyond(self) -> int:
        """Count the records beyond the mark that were taken."""
        return self._next - self.place.n

    def take(self, begin: InputPosition, end: InputPosition) -> None:
        """Note the record of the message sent next."""
        self._open[self._taken] = (begin, end)
        self._taken += 1
        self._next = max(self._next, end.n)

    def settle(self, index: int, fate: Fate) -> None:
        """Note the fate of a message, by the order of sending."""
        if fate is Fate.UNKNOWN:
            return
        begin, end = self._open.pop(index)
        if fate is Fate.CONFIRMED:
            self._noted.pop(begin.n, None)
        elif begin.n not in self._noted:
            if len(self._noted) >= self._most:
                return  # the mark stays before it
            self._noted[begin.n] = begin
        if begin.n >= self._first:
            self._ends[begin.n] = end
            while settled := self._ends.pop(self.place.n, None):
                self.place = settled


@dataclass(frozen=True, slots=True)
class _State:
    """What stands in the file; `doubtful` messages after the place, at most, were sent and may have arrived."""

    job: str  # what is read, and where it goes
    status: str  # running, stopped or done
    place: InputPosition
    sha256: str  # of all before the place
    failed: tuple[InputPosition, ...] = ()
    doubtful: int = 0


class Resume:
    """The state of one run; `read` gives the messages of the stream, which has to be a file.

    `job` says what is read and where it goes, for another job has to have another state. `skipped` messages were
    confirmed before, `retried` failed and are sent again first, and of those that follow `doubtful`, at most, may be
    there already. Raises PayloadError when the state belongs to something else, another run is at it, or it cannot be
    read.
    """

    def __init__(self, path: str, job: str, stream: InputStream, read: Read) -> None:
        self._path, self._job, self._stream, self._read = Path(path), job, stream, read
        self._hash, self._hashed = hashlib.sha256(), 0
        if not stream.rereadable:
            raise PayloadError(f"{stream.name}: --resume needs a file, which can be read again")
        self._unlock = self._lock()
        found = _load(self._path) or _State(job, "stopped", InputPosition(), self._hash.hexdigest())
        if found.job != job:
            self._refuse(f"it is of a run that publishes {found.job}, and this one publishes {job}")
        if self._digest(found.place) != found.sha256:
            self._refuse(f"{stream.name} was changed in what was published before, up to line {found.place.line}")
        self._again = found.failed
        self.skipped, self.retried = found.place.n - len(found.failed), len(found.failed)
        self.doubtful = found.doubtful
        self._mark = Mark(self._after_line_end(found.place), {each.n: each for each in found.failed})
        self._begin = self._mark.place
        self._unsaved, self._saved_s = 0, 0.0

    @property
    def place(self) -> InputPosition:
        """Return the place of the mark."""
        return self._mark.place

    def messages(self) -> Iterator[Message | None]:
        """Yield what failed before, and then everything from the mark on; each is noted before it is sent.

        Raises PayloadError, before the first, if the state cannot be written.
        """
        try:
            self._save("running")
        except OSError as exc:
            raise PayloadError(f"{self._path}: the state cannot be written: {exc.strerror}") from exc
        for place in self._again:
            for message in self._from(place):
                yield message
                if message is not None:
                    break
        yield from self._from(self._begin)

    def _from(self, begin: InputPosition) -> Iterator[Message | None]:
        for message in self._read(begin):
            if message is not None:
                end = InputPosition(self._stream.offset, self._stream.line, begin.n + 1)
                self._mark.take(begin, end)
                begin = end
            yield message

    def settled(self, index: int, _: Message, fate: Fate) -> None:
        """Note a fate: for `on_settled` of `Connection.publish`."""
        self._mark.settle(index, fate)
        self._unsaved += 1
        if self._unsaved >= SAVE_EVERY or time.monotonic() - self._saved_s > SAVE_EVERY_S:
            with suppress(OSError):  # it is tried again, and told at the end
                self._save("running")

    def finish(self, *, complete: bool) -> None:
        """Save for the last time, and let others have it; `complete` tells that the input ended. Raises OutputError."""
        try:
            self._save("done" if complete and not self._mark.failed and not self._mark.beyond else "stopped")
        except OSError as exc:
            raise OutputError(f"{self._path}: the state cannot be written: {exc.strerror}") from exc
        finally:
            with suppress(OSError):
                self._lock_path.unlink()
            self._unlock()

    def _lock(self) -> Callable[[], object]:
        """Keep other runs away, and return what lets them come: the system does, too, when this process ends.

        The lock is on a file beside the state, which itself is replaced all the time.
        """
        while True:
            try:
                lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o666)
                release = weakref.finalize(self, os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with suppress(FileNotFoundError):  # a run that ended just now took it away
                    if os.path.samestat(os.fstat(lock), self._lock_path.stat()):
                        return release
            except BlockingIOError:
                release()
                self._refuse("another run is at it", "Wait for its end, or name another file to --resume.")
            except OSError as exc:
                raise PayloadError(f"{self._path}: the state cannot be written: {exc.strerror}") from exc
            release()

    @property
    def _lock_path(self) -> Path:
        return self._path.with_name(f".{self._path.name}.lock")

    def _save(self, status: str) -> None:
        """Replace the file, wholly or not at all, a power cut included. Raises OSError."""
        mark = self._mark
        self._unsaved, self._saved_s = 0, time.monotonic()
        doubtful = mark.beyond + (2 * SAVE_EVERY if status == "running" else 0)
        state = _State(self._job, status, mark.place, self._digest(mark.place), tuple(mark.failed.values()), doubtful)
        replace_file(self._path, json.dumps(_as_json(state), indent=2), locked=True)

    def _digest(self, place: InputPosition) -> str:
        """Hash the input up to a place, which only ever moves on."""
        while self._hashed < place.offset:
            data = self._stream.read_at(self._hashed, min(_HASHED_BYTES, place.offset - self._hashed))
            if not data:
                break
            self._hash.update(data)
            self._hashed += len(data)
        return self._hash.hexdigest()

    def _after_line_end(self, place: InputPosition) -> InputPosition:
        """Return the place after the end of a line that had none when it was published, if it has one by now."""
        if not place.offset or self._stream.read_at(place.offset - 1, 1) == b"\n":
            return place
        grown = self._stream.read_at(place.offset, 1)
        if grown not in (b"", b"\n"):
            self._refuse(
                f"line {place.line} of {self._stream.name} had no end when it was published, and has grown since"
            )
        return place._replace(offset=place.offset + len(grown))

    def _refuse(self, reason: str, advice: str = _ADVICE) -> NoReturn:
        raise PayloadError(f"{self._path} cannot be gone on from: {reason}", advice=advice)


def _as_json(state: _State) -> dict[str, Any]:
    return {
        "publishes": state.job,
        "status": state.status,
        "settled": state.place._asdict() | {"sha256": state.sha256},
        "failed": [each._asdict() for each in state.failed],
        "doubtful": state.doubtful,
    }


def _load(path: Path) -> _State | None:
    """Read the state; None when there is none. Raises PayloadError."""
    try:
        kept = json.loads(path.read_bytes())
        settled = _place(kept["settled"])
        failed = tuple(_place(each, settled) for each in kept["failed"])
        doubtful = operator.index(kept["doubtful"])
        return _State(str(kept["publishes"]), "stopped", settled, kept["settled"]["sha256"], failed, doubtful)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise PayloadError(f"{path}: the state cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, RecursionError):
        advice = "Name another file to --resume; what is in this one was not written by rmqkit, or was changed."
        raise PayloadError(f"{path} is no state of a run", advice=advice) from None


def _place(kept: Any, last: InputPosition | None = None) -> InputPosition:
    place = InputPosition(*(operator.index(kept[name]) for name in InputPosition._fields))
    if min(place) < 0 or (last is not None and place > last):
        raise ValueError("nowhere in what was published")
    return place
