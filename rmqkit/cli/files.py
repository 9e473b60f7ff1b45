"""Files that commands read and write, `-` among them."""

import errno
import os
from pathlib import Path
from tempfile import TemporaryFile

from rmqkit.atomic_file import replace_file
from rmqkit.cli import output
from rmqkit.errors import InputError, OutputError

STANDARD = "-"  # standard input or output, as a path
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def readable(path: str) -> str:
    """Return the path to read: that of standard input if it is `-`."""
    return "/dev/stdin" if path == STANDARD else path


def check_writable(path: str) -> None:
    """Raise InputError if `write` could not replace a file: before long work, of which it would be the result."""
    if path == STANDARD:
        return
    target = Path(path)
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if target.is_file() or not target.exists():  # devices and pipes are written to, and not replaced
            TemporaryFile(dir=target.resolve().parent).close()
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error


def write(path: str, text: str, *, force: bool = False) -> None:
    """Write a text that ends with a line feed to a file, in one step, or to standard output if `path` is `-`.

    A file that is replaced keeps its permissions. Raises InputError if the file exists, unless `force`, or cannot be
    written, and OutputError if the disk is full.
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
            raise InputError(f"{path} already exists", advice="Name another file, or add --force.")
        replace_file(target.resolve(), text)  # of a symbolic link, the file it leads to
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, OSError) and error.errno in _FULL:
            raise OutputError(f"{path}: {error.strerror}; nothing was changed") from error
        raise _unwritable(path, error) from error


def _unwritable(path: str, error: Exception) -> InputError:
    return InputError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}")
