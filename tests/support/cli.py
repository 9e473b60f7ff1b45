"""Run `rmqkit` in the tests' process, which saves a start of Python, or as a process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import typer

from rmqkit.cli import error_output
from rmqkit.cli.app import app

COMMAND = [sys.executable, "-c", "from rmqkit.cli import main; main()"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[bytes]"]


def rmqkit(
    *arguments: object,
    folder: Path | None = None,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    as_process: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `rmqkit` in a folder and with more variables; with standard input, or `as_process`, run it as a process."""
    words = list(map(str, arguments))
    if stdin or as_process:
        return subprocess.run(
            [*COMMAND, *words],
            capture_output=True,
            text=True,
            input=stdin,
            env=os.environ | dict(env or {}),
            cwd=folder,
            check=False,
        )
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder or Path.cwd()),
        mock.patch.dict(os.environ, env or {}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = error_output.run(lambda: typer.main.get_command(app)(words, prog_name="rmqkit"), words)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def parse_report(stderr: bytes) -> dict[str, Any]:
    """Return the JSON report at the end of standard error."""
    return dict(json.loads(stderr[stderr.index(b"{\n") :]))
