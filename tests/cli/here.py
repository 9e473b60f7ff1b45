"""`rmqkit` within the tests' own process: a start of Python saved, ten times as fast."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import typer

from rmqkit.cli import error_output
from rmqkit.cli.app import app

COMMAND = [sys.executable, "-c", "from rmqkit.cli import main; main()"]


def rmqkit(
    *arguments: object,
    folder: Path | None = None,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    apart: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `rmqkit` with a folder and variables of its own; `apart`, or with standard input, as a process of its own."""
    words = list(map(str, arguments))
    if stdin or apart:
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
