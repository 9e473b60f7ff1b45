"""A text becomes a file, whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from rmqkit.cli import output
from rmqkit.errors import InputError, OutputError

STANDARD = "-"  # standard input or output, as a path
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def readable(path: str) -> str:
    """Return the path to read: that of standard input if it is `-`."""
    return "/dev/stdin" if path == STANDARD else path


def write(path: str, text: str, *, force: bool = False) -> None:
    """Write a file, or to standard output if `path` is `-`; the text is to end with a line feed.

    A file that is there is an InputError, unless `force`: then it is replaced in one step, keeping its permissions.
    Raises InputError where nothing can be written, and OutputError when the disk is full.
    """
    if path == STANDARD:
        output.out(text.removesuffix("\n"))
        return
    target = Path(path)
    try:
        if target.exists() and not target.is_file():  # a device or a pipe; or a folder, which is an error
            target.write_text(text, "utf-8")
            return
        if target.exists() and not force:
            raise InputError(f"{path} is there already, and was not touched", advice="Name another, or add --force.")
        _replace(target.resolve(), text)  # what a symbolic link stands for is replaced, not the link
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, OSError) and error.errno in _FULL:
            raise OutputError(f"{path}: {error.strerror}; nothing was changed") from error
        raise InputError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from error


def _replace(target: Path, text: str) -> None:
    new = target.with_name(f".{target.name[:200]}.{os.getpid()}.new")
    try:
        with new.open("x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        if target.exists():
            shutil.copymode(target, new)
        new.replace(target)
    except BaseException:
        with suppress(FileNotFoundError):
            new.unlink()
        raise
