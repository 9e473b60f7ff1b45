"""`rmqkit status`."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from rmqkit import exit_codes
from rmqkit.cli import error_output, output
from rmqkit.cli.commands import plan
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped
from rmqkit.cli.output import Style
from rmqkit.errors import (
    AccessRefused,
    AuthenticationFailed,
    BrokerError,
    ConnectionLost,
    InputError,
    NotFound,
    ResourceLocked,
    Unreachable,
)
from rmqkit.plan import Outcome
from rmqkit.report import QueueStatus

if TYPE_CHECKING:
    from rmqkit.connection import Connection
    from rmqkit.model import Topology
    from rmqkit.settings import Settings

MISSING = "missing"  # the state of a queue that a file declares and the broker does not have
_HEADER = ("queue", "type", "state", "ready", "unacked", "consumers", "in/s", "out/s", "")
_NUMBERS = range(3, 8)
_NOTABLE = 1.1  # what comes in, by what goes out, in a backlog that grows
_DRIFT = {
    Outcome.CREATE: "to create",
    Outcome.CHANGE: "to change",
    Outcome.CONFLICT: "in conflict",
    Outcome.EXTRA: "extra",
}
_STALE = "These numbers of RabbitMQ's HTTP API are up to five seconds old"
_BLIND = "Nor can types, unacknowledged messages and rates be seen"
_FILE_HELPS = "Without it name a topology file: ready and consumers of its queues are seen over AMQP."


@dataclass(frozen=True, slots=True)
class Status:
    """How the queues do, and how many entities are not as the files say; None without a file.

    `unseen` says in sentences what could not be looked at.
    """

    queues: tuple[QueueStatus, ...]
    drift: Counter[Outcome] | None = None
    unseen: tuple[str, ...] = ()


@grouped
def status(
    broker: ConnectionOptions,
    *,
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE]", help="Topology files: their queues alone, and the drift.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again and again, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option("--interval", metavar="SECONDS", help="Between two looks.", min=0.1)] = 2.0,
    json: Json = False,
) -> None:
    """Show how the queues do: messages ready and unacknowledged, consumers, messages a second in and out.

    With topology files only their queues are shown, with what else is not as the files say. RabbitMQ's HTTP API brings
    its numbers up to date every five seconds; ready and consumers of the files' queues are those of the moment. Without
    the HTTP API they are all that can be seen.
    """
    topology, settings = plan.load(files) if files else None, broker.settings()
    if watch and not json and not output.is_terminal(sys.stdout):
        raise InputError("--watch draws on a terminal", advice="Add --json: it prints one object a line.")
    with connect(settings) as connection:
        if not watch:
            now = look(connection, settings, topology)
            if json:
                output.out_json(_as_json(now))
            else:
                output.out(_table(now))
                output.note("\n".join(map(output.safe, _remarks(now, files or ()))))
            return
        looks = _looks(connection, settings, topology, interval)
        signal.signal(signal.SIGTERM, _end)
        if json:
            _stream(looks)
        else:
            _draw(looks, files or ())


def look(connection: Connection, settings: Settings, topology: Topology | None) -> Status:
    """Look at the queues of a topology, or at all of the virtual host.

    Raises Unreachable, AuthenticationFailed, AccessRefused if the HTTP API is needed and does not answer;
    ConnectionLost.
    """
    known: tuple[QueueStatus, ...] = ()
    blind: tuple[str, ...] = ()
    try:
        known = connection.queue_statuses()
    except (Unreachable, AuthenticationFailed, AccessRefused) as error:
        if topology is None:
            error.advice = f"{error.advice}\n{_FILE_HELPS}".strip()
        if topology is None or settings.api_url:
            raise
        blind = (_BLIND,)
    if topology is None:
        return Status(known, unseen=(_STALE,))
    by_name = {each.name: each for each in known}
    queues = tuple(_exact(connection, queue.name, by_name.get(queue.name)) for queue in topology.queues)
    planned = connection.plan(topology)
    return Status(queues, Counter(step.outcome for step in planned.steps), (*planned.unseen, *blind))


def _exact(connection: Connection, name: str, known: QueueStatus | None) -> QueueStatus:
    """Ask for a queue's counts of this moment; the rest is what is known of it."""
    try:
        state = connection.queue_state(name)
    except NotFound:  # or its node is down, which the HTTP API knows
        return known or QueueStatus(name, 0, 0, state=MISSING)
    except (ResourceLocked, AccessRefused):
        return known or QueueStatus(name, 0, 0, state="locked")
    known = known or QueueStatus(name, 0, 0)
    return replace(known, ready=state.ready, consumers=state.consumers, state=known.state or "running")  # it answers


