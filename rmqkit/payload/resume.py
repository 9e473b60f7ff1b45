"""Saved progress of a publishing run, so that the next run resumes from it.

Confirms arrive out of order. The checkpoint is the place before which every record is confirmed, or noted as failed;
those are sent again first. A message whose fate is unknown keeps the checkpoint before it. The file is replaced in one
step, synced to disk before it is renamed, and identifies the input by a hash of everything before the checkpoint: a
file that grew is the same input, a file that was changed before it is not.
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
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from rmqkit.atomic_file import replace_file
from rmqkit.errors import OutputError, PayloadError
from rmqkit.message import Message
from rmqkit.payload.input_stream import BEGINNING, InputPosition, InputStream
from rmqkit.report import Fate

MAX_FAILED = 1000  # failures noted; the checkpoint stays before the next one
SAVE_EVERY = 10_000  # messages settled between two saves, at most
SAVE_EVERY_S = 1.0
_HASHED_BYTES = 1024 * 1024
_ADVICE = "Name another file for `resume=`, or remove this one to publish everything from the beginning."

Read = Callable[[InputPosition], Iterator[Message | None]]  # yields the messages of an input, from a place on


class Checkpoint:
    """The place before which every record is confirmed or noted as failed; memory is bounded by the publish window.

    `failed` holds the places of the records to be sent again, by their number. Records are added in sending order:
    those that failed before, then all from `place` on.
    """

    def __init__(self, place: InputPosition, failed: dict[int, InputPosition], max_failed: int = MAX_FAILED) -> None:
        self.place = place
        self._max_failed = max_failed
        self._failed = failed
        self._first = self._next = place.n
        self._added = 0
        self._in_flight: dict[int, tuple[InputPosition, InputPosition]] = {}  # a message's index -> its record's ends
        self._ends: dict[int, InputPosition] = {}  # number of a settled record beyond the checkpoint -> its end

    @property
    def failed(self) -> dict[int, InputPosition]:
        """Return the failed records before the checkpoint; those beyond it are sent again anyway."""
        return {n: place for n, place in self._failed.items() if n < self.place.n}

    @property
    def beyond(self) -> int:
        """Count the records sent beyond the checkpoint."""
        return self._next - self.place.n

    def add(self, begin: InputPosition, end: InputPosition) -> None:
        """Note the record of the message that is sent next."""
        self._in_flight[self._added] = (begin, end)
        self._added += 1
        self._next = max(self._next, end.n)

    def settle(self, index: int, fate: Fate) -> None:
        """Note the fate of a message, by its index in sending order."""
        if fate is Fate.UNKNOWN:
            return
        begin, end = self._in_flight.pop(index)
        if fate is Fate.CONFIRMED:
            self._failed.pop(begin.n, None)
        elif begin.n not in self._failed:
            if len(self._failed) >= self._max_failed:
                return  # the checkpoint stays before it
            self._failed[begin.n] = begin
        if begin.n >= self._first:
            self._ends[begin.n] = end
            while settled := self._ends.pop(self.place.n, None):
                self.place = settled


class _SavedProgress(NamedTuple):
    """The state in the file; at most `doubtful` messages after the place were sent and may have arrived."""

    job: str  # the input and the target
    place: InputPosition
    sha256: str  # of everything before the place
    failed: tuple[InputPosition, ...] = ()
    doubtful: int = 0

    def as_json(self, status: str) -> dict[str, Any]:
        return {
            "publishes": self.job,
            "status": status,
            "settled": self.place._asdict() | {"sha256": self.sha256},
            "failed": [each._asdict() for each in self.failed],
            "doubtful": self.doubtful,
        }


class Resume:
    """The saved state of one run; `read` yields the messages of the stream, which must be a file.

    `job` names the input and the target, since another job needs another state. `skipped` messages were confirmed
    before, `retried` failed and are sent again first, and at most `doubtful` of those that follow may have arrived
    already. Raises PayloadError when the state belongs to another job, is in use by another run, or cannot be read.
    """

    def __init__(self, path: str, job: str, stream: InputStream, read: Read) -> None:
        self._path, self._job, self._stream, self._read = Path(path), job, stream, read
        self._hash, self._hashed = hashlib.sha256(), 0
        if not stream.rereadable:
            raise PayloadError(f"{stream.name}: `resume=` needs a file, which can be read again")
        self._unlock = self._lock()
        saved = _load(self._path) or _SavedProgress(job, BEGINNING, self._hash.hexdigest())
        if saved.job != job:
            self._refuse(f"it belongs to a run that publishes {saved.job}, but this one publishes {job}")
        if self._digest(saved.place) != saved.sha256:
            self._refuse(f"{stream.name} was changed in the part already published, up to line {saved.place.line}")
        self._again = saved.failed
        self.skipped, self.retried = saved.place.n - len(saved.failed), len(saved.failed)
        self.doubtful = saved.doubtful
        self._checkpoint = Checkpoint(self._after_line_end(saved.place), {each.n: each for each in saved.failed})
        self._begin = self._checkpoint.place
        self._unsaved, self._saved_s = 0, 0.0

    @property
    def place(self) -> InputPosition:
        """Return the place of the checkpoint."""
        return self._checkpoint.place

    def messages(self) -> Iterator[Message | None]:
        """Yield the messages that failed before, then all from the checkpoint on, and note each before it is sent.

        Raises PayloadError, before the first, if the state cannot be written.
        """
        try:
            self._save("running")
        except OSError as exc:
            raise PayloadError(f"{self._path}: the state cannot be written: {exc.strerror}") from exc
        for place in self._again:
            for message in self._messages_from(place):
                yield message
                if message is not None:
                    break
        yield from self._messages_from(self._begin)

    def _messages_from(self, begin: InputPosition) -> Iterator[Message | None]:
        for message in self._read(begin):
            if message is not None:
                end = InputPosition(self._stream.offset, self._stream.line, begin.n + 1)
                self._checkpoint.add(begin, end)
                begin = end
            yield message

    def settled(self, index: int, _: Message, fate: Fate) -> None:
        """Note a fate: the `on_settled` callback of `Connection.publish`."""
        self._checkpoint.settle(index, fate)
        self._unsaved += 1
        if self._unsaved >= SAVE_EVERY or time.monotonic() - self._saved_s > SAVE_EVERY_S:
            with suppress(OSError):  # tried again, and reported at the end
                self._save("running")

    def finish(self, *, complete: bool) -> None:
        """Save for the last time, and unlock; `complete` means that the input ended. Raises OutputError."""
        try:
            done = complete and not self._checkpoint.failed and not self._checkpoint.beyond
            self._save("done" if done else "stopped")
        except OSError as exc:
            raise OutputError(f"{self._path}: the state cannot be written: {exc.strerror}") from exc
        finally:
            with suppress(OSError):
                self._lock_path.unlink()
            self._unlock()

    def _lock(self) -> Callable[[], object]:
        """Exclude other runs, and return the function that unlocks; the system unlocks when this process ends.

        The lock is on a file next to the state, since the state itself is replaced again and again.
        """
        while True:
            try:
                lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o666)
                release = weakref.finalize(self, os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with suppress(FileNotFoundError):  # removed by a run that has just ended
                    if os.path.samestat(os.fstat(lock), self._lock_path.stat()):
                        return release
            except BlockingIOError:
                release()
                self._refuse("another run is using it", "Wait for that run to end, or name another file for `resume=`.")
            except OSError as exc:
                raise PayloadError(f"{self._path}: the state cannot be written: {exc.strerror}") from exc
            release()

    @property
    def _lock_path(self) -> Path:
        return self._path.with_name(f".{self._path.name}.lock")

    def _save(self, status: str) -> None:
        """Replace the file completely or not at all, even in a power cut. Raises OSError."""
        checkpoint = self._checkpoint
        self._unsaved, self._saved_s = 0, time.monotonic()
        doubtful = checkpoint.beyond + (2 * SAVE_EVERY if status == "running" else 0)
        place, failed = checkpoint.place, tuple(checkpoint.failed.values())
        state = _SavedProgress(self._job, place, self._digest(place), failed, doubtful)
        replace_file(self._path, json.dumps(state.as_json(status), indent=2), locked=True)

    def _digest(self, place: InputPosition) -> str:
        """Hash the input up to a place, which only ever advances."""
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
        raise PayloadError(f"cannot resume from {self._path}: {reason}", advice=advice)


def _load(path: Path) -> _SavedProgress | None:
    """Read the state; None if the file does not exist. Raises PayloadError."""
    try:
        saved = json.loads(path.read_bytes())
        settled = _place(saved["settled"])
        failed = tuple(_place(each, settled) for each in saved["failed"])
        doubtful = operator.index(saved["doubtful"])
        return _SavedProgress(str(saved["publishes"]), settled, saved["settled"]["sha256"], failed, doubtful)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise PayloadError(f"{path}: the state cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, RecursionError):
        advice = "Name another file for `resume=`; this one was not written by rmqkit, or was changed."
        raise PayloadError(f"{path} is not the state of a run", advice=advice) from None


def _place(saved: Any, last: InputPosition | None = None) -> InputPosition:
    place = InputPosition(*(operator.index(saved[name]) for name in InputPosition._fields))
    if min(place) < 0 or (last is not None and place > last):
        raise ValueError("outside what was published")
    return place
