"""Private nodes that end with those who use them, however these end: `kill -9` included.

Everybody who uses the folder holds a shared lock on a file in it, which the system lets go when a process ends; a
process of our own waits until it can have the lock for itself, and then discards what is in the folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from rmqkit.node.cluster import Cluster
from rmqkit.node.node import Node
from rmqkit.node.process import spawn, wait_until


@contextmanager
def reap_when_done(folder: Path, wait_s: float = 60.0) -> Iterator[Path]:
    """Hold the nodes in a folder and below; when nobody holds them any more, they end and the folder is removed.

    At the end wait up to `wait_s` seconds until that is done: none where others may hold the folder too.
    """
    with _lock(folder, fcntl.LOCK_SH) as held:
        # -P: a module in the folder that the user is in may be called like one of ours.
        command: list[str | Path] = [sys.executable, "-P", "-m", __name__, folder]
        process = spawn(command, os.environ, folder / "leash.log")
        try:
            yield folder
        finally:
            fcntl.flock(held, fcntl.LOCK_UN)  # not only closed: a child that was forked may have it open as well
    wait_until(lambda: not process.alive(), wait_s)


def _lock(folder: Path, kind: int) -> TextIO:
    """Lock a file in the folder; one that was removed while we waited for it does not count."""
    while True:
        with suppress(FileNotFoundError), ExitStack() as closing:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = closing.enter_context((folder / "held").open("w"))
            fcntl.flock(file, kind)
            if os.path.samestat(os.fstat(file.fileno()), (folder / "held").stat()):
                closing.pop_all()
                return file


def _watch(folder: Path) -> None:
    with _lock(folder, fcntl.LOCK_EX):
        for place, _, names in list(os.walk(folder)):  # which bears with files that nodes remove meanwhile
            if "cluster.json" in names:
                Cluster(Path(place)).discard()
            elif "node.json" in names and Path(place).exists():
                Node(Path(place)).discard()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _watch(Path(sys.argv[1]))