def _looks(
    connection: Connection, settings: Settings, topology: Topology | None, interval: float
) -> Iterator[Status | BrokerError]:
    """Look again and again; a broker that goes away for a while is no end."""
    yield look(connection, settings, topology)
    while True:
        time.sleep(interval)
        try:
            yield look(connection, settings, topology)
        except (Unreachable, ConnectionLost) as error:
            yield error


def _end(number: int, _frame: object) -> NoReturn:
    raise SystemExit(exit_codes.SIGNALLED + number)  # and not without giving the terminal its cursor back


def _stream(looks: Iterator[Status | BrokerError]) -> None:
    """Print one object a line, for as long as somebody reads."""
    for now in looks:
        found = error_output.as_json(now) if isinstance(now, BrokerError) else _as_json(now)
        if not output.out(output.to_json(found, indent=None)):
            return


def _draw(looks: Iterator[Status | BrokerError], files: Sequence[str]) -> None:
    from rich.console import Console  # noqa: PLC0415 - start-up time: rich is for terminals
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    with Live(console=Console(), auto_refresh=False) as screen:
        for now in looks:
            if isinstance(now, BrokerError):
                text = error_output.as_text(now)
            else:
                text = "\n".join([_table(now), "", *map(output.safe, _remarks(now, files))])
            screen.update(Text.from_ansi(text, no_wrap=True, overflow="ellipsis"), refresh=True)


def _table(now: Status) -> str:
    rows = []
    styles: list[Style | None] = []
    for queue in now.queues:
        remark, style = _remark(queue)
        counts = (queue.ready, queue.unacknowledged, queue.consumers)
        rates = (queue.published_per_s, queue.delivered_per_s)
        numbers = [""] * 5 if queue.state == MISSING else [*map(_count, counts), *map(_rate, rates)]
        rows.append((queue.name, queue.type or "-", queue.state or "-", *numbers, remark))
        styles.append(style)
    return output.table(rows, header=_HEADER, styles=styles, numbers=_NUMBERS)


def _remark(queue: QueueStatus) -> tuple[str, Style | None]:
    """Say what a person should look at, and how loud."""
    if queue.state in (MISSING, "down", "crashed", "stopped", "minority"):
        return "", "red"
    published, delivered = queue.published_per_s or 0, queue.delivered_per_s or 0
    growing = queue.ready and published > _NOTABLE * delivered
    if queue.ready and not queue.consumers:
        return "no consumers", "red" if growing else "yellow"
    return ("growing", "red") if growing else ("", None)


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _rate(number: float | None) -> str:
    return "-" if number is None else f"{number:,.1f}" if 0 < number < 10 else f"{number:,.0f}"  # noqa: PLR2004


def _remarks(now: Status, files: Sequence[str]) -> Iterator[str]:
    """Yield a line for each kind of drift, and what was not seen."""
    yield from (f"{sentence}." for sentence in now.unseen)
    if now.drift is None:
        return
    found = [(now.drift[outcome], words) for outcome, words in _DRIFT.items() if now.drift[outcome]]
    for count, words in found:
        yield f"{count:,} {words}: see `rmqkit plan {' '.join(files)}`."
    if not found:
        yield "All that is seen is as the files say." if now.unseen else "All is as the files say."


def _as_json(now: Status) -> dict[str, Any]:
    drift = None if now.drift is None else {outcome.value: now.drift[outcome] for outcome in _DRIFT}
    return {"queues": [asdict(each) for each in now.queues], "drift": drift, "unseen": list(now.unseen)}
