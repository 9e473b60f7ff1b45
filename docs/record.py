#!/usr/bin/env python3
"""Record the terminals shown in docs/: commands of a page, run on a private node, and drawn as SVG.

`make pictures` runs it; names of recordings as arguments limit it to those. What stands in the page before a command,
files and other commands, is run first, unseen.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from shutil import copytree
from typing import Any, NamedTuple

from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
COLUMNS, LINES = 104, 40
SCREEN_COLUMNS, SCREEN_LINES = 80, 24


class Recording(NamedTuple):
    """Commands of a page, as they stand there after `$ `; `before` is run before the first one, unseen.

    Once the last command shows `until`, `keys` are typed, and `meanwhile` is run, unseen; without them, the picture is
    of this moment.

    A `screen` is a command that fills the terminal, of 80 columns and 24 lines; it runs after the last command, which
    is not shown, and is pictured when `until` appears, or with `opened`, once Enter made that appear. The keys end it.
    """

    page: str
    commands: tuple[str, ...]
    until: str = ""
    screen: str = ""
    keys: str = ""
    meanwhile: str = ""
    before: str = ""
    opened: str = ""


# A client that is named, and acknowledges nothing; the statistics are there once its two messages are.
_STUCK_WORKER = """python -c '
import os, pika
parameters = pika.URLParameters(os.environ["RMQKIT_URL"])
parameters.client_properties = {"connection_name": "billing worker"}
channel = pika.BlockingConnection(parameters).channel()
channel.basic_qos(prefetch_count=2)
channel.basic_consume("billing", lambda *delivery: None)
channel.start_consuming()
' >/dev/null 2>&1 &
until rmqkit consumers billing | grep full; do sleep 0.2; done"""

RECORDINGS = {
    "work-queue": Recording(
        "docs/getting-started.md",
        (
            "rmqkit apply topologies/work.yaml",
            "rmqkit publish --count 60000",
            "rmqkit consume worker_queue -n 5",
            "rmqkit consume worker_queue --workers 3 --idle-timeout 1 > numbers.txt",
        ),
    ),
    "publish": Recording("docs/getting-started.md", ("rmqkit publish --count 60000",), until="[2-5].,.../60,000 .*/s"),
    "consume": Recording(
        "docs/getting-started.md",
        (
            "rmqkit consume worker_queue -n 5",
            "rmqkit consume worker_queue --workers 3 --idle-timeout 1 > numbers.txt",
        ),
    ),
    "init": Recording("docs/life-of-a-topology.md", ("rmqkit init", "rmqkit init orders example")),
    "plan": Recording("docs/life-of-a-topology.md", ("rmqkit plan --prune shop.yaml",)),
    "export": Recording(
        "docs/life-of-a-topology.md", ("rmqkit export -o live.yaml", "rmqkit diff shop.yaml live.yaml")
    ),
    "plan-all": Recording(
        "docs/life-of-a-topology.md",
        (
            "rmqkit export --all-vhosts -o live",
            "rmqkit delete queue shop.audit --yes",
            "printf 'vhost: staging\\nqueues: {debug: {}}' | rmqkit apply -",
            "rmqkit plan --all-vhosts live/*.yaml",
        ),
        before="printf 'vhost: audit\\nqueues: {entries: {}}' | rmqkit apply -",
    ),
    "status": Recording("docs/life-of-a-topology.md", ("rmqkit status shop.yaml",)),
    "peek": Recording(
        "docs/browsing.md", ("rmqkit peek worker_queue", "rmqkit peek worker_queue --filter 'body.total < 10' --full")
    ),
    "why": Recording("docs/operations.md", ("rmqkit why billing",)),
    "bench": Recording("docs/bench.md", ("rmqkit bench --duration 3 --warm-up 0",)),
    "top": Recording(
        "docs/operations.md",
        ("rmqkit top --once --filter parked",),
        until="parked .*\n(.*\n)*.* q Quit",
        screen="rmqkit top",
        keys="q",
    ),
    "top-queue": Recording(
        "docs/operations.md",
        ("rmqkit top --once --filter parked",),
        until="billing .*\n(.*\n)*.* q Quit",
        screen="rmqkit top --filter billing",
        opened="billing worker",
        keys="q",
        before=_STUCK_WORKER,
    ),
    "check": Recording(
        "docs/operations.md", ("rmqkit check shop.yaml --queue billing --max-ready 3 --min-consumers 1",)
    ),
    "connections": Recording(
        "docs/operations.md",
        (
            "rmqkit connections",
            "rmqkit consumers billing",
            "rmqkit connections --close 'billing worker' --reason 'stuck since 9:40'",
        ),
        before=_STUCK_WORKER,
    ),
    "wait": Recording(
        "docs/operations.md",
        ("rmqkit wait parked --empty --timeout 300", "rmqkit wait billing --consumers 1 --timeout 0.2"),
    ),
    "purge": Recording("docs/operations.md", ("rmqkit purge audit",), until=r"\? \[", keys="y\r"),
    "delete": Recording(
        "docs/operations.md",
        (
            "rmqkit delete queue parked --dry-run",
            "rmqkit delete queue audit --if-empty --yes",
            "rmqkit delete queue audit --if-unused --yes",
        ),
    ),
    "trace": Recording(
        "docs/tracing.md",
        ("rmqkit trace --topology shop.yaml --check -n 4",),
        before="rmqkit apply shop.yaml mail.yaml",
        until="from",
        meanwhile="rmqkit publish -e orders -r order.eu.paid 7; rmqkit consume billing -n 1;"
        " rmqkit consume audit -n 1; rmqkit publish -e orders -r order.us.shipped 8",
    ),
    "snapshot": Recording(
        "docs/browsing.md",
        (
            "rmqkit snapshot worker_queue before.jsonl.gz",
            "rmqkit delete queue worker_queue --yes",
            "rmqkit apply topologies/work.yaml",
            "rmqkit restore before.jsonl.gz --queue worker_queue",
            "rmqkit snapshot worker_queue after.jsonl.gz",
            "rmqkit diff before.jsonl.gz after.jsonl.gz",
            "rmqkit consume worker_queue -n 1",
            "rmqkit snapshot worker_queue later.jsonl",
            "rmqkit diff after.jsonl.gz later.jsonl",
        ),
    ),
    "copy": Recording(
        "docs/browsing.md",
        ("rmqkit copy worker_queue --to-queue jobs --filter 'body.total > 10'", "rmqkit peek jobs"),
    ),
    "context": Recording(
        "docs/contexts.md",
        (
            "rmqkit context add dev amqp://localhost --color green",
            "rmqkit context list",
            "rmqkit context show prod --vhost audit",
            "rmqkit status --context prd",
            "rmqkit destroy topologies/work.yaml --context prod",
        ),
        until="Type its name",
        keys="dev\r",
    ),
    "upgrade": Recording("docs/upgrading.md", ("rmqkit validate --rabbitmq 4.3 orders.yaml",)),
    "permissions": Recording(
        "docs/security.md",
        tuple(f"rmqkit permissions shop.yaml --for {name} --vhost /" for name in ("shop", "billing", "auditor")),
    ),
    "delay": Recording(
        "docs/delayed-messages.md",
        (
            "rmqkit apply topologies/work.yaml",
            'rmqkit publish worker_queue "call Ada" --delay 2s',
            "rmqkit consume worker_queue -n 1",
        ),
    ),
    "tasks": Recording(
        "docs/patterns/work-queue.md",
        (
            "rmqkit apply topologies/work.yaml",
            "rmqkit publish --count 4",
            "rmqkit consume worker_queue --exec 'xargs echo done' -n 4 --concurrency 2",
        ),
    ),
    "publish-subscribe": Recording("docs/patterns/publish-subscribe.md", ("rmqkit demo pubsub",)),
    "routing": Recording("docs/patterns/routing.md", ("rmqkit demo topics",)),
    "offline-readers": Recording("docs/patterns/offline-readers.md", ("rmqkit demo offline",)),
    "request-reply": Recording(
        "docs/patterns/request-reply.md",
        (
            "rmqkit apply topologies/rpc.yaml",
            "rmqkit serve rpc_requests --exec 'tr a-z A-Z' --count 4 &>server.log &",
            'rmqkit call rpc_requests "hello"',
            "printf 'one\\ntwo\\nthree\\n' | rmqkit call rpc_requests --window 10",
        ),
    ),
    "streams": Recording("docs/patterns/streams.md", ("rmqkit demo streams",)),
    "retry": Recording(
        "docs/patterns/retry.md",
        ("rmqkit consume orders --exec 'sh -c \"exit 7\"' --count 6", "rmqkit move parked --dry-run"),
    ),
    "priority": Recording("docs/patterns/priority.md", ("rmqkit demo priority",)),
    "dead-letters": Recording(
        "docs/patterns/dead-letters.md", ("rmqkit move parked --dry-run", "rmqkit move parked --limit 1")
    ),
    "publisher-confirms": Recording(
        "docs/patterns/publisher-confirms.md", ("rmqkit apply topologies/work.yaml", "rmqkit publish --count 1000")
    ),
}
_BLOCK = re.compile(r"^```(yaml|console|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# As rich draws it, without its fonts from another host, and with the title of a window in the same font.
_SVG = """<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix, .{unique_id}-title {{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px;
}}
.{unique_id}-matrix {{ line-height: {line_height}px; white-space: pre; }}
.{unique_id}-title {{ font-size: 18px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
  <rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix" xml:space="preserve">
{matrix}
</g>
</g>
</svg>
"""


def steps(recording: Recording) -> Iterator[tuple[str, str]]:
    """Yield the files (name, text) and the commands ("", command) of a page, in their order.

    Commands of `text` blocks, which the tests do not run, are left out unless they are recorded.
    """
    for language, block in _BLOCK.findall((ROOT / recording.page).read_text("utf-8")):
        if language == "yaml" and (name := re.match(r"# (\S+\.yaml)\n", block)):
            yield name[1], block
        elif language != "yaml":
            for command in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
                if language == "console" or command in recording.commands:
                    yield "", command


def play(recording: Recording, url: str, api_url: str, folder: Path) -> str:
    """Run a recording in `folder`, and return what its terminal received."""
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLORTERM")} | {
        "RMQKIT_URL": url,
        "RMQKIT_API_URL": api_url,
        "TERM": "xterm-256color",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    environment |= {f"XDG_{kind}_HOME": str(folder / kind.lower()) for kind in ("STATE", "CONFIG")}
    copytree(ROOT / "topologies", folder / "topologies")
    received, remaining = "", list(recording.commands)
    for name, text in steps(recording):
        if not remaining:
            break
        if name:
            (folder / name).write_text(text, "utf-8")
        elif text == remaining[0]:
            if recording.before and not received:
                _run_unseen(recording.before, environment, folder)
            del remaining[0]
            if recording.screen:
                received = _on_terminal(recording.screen, environment, folder, recording)
            else:
                playing = recording._replace(until="") if remaining else recording
                received += f"\x1b[1;32m$\x1b[0m {text}\r\n" + _on_terminal(text, environment, folder, playing)
        else:
            _run_unseen(text, environment, folder)
    if remaining:
        raise SystemExit(f"{recording.page} does not have the command: {remaining[0]}")
    return received


def _exit_code(recording: Recording, command: str) -> int:
    """Return the exit code that the page shows after a command; 0 if it shows none."""
    output = (ROOT / recording.page).read_text("utf-8").partition(f"$ {command}\n")[2]
    output = re.split(r"^(?:\$ |```)", output, maxsplit=1, flags=re.MULTILINE)[0]
    found = re.search(r"^\[exit (\d+)\]$", output, re.MULTILINE)
    return int(found[1]) if found else 0


def _run_unseen(command: str, environment: dict[str, str], folder: Path) -> None:
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True}
    subprocess.run(["bash", "-c", command], env=environment, cwd=folder, check=False, **streams)  # noqa: S603, S607


def _on_terminal(command: str, environment: dict[str, str], folder: Path, recording: Recording) -> str:
    ours, theirs = pty.openpty()
    lines, columns = (SCREEN_LINES, SCREEN_COLUMNS) if recording.screen else (LINES, COLUMNS)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    streams: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = subprocess.Popen(["bash", "-c", command], env=environment, cwd=folder, **streams)  # noqa: S603, S607
    os.close(theirs)
    received, shown, until = b"", "", recording.until
    goes_on = bool(recording.meanwhile or (recording.keys and not recording.screen))
    while True:
        try:
            received += os.read(ours, 65536)
        except OSError:  # how Linux reports that the process has ended
            break
        text = _screen(received.decode(errors="replace")) if until and not shown else [""]
        if until and not shown and re.search(until, "\n".join(text) if recording.screen else text[-1]):
            if recording.opened and until != recording.opened:
                until = recording.opened
                os.write(ours, b"\r")
                continue
            shown = received.decode(errors="replace")
            os.write(ours, recording.keys.encode())
            if recording.meanwhile:
                _run_unseen(recording.meanwhile, environment, folder)
    process.wait()
    os.close(ours)
    if until and not shown:
        raise SystemExit(f"{command} did not show {until}")
    if process.returncode != (code := _exit_code(recording, command)) and not (until and recording.keys):
        raise SystemExit(f"{command} exited with {process.returncode}, not {code}:\n{received.decode()}")
    return received.decode() if goes_on or not shown else shown


def _screen(received: str) -> list[str]:
    """Return the lines that a terminal shows, without colors."""
    return [line.plain for line in _lines(received)] or [""]


def _lines(received: str) -> list[Text]:
    import pyte  # noqa: PLC0415 - the extra "docs"
    from rich.style import Style  # noqa: PLC0415

    screen = pyte.Screen(COLUMNS, LINES)
    pyte.Stream(screen).feed(received)

    def style(cell: pyte.screens.Char) -> Style:
        color = f"#{cell.fg}" if re.fullmatch("[0-9a-f]{6}", cell.fg) else {"brown": "yellow"}.get(cell.fg, cell.fg)
        return Style(color=color, bold=cell.bold, reverse=cell.reverse)

    lines = []
    for row in range(LINES):
        line = Text()
        for same, cells in groupby((screen.buffer[row][column] for column in range(COLUMNS)), style):
            line.append("".join(cell.data for cell in cells), same)
        line.rstrip()
        lines.append(line)
    while lines and not lines[-1]:
        lines.pop()
    return lines


def draw(name: str, received: str) -> str:
    """Return the SVG of what a terminal received."""
    from rich.console import Console  # noqa: PLC0415
    from rich.terminal_theme import MONOKAI  # noqa: PLC0415

    lines = _lines(received)
    width = max(80, *(len(line) for line in lines))
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in lines:
        console.print(line, no_wrap=True)
    return console.export_svg(title="rmqkit", theme=MONOKAI, code_format=_SVG, unique_id=name)


def main(names: list[str]) -> None:
    """Record all terminals, or those named."""
    from rmqkit.node.node import Node  # noqa: PLC0415

    for name in names or RECORDINGS:
        with tempfile.TemporaryDirectory() as folder:
            node = Node(Path(folder) / "node")
            try:
                status = node.start()
                (work := Path(folder) / "work").mkdir()
                received = play(RECORDINGS[name], status.url, status.management_url, work)
            finally:
                node.stop()
        (PICTURES / f"{name}.svg").write_text(draw(name, received), "utf-8")
        sys.stdout.write(f"docs/pictures/{name}.svg\n")


if __name__ == "__main__":
    main(sys.argv[1:])
