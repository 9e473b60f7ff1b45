"""Save each delivery as two files: the body byte for byte, and its properties.

A name is the time in UTC, a random number for the run, and a counter: it contains nothing of the message.
    20261123T150102.123456Z-5d1f0a-000001.json               the body
    20261123T150102.123456Z-5d1f0a-000001.properties.json    an envelope, with `body_file` instead of the body
"""

import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from rmqkit.atomic_file import sync_folder
from rmqkit.errors import OutputError
from rmqkit.handlers.handler import HandledBatch, Handler, Source
from rmqkit.message import Delivery
from rmqkit.payload import envelopes
from rmqkit.stop import Stop

_SYNC_TOGETHER = 100  # messages synced to disk together: waiting for the disk takes most of the time
_SUFFIXES = {
    "application/json": ".json",
    "application/xml": ".xml",
    "application/pdf": ".pdf",
    "image/gif": ".gif",
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/svg+xml": ".svg",
    "text/csv": ".csv",
    "text/html": ".html",
    "text/plain": ".txt",
    "text/xml": ".xml",
}


class FileSaver(Handler):
    """Saves each delivery as two files in a folder, the body first; creates the folder if it does not exist.

    Any number of runs may share the folder. Raises OutputError when the folder cannot be created.
    """

    may_fail = False  # on a message alone

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run = secrets.token_hex(3)
        self._numbers = count(1)
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise OutputError(f"cannot create folder {folder}: {exc.strerror}") from exc

    def handle(self, source: Source, stop: Stop) -> Iterator[HandledBatch]:
        """Save deliveries. Raises OutputError when a file cannot be written; its message stays queued."""
        for batch in source.batches():
            for start in range(0, len(batch), _SYNC_TOGETHER):
                if stop.requested:
                    return
                together = batch[start : start + _SYNC_TOGETHER]
                self._save(together)
                yield HandledBatch(together)

    def _save(self, deliveries: Sequence[Delivery]) -> None:
        files: list[tuple[Path, Path]] = []  # the hidden name, and the one a file is renamed to when it is synced
        descriptors: list[int] = []
        try:
            for delivery in deliveries:
                self._write(delivery, files, descriptors)
            for descriptor in descriptors:
                os.fsync(descriptor)
            for hidden, final in files:
                hidden.rename(final)
            sync_folder(self._folder)
        except OSError as exc:
            for hidden, _ in files:
                with suppress(OSError):
                    hidden.unlink(missing_ok=True)
            raise OutputError(f"cannot write to folder {self._folder}: {exc.strerror}") from exc
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _write(self, delivery: Delivery, files: list[tuple[Path, Path]], descriptors: list[int]) -> None:
        with self._lock:
            name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{self._run}-{next(self._numbers):06}"
        content_type = (delivery.properties.content_type or "").partition(";")[0].strip().lower()
        body_file = name + _SUFFIXES.get(content_type, ".bin")
        properties = envelopes.EnvelopeWriter().write(delivery, body_file=body_file) + b"\n"
        for final, content in ((body_file, delivery.body), (name + envelopes.SUFFIX, properties)):
            hidden = self._folder / f".{final}.part"
            descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            files.append((hidden, self._folder / final))
            descriptors.append(descriptor)
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
