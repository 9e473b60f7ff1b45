"""Deliveries to files: a body byte for byte, and its properties beside it.

A name is the time in UTC, a number that tells this run from others, and one that counts: never anything of the message.
    20261123T150102.123456Z-5d1f0a-000001.json               the body
    20261123T150102.123456Z-5d1f0a-000001.properties.json    an envelope, with `body_file` in the place of the body
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import NamedTuple

from rmqkit.atomic_file import sync_folder
from rmqkit.errors import OutputError
from rmqkit.handlers.handler import HandledBatch, Source
from rmqkit.message import Delivery
from rmqkit.payload import envelopes
from rmqkit.stop import Stop

_TOGETHER = 100  # messages that go to the disk together: waiting for it takes most of the time
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


class _SavedFile(NamedTuple):
    """A file that is still under another name."""

    hidden: Path
    final: Path


class FileSaver:
    """Saves each delivery as two files in a folder, which is made if it is not there; the one with the body first.

    Raises OutputError when it cannot be made. Any number of runs may share the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run = secrets.token_hex(3)
        self._numbers = count(1)
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise OutputError(f"the folder {folder} cannot be made: {exc.strerror}") from exc

    def handle(self, source: Source, stop: Stop) -> Iterator[HandledBatch]:
        """Save what comes. Raises OutputError when a file cannot be written; its message stays queued."""
        for batch in source.batches():
            for start in range(0, len(batch), _TOGETHER):
                if stop.requested:
                    return
                together = batch[start : start + _TOGETHER]
                self._save(together)
                yield HandledBatch(together)

    def close(self) -> None:
        """Do nothing: nothing runs on."""

    def _save(self, deliveries: Sequence[Delivery]) -> None:
        files: list[_SavedFile] = []
        descriptors: list[int] = []
        try:
            for delivery in deliveries:
                self._write(delivery, files, descriptors)
            for descriptor in descriptors:
                os.fsync(descriptor)
            for file in files:
                file.hidden.rename(file.final)
            sync_folder(self._folder)
        except OSError as exc:
            for file in files:
                with suppress(OSError):
                    file.hidden.unlink(missing_ok=True)
            raise OutputError(f"{self._folder}: no file can be written: {exc.strerror}") from exc
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _write(self, delivery: Delivery, files: list[_SavedFile], descriptors: list[int]) -> None:
        with self._lock:
            name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{self._run}-{next(self._numbers):06}"
        content_type = (delivery.properties.content_type or "").partition(";")[0].strip().lower()
        body_file = name + _SUFFIXES.get(content_type, ".bin")
        properties = envelopes.EnvelopeWriter().write(delivery, body_file=body_file) + b"\n"
        for final, content in ((body_file, delivery.body), (name + envelopes.SUFFIX, properties)):
            file = _SavedFile(self._folder / f".{final}.part", self._folder / final)
            descriptor = os.open(file.hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            files.append(file)
            descriptors.append(descriptor)
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
