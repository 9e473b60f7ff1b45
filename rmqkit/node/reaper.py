"""The reaper of private nodes: it ends them when their users exit, even by `kill -9`.

Each user of the folder holds a shared lock on a file in it, which the system releases when the user exits. The reaper,
a separate process, waits for the exclusive lock and then discards the nodes in the folder.
"""

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
    """Keep the nodes in a folder running during the block; without any such block they end, and the folder is removed.

    Waits up to `wait_s` seconds for that to be done; use 0 if other processes may hold the folder, too.
    """
    with _lock(folder, fcntl.LOCK_SH) as held:
        # -P: a module in the current folder may have the name of one that the reaper imports.
        command: list[str | Path] = [sys.executable, "-P", "-m", __name__, folder]
        process = spawn(command, os.environ, folder / "reaper.log")
        try:
            yield folder
        finally:
            fcntl.flock(held, fcntl.LOCK_UN)  # closing is not enough: a forked child may have the file open, too
            wait_until(lambda: not process.alive(), wait_s)


def _lock(folder: Path, kind: int) -> TextIO:
    """Lock a file in the folder; retry if the file was removed during the wait."""
    while True:
        with suppress(FileNotFoundError), ExitStack() as closing:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = closing.enter_context((folder / "held").open("w"))
            fcntl.flock(file, kind)
            if os.path.samestat(os.fstat(file.fileno()), (folder / "held").stat()):
                closing.pop_all()
                return file


def _reap(folder: Path) -> None:
    with _lock(folder, fcntl.LOCK_EX):
        for path, _, names in list(os.walk(folder)):  # tolerates files that nodes remove meanwhile
            if "cluster.json" in names:
                Cluster(Path(path)).discard()
            elif "node.json" in names and Path(path).exists():
                Node(Path(path)).discard()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _reap(Path(sys.argv[1]))
