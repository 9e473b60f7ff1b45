"""Files that are replaced in one step: after a crash, a file holds its old text or its new one, wholly."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, text: str, *, private: bool = False, locked: bool = False) -> None:
    """Write a text to a file that exists or not, and wait until it is on disk. Raises OSError.

    The file keeps the permissions of the one it replaces; a `private` one is readable only by its owner. If the caller
    has `locked` the path, the temporary file always has the same name, so that one left by a killed run is reused.
    """
    part = path.with_name(f".{path.name[:200]}{'' if locked else f'.{secrets.token_hex(4)}'}.part")
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if locked else os.O_EXCL)
    try:
        with os.fdopen(os.open(part, flags, 0o600 if private else 0o666), "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        if not private and path.exists():
            shutil.copymode(path, part)
        part.replace(path)
        with suppress(PermissionError):  # a folder that may be written to and not read
            sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Wait until the names of the files in a folder are on disk: fsync of a file covers its content alone."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
