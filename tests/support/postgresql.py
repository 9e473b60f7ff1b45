"""A PostgreSQL server for a few tests, in a folder of its own, without a TCP port."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.wait import wait_until

_FOLDERS = os.pathsep.join(map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)))


@contextmanager
def server() -> Iterator[dict[str, str]]:
    """Start a server, as the user `postgres` if this is root; yield the variables by which clients find it."""
    user = "postgres" if os.getuid() == 0 else getpass.getuser()
    folder = Path(tempfile.mkdtemp(prefix="rmqkit-postgresql-"))  # short: it holds a socket
    data, log = folder / "data", folder / "log"
    try:
        if os.getuid() == 0:
            shutil.chown(folder, user)
        options: list[str | Path] = ["-D", data, "-U", user, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        created = subprocess.run(
            [_program("initdb"), *options], user=user, cwd=folder, capture_output=True, check=False
        )
        assert created.returncode == 0, created.stderr.decode()
        command: list[str | Path] = [_program("postgres"), "-D", data, "-F", "-k", folder, "-c", "listen_addresses="]
        with log.open("wb") as output:
            process = subprocess.Popen(command, user=user, cwd=folder, stdout=output, stderr=output)
        try:
            wait_until(lambda: b"ready to accept connections" in log.read_bytes(), log.read_text)
            yield {"PGHOST": str(folder), "PGUSER": user}
        finally:
            process.send_signal(signal.SIGINT)  # it waits for no client that a failed test left
            process.wait(60)
    finally:
        shutil.rmtree(folder)


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=_FOLDERS)
    assert found, f"PostgreSQL's {name} is missing: run make clients"
    return found
