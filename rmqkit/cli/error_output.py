"""Report the error that ends a command, once, and turn it into an exit code."""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rmqkit import exit_codes
from rmqkit.cli import output
from rmqkit.errors import OutputError, RmqkitError

DEBUG = "RMQKIT_DEBUG"  # set it to see tracebacks
_REPORTS_ON_STDERR = {"consume", "call"}  # their standard output belongs to the messages
_OUTPUT_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def run(command: Callable[[], object], arguments: Sequence[str]) -> int:
    """Run a command, report its error if it has one, and return the exit code.

    With `--json` among the arguments an error is one JSON object, where the command's report would be.
    """
    output.warned.clear()
    code = _run(command, arguments)
    try:
        output.flush()
    except OutputError as error:
        return code or _report(error, arguments)
    return code


def _run(command: Callable[[], object], arguments: Sequence[str]) -> int:
    try:
        code = command()  # of typer.Exit
    except SystemExit as ending:
        if isinstance(ending.__context__, BrokenPipeError):  # which Click would not report
            return _report(OutputError("standard output closed by its reader (broken pipe)"), arguments)
        code = ending.code
    except KeyboardInterrupt:
        return exit_codes.SIGNALLED + 2
    except Exception as error:  # noqa: BLE001 - the last line of defence
        if isinstance(error, OSError) and error.errno in _OUTPUT_FULL:  # while Click printed a help text
            error = OutputError(f"standard output: {error.strerror}")
        return _report(error, arguments) if isinstance(error, RmqkitError) else _report_bug(error)
    return code if isinstance(code, int) else exit_codes.DONE


def _report(error: RmqkitError, arguments: Sequence[str]) -> int:
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--json" in options:
        command = next((each for each in options if not each.startswith("-")), "")
        if command not in _REPORTS_ON_STDERR:
            output.out_json(as_json(error))
        elif not output.logs_json():
            output.report(as_json(error))
        else:
            show(error)
    else:
        show(error)
    return exit_codes.exit_code(error)


def show(error: RmqkitError, subject: str = "") -> None:
    """Print an error on standard error, after the subject that it is about."""
    if output.logs_json():
        details = as_json(error)
        message = details.pop("message")
        output.log("error", subject + message, **{name: value for name, value in details.items() if value})
    else:
        output.error(subject + as_text(error))


def as_text(error: RmqkitError) -> str:
    """Return the text for standard error: the message, every problem with its place, the advice."""
    lines = [f"{output.paint('error:', 'red', sys.stderr)} {output.safe(error.message)}"]
    for problem in error.problems:
        where = output.paint(output.safe(str(problem.where)), "bold", sys.stderr)
        lines.append(f"{where}: {output.safe(problem.message)}")
        lines.extend(_indented(problem.advice))
    lines.extend(_indented(error.advice))
    return "\n".join(lines)


def _indented(advice: str) -> list[str]:
    return [output.paint(f"  {line}", "dim", sys.stderr) for line in output.safe(advice).splitlines()]


def as_json(error: RmqkitError) -> dict[str, Any]:
    """Return the error object that `--json` prints: `error` is its class, `report` the work done until then."""
    from rmqkit import report  # noqa: PLC0415 - it loads the model

    return {
        "error": type(error).__name__,
        "message": output.in_options(error.message),
        "advice": output.in_options(error.advice),
        "problems": [
            report.problem_as_json(
                replace(each, message=output.in_options(each.message), advice=output.in_options(each.advice))
            )
            for each in error.problems
        ],
    } | ({"report": report.as_json(done)} if (done := getattr(error, "report", None)) else {})


def _report_bug(error: Exception) -> int:
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    else:  # the text of a foreign error may hold anything, even the body of a message: leave it out
        place = traceback.extract_tb(error.__traceback__)[-1]
        message = f"a bug in rmqkit: {type(error).__name__} in {place.filename}, line {place.lineno}"
        show(RmqkitError(message, advice=f"Please report it, with the traceback that {DEBUG}=1 prints."))
    return exit_codes.BUG
