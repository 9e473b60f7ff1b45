"""Run `rmqkit` in the tests' process, which saves a start of Python."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any
from unittest import mock

from rmqkit.cli import main

COMMAND = [sys.executable, "-c", "from rmqkit.cli import main; main()"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[bytes]"]


def rmqkit(
    *arguments: object,
    folder: Path | None = None,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `rmqkit` in a folder, with more variables and with standard input, or its end."""
    done = run_bytes(*arguments, folder=folder, stdin=stdin.encode(), env=env)
    out, err = (each.decode(errors="replace") for each in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return the outcome of each entity in the JSON of `plan`, `apply` or `destroy`."""
    return {f"{each['kind']} {each['name']}": each["outcome"] for each in json.loads(done.stdout)["entities"]}


def run_bytes(
    *arguments: object,
    folder: Path | None = None,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run `rmqkit` likewise, with bytes for standard input and output."""
    words = [os.fsdecode(each) if isinstance(each, bytes) else str(each) for each in arguments]
    with (
        contextlib.chdir(folder or Path.cwd()),
        mock.patch.dict(os.environ, env or {}),
        mock.patch.object(sys, "argv", ["rmqkit", *words]),
        _unchanged_log(),
        _standard_streams(stdin) as (out, err),
    ):
        try:
            main()
            code: object = 0
        except SystemExit as ending:
            code = ending.code or 0
    assert isinstance(code, int), code
    return subprocess.CompletedProcess(words, code, bytes(out), bytes(err))


@contextlib.contextmanager
def _unchanged_log() -> Iterator[None]:
    """Undo what `--verbose` and `--log-format` set: the next command has its own options."""
    logger = logging.getLogger("rmqkit")
    handlers, level = logger.handlers[:], logger.level
    try:
        yield
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)


@contextlib.contextmanager
def _standard_streams(stdin: bytes) -> Iterator[tuple[bytearray, bytearray]]:
    """Make pipes of file descriptors 0, 1 and 2, as for a process; yield what is written, complete after the block."""
    out, err = bytearray(), bytearray()
    with contextlib.ExitStack() as restoring:  # in reverse order: our ends of the pipes close before threads are joined
        transfers: tuple[Callable[[int], None], ...] = (
            partial(_write, stdin),
            partial(_read, out),
            partial(_read, err),
        )
        for number, transfer in enumerate(transfers):
            ours, theirs = os.pipe() if number else reversed(os.pipe())
            thread = threading.Thread(target=transfer, args=(ours,))
            thread.start()
            restoring.callback(thread.join)
            kept = os.dup(number)
            restoring.callback(os.close, kept)
            os.dup2(theirs, number)
            os.close(theirs)
            restoring.callback(os.dup2, kept, number)
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            file = open(number, "wb" if number else "rb", closefd=False)  # noqa: SIM115
            stream = TextIOWrapper(file, encoding="utf-8", errors="backslashreplace" if number == 2 else None)
            restoring.enter_context(mock.patch.object(sys, name, stream))
            restoring.callback(stream.detach)
        yield out, err


def _write(data: bytes, pipe: int) -> None:
    with contextlib.suppress(BrokenPipeError), open(pipe, "wb") as stream:
        stream.write(data)


def _read(into: bytearray, pipe: int) -> None:
    with open(pipe, "rb", buffering=0) as stream:
        while chunk := stream.read(65536):
            into += chunk


def parse_report(stderr: bytes) -> dict[str, Any]:
    """Return the JSON report at the end of standard error."""
    return dict(json.loads(stderr[stderr.index(b"{\n") :]))
