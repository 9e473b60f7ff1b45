"""Print data to standard output, and notes and errors to standard error.

Text from a message or a broker may hold control characters; `safe` makes them harmless for a terminal. A reader that
leaves early (`rmqkit schema | head -1`) is no error here: nothing printed by this module is a message.
"""

import errno
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import Enum
from io import TextIOWrapper
from typing import Any, Literal, TextIO
from unicodedata import combining, east_asian_width

from rmqkit.errors import OutputError

Style = Literal["bold", "dim", "red", "green", "yellow"]
_CODES: dict[str, str] = {
    "bold": "1",
    "dim": "2",
    "red": "1;31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}

LOG_FORMAT = "RMQKIT_LOG_FORMAT"  # environment variable; set by --log-format, for worker processes too


class LogFormat(Enum):
    """How notes, warnings, errors and the log are written to standard error."""

    TEXT = "text"
    JSON = "json"


warned: set[str] = set()  # the warnings and notes of this command that are printed once
is_quiet = False  # set by --quiet: no notes and no progress

# Characters that JSON may hold unescaped and a terminal obeys: Latin-1's controls, and changes of direction.
_MIN_WIDTH = 8  # columns of a shortened cell
_MIN_WRAPPED = 20  # columns of a cell in several lines
_ARGUMENT = re.compile("`(?P<name>[a-z_]+)=(?:True)?(?P<value>[^`]*)`")  # as texts of the library write it
_TLS_FIELDS = ("ca_file", "cert_file", "key_file", "key_password_file", "insecure")
_OPTIONS = {"failed": "on-failure"} | {name: f"tls-{name.replace('_', '-')}" for name in _TLS_FIELDS}
_COLOR = re.compile("\x1b\\[[0-9;]*m")
_WORD = re.compile(r"(?:`[^`]*`|\S)+")  # a command in backquotes is copied as a whole
_CONTROLS = re.compile(r"[\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def write_utf8() -> None:
    """Write UTF-8 in any locale, except to a terminal: a name must reach files and programs as it is."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and not stream.isatty():
            stream.reconfigure(encoding="utf-8", errors=stream.errors)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether the stream is a terminal that can move its cursor."""
    return bool(stream and stream.isatty() and os.environ.get("TERM") != "dumb")


def is_colored(stream: TextIO | None) -> bool:
    """Return whether the stream shows colors: on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and not (stream is sys.stderr and logs_json())


def paint(text: str, style: str, stream: TextIO) -> str:
    """Color a text if the stream shows colors."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if text and style and is_colored(stream) else text


def safe(text: str) -> str:
    """Escape everything but printable characters and line feeds, as Python does."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode() for each in text
    )


def columns_of(stream: TextIO | None) -> int:
    """Return the width of a terminal; 0 for any other stream."""
    if stream is None or not is_terminal(stream):
        return 0
    with suppress(OSError, ValueError):
        return int(os.environ.get("COLUMNS") or os.get_terminal_size(stream.fileno()).columns)
    return 0


def wrap(text: str, columns: int, indent: str = "") -> str:
    """Break lines that are wider than `columns` between words; 0 breaks none.

    The rest of a line is indented as the line is, and by `indent`. Colors have no width.
    """
    return "\n".join(_wrapped(line, columns, indent) for line in text.split("\n")) if columns else text


def _wrapped(line: str, columns: int, indent: str) -> str:
    plain_line = _COLOR.sub("", line)
    if width(plain_line) <= columns:
        return line
    indent = " " * (len(plain_line) - len(plain_line.lstrip(" "))) + indent
    lines: list[str] = []
    begin = end = 0
    for word in _WORD.finditer(line):
        taken = _COLOR.sub("", line[begin:end])
        room = columns - (len(indent) if lines else 0)
        if taken.strip() and width(_COLOR.sub("", line[begin : word.end()])) > room:
            lines.append(line[begin:end])
            begin = word.start()
        end = word.end()
    return f"\n{indent}".join([*lines, line[begin:]])


def sentence(text: str) -> bool:
    """Print lines of text to standard output, as `out` does; a terminal does not break them within a word."""
    return out(wrap(text, columns_of(sys.stdout)))


def out(text: str) -> bool:
    """Print a line to standard output, and return whether it has a reader; raise OutputError when the disk is full."""
    return _write(sys.stdout, text + "\n")


def out_json(value: Any) -> None:
    """Print a report as one JSON object on standard output."""
    out(to_json(value))


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Return JSON for people and programs, with the characters escaped that a terminal would obey."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a dataclass as JSON has them: times as text."""
    return {
        name: each.isoformat() if isinstance(each, datetime) else plain(each) if isinstance(each, dict) else each
        for name, each in values.items()
    }


def logs_json() -> bool:
    """Tell whether each line on standard error is one JSON object."""
    return os.environ.get(LOG_FORMAT) == LogFormat.JSON.value


def log(level: str, message: str, logger: str = "rmqkit.cli", **fields: Any) -> None:
    """Print one JSON object on a line of standard error."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = {"time": time, "level": level, "logger": logger, "message": message} | fields
    _to_stderr(to_json(line, indent=None))


def error(text: str, level: str = "error") -> None:
    """Print an error on standard error, or in its format a message of another level; color codes in it stay."""
    text = in_options(text)
    if logs_json():
        log(level, text)
    else:
        _to_stderr(wrap(text, columns_of(sys.stderr)))


def report(value: Any) -> None:
    """Print a report as JSON on standard error, for a command whose standard output belongs to messages."""
    if logs_json():
        log("info", "report", report=value)
    else:
        _to_stderr(json.dumps(value, indent=2))


def _to_stderr(line: str) -> None:
    with suppress(OutputError):  # there is nowhere to report it
        _write(sys.stderr, line + "\n")


def note(text: str) -> None:
    """Print a note on standard error unless it is quiet; color codes in it stay."""
    if not is_quiet:
        error(text, "info")


def note_once(text: str, style: str = "") -> None:
    """Print a note, in a color if one is given, on standard error unless the command has printed it already."""
    if text not in warned:
        warned.add(text)
        note(paint(safe(text), style, sys.stderr))


def note_waiting(messages: str) -> None:
    """Tell a person at a terminal that the command waits for messages, which may never arrive."""
    if is_terminal(sys.stderr):
        note(safe(f"Waiting for {messages}. Press Ctrl-C to stop."))


def in_options(text: str) -> str:
    """Return a text of the library with options in place of arguments: --force for `force=True`."""
    return _ARGUMENT.sub(_option, text)


def _option(argument: re.Match[str]) -> str:
    name, value = argument["name"], argument["value"]
    name = _OPTIONS.get(name) or name.removesuffix("_s").replace("_", "-")
    return f"--{name} {value}".strip()


def warn(text: str) -> None:
    """Print a warning on standard error; the command continues."""
    error(safe(text) if logs_json() else f"{paint('warning:', 'yellow', sys.stderr)} {safe(text)}", "warning")


def warn_once(text: str) -> None:
    """Print a warning unless the command has printed it already."""
    if text not in warned:
        warned.add(text)
        warn(text)


def ask(question: str) -> str:
    """Ask a question on the terminal, and return the answer."""
    _write(sys.stderr, wrap(f"{safe(question)} ", columns_of(sys.stderr)))
    return sys.stdin.readline().strip()


def confirm(question: str) -> bool:
    """Ask a question on the terminal, and return whether the answer is yes."""
    return ask(f"{question} [y/N]").lower() in ("y", "yes")


def table(
    rows: Sequence[Sequence[str]],
    *,
    header: Sequence[str] = (),
    styles: Sequence[str | None] = (),
    numbers: Collection[int] = (),
    shortened: Collection[int] = (0,),
) -> str:
    """Align rows in columns as wide as their widest cell, for standard output.

    `styles` has one a row, if any; `numbers` are the columns, from 0, that are aligned to the right. On a terminal that
    is too narrow, those that may be `shortened` are, and the text of the last one is wrapped.
    """
    columns = columns_of(sys.stdout)
    cells = ([header] if header else []) + list(rows)
    gaps = 2 * (len(cells[0]) - 1) if cells else 0
    aligned = align(cells, numbers=numbers, shortened=shortened, columns=columns - gaps if columns else None)
    lines = [_line(row, 0 if len(row) - 1 in numbers else columns) for row in aligned]
    looks: list[str | None] = ["bold"] if header else []
    looks += styles or [None] * len(rows)
    return "\n".join(
        paint(line, style, sys.stdout) if style else line for line, style in zip(lines, looks, strict=True)
    )


def _line(cells: Sequence[str], columns: int) -> str:
    *others, last = cells
    offset = sum(width(cell) + 2 for cell in others)
    if columns - offset >= _MIN_WRAPPED:
        last = wrap(last.rstrip(), columns - offset).replace("\n", "\n" + " " * offset)
    return "  ".join([*others, last]).rstrip()


def align(
    rows: Sequence[Sequence[str]],
    *,
    numbers: Collection[int] = (),
    shortened: Collection[int] = (0,),
    columns: int | None = None,
) -> list[list[str]]:
    """Return safe cells as wide as their columns; together they fit `columns` of the screen if they can be shortened.

    `numbers` and `shortened` are as in `table`.
    """
    cells = [[safe(cell).replace("\n", "\\n") for cell in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    if columns is not None:
        while sum(widths) > columns and (widest := max(widths[each] for each in shortened)) > _MIN_WIDTH:
            widths[next(each for each in shortened if widths[each] == widest)] -= 1
        cells = [[shorten(cell, wide) for cell, wide in zip(row, widths, strict=True)] for row in cells]
    aligned = []
    for row in cells:
        padded = [(" " * (wide - width(cell)), cell) for cell, wide in zip(row, widths, strict=True)]
        aligned.append([pad + cell if column in numbers else cell + pad for column, (pad, cell) in enumerate(padded)])
    return aligned


def width(text: str) -> int:
    """Return the number of columns a text takes on a terminal (https://www.unicode.org/reports/tr11/)."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(each) else 1 + (east_asian_width(each) in "WF") for each in text)


def shorten(text: str, columns: int) -> str:
    """Replace the middle of a text that is wider than `columns` by an ellipsis."""
    if width(text) <= columns:
        return text
    head, tail = text[: columns // 2], text[-(columns // 2) :]
    while width(head) > columns // 2:
        head = head[:-1]
    while width(head) + width(tail) >= columns:
        tail = tail[1:]
    return f"{head}…{tail}"


def flush() -> None:
    """Flush both streams, so that nothing is left to fail while Python ends."""
    for stream in (sys.stdout, sys.stderr):
        _write(stream, "")


def _write(stream: TextIO | None, text: str) -> bool:
    """Write, and return whether there is still a reader; raise OutputError for any other failure."""
    if stream is None:  # closed before the command started, as by `>&-`
        return False
    try:
        stream.write(text)
        stream.flush()
    except UnicodeEncodeError:  # a stream of another encoding, as with PYTHONIOENCODING=ascii
        return _write(stream, text.encode(stream.encoding, "backslashreplace").decode(stream.encoding))
    except OSError as error:
        _abandon(stream)
        if error.errno != errno.EPIPE:
            name = "standard output" if stream is sys.stdout else "standard error"
            raise OutputError(f"{name}: {error.strerror}") from error
        return False
    return True


def _abandon(stream: TextIO) -> None:
    """Discard the buffered text and all that follows: flushing it at exit would fail again."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


Update = Callable[[int, str], None]  # how much is done by now, and why progress is blocked (empty: it is not)


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Update]:
    """Show a bar with rate and time left while the block runs, if standard error is a terminal.

    Yields the function that updates it. Call it as often as you like, from any thread; the bar is drawn ten times a
    second.
    """
    with progress_bars(label, total=total) as (update,):
        yield update


@contextmanager
def progress_bars(*labels: str, total: int | None = None) -> Iterator[list[Update]]:
    """Show several bars, one below the other, as `progress` does one."""
    if is_quiet or logs_json() or not is_terminal(sys.stderr):
        yield [lambda _done, _blocked: None for _ in labels]
        return
    from rich.console import Console  # noqa: PLC0415 - start-up time: rich is for terminals
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[done]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[blocked]}", style="yellow", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def bar(label: str) -> Update:
            task = bars.add_task(label, total=total, done="", rate="", blocked="")

            def update(done: int, blocked: str) -> None:
                speed = bars.tasks[task].speed  # of the last seconds in which anything was done
                rate = f"{speed:,.0f}/s" if speed else ""
                shown = f"{done:,}/{total:,}" if total else f"{done:,}"
                blocked = f"blocked: {safe(blocked)}" if blocked else ""
                bars.update(task, completed=done, done=shown, rate=rate, blocked=blocked)

            return update

        yield [bar(label) for label in labels]
