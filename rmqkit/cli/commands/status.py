"""`rmqkit status`."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import partial
from os.path import exists
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from rmqkit import exit_codes
from rmqkit.cli import error_output, output, topology_source
from rmqkit.cli.broker_tables import HEALTHY, MISSING, QUEUES
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option
from rmqkit.errors import (
    HTTP_API_UNAVAILABLE,
    AccessRefused,
    BrokerError,
    ConnectionLost,
    InputError,
    NotFound,
    ResourceLocked,
    Unreachable,
)
from rmqkit.model import Topology
from rmqkit.payload import properties
from rmqkit.plan import Outcome
from rmqkit.report import QueueStatus
from rmqkit.settings import Settings
from rmqkit.topology.delays import NAMES as DELAYS

if TYPE_CHECKING:
    from rmqkit.connection import Connection

_SUFFIXES = (".yaml", ".yml", ".json")
_SORT = "Order of the queues. [default: as in the files, else the busiest first]"
_WILDCARD = re.compile(r"[*?\[]")
_DRIFT = {
    Outcome.CREATE: "to create",
    Outcome.CHANGE: "to change",
    Outcome.CONFLICT: "in conflict",
    Outcome.EXTRA: "extra",
}


@dataclass(frozen=True, slots=True)
class Status:
    """Queues, and how many entities differ from the files by outcome; None without a file.

    `unseen` lists, in sentences, facts that could not be inspected; `alarms` block publishers.
    """

    queues: tuple[QueueStatus, ...]
    drift: Counter[Outcome] | None = None
    unseen: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()


class SortOrder(StrEnum):
    """How to sort the queues."""

    BUSY = "busy"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Selection:
    """The queues to show: those that match a pattern, or all; by default as in the files, or the busy ones first."""

    patterns: tuple[str, ...] = ()
    order: SortOrder | None = None
    all_vhosts: bool = False

    def of(self, queues: Iterable[QueueStatus], *, by_default: SortOrder | None) -> tuple[QueueStatus, ...]:
        """Return the selected queues in their order; without patterns, one stands for all with delayed messages."""
        if not self.patterns:
            queues = _folded(queues)
        found = [
            each for each in queues if not self.patterns or any(fnmatchcase(each.name, one) for one in self.patterns)
        ]
        exact = {each for each in self.patterns if not _WILDCARD.search(each)} - {each.name for each in found}
        found += [QueueStatus(each, 0, 0, state=MISSING) for each in sorted(exact)]
        keys = {SortOrder.BUSY: _busy, SortOrder.NAME: lambda queue: queue.name}
        order = self.order or by_default
        return tuple(sorted(found, key=keys[order]) if order else found)


def _folded(queues: Iterable[QueueStatus]) -> Iterator[QueueStatus]:
    """Yield the queues, and at the end one for each virtual host in whose place there are those of delayed messages."""
    folded: dict[str | None, QueueStatus] = {}
    for queue in queues:
        if not queue.name.startswith(DELAYS):
            yield queue
            continue
        total = folded.get(queue.vhost) or replace(queue, name=f"{DELAYS}*", ready=0, unacknowledged=0, waiting=0)
        waiting = sum(each or 0 for each in (total.waiting, queue.ready, queue.unacknowledged, queue.waiting))
        state = queue.state if total.state in HEALTHY else total.state
        folded[queue.vhost] = replace(total, waiting=waiting, state=state, published_per_s=None, delivered_per_s=None)
    yield from folded.values()


def _busy(queue: QueueStatus) -> tuple[float, ...]:
    """Return a sort key: the queues with the most messages first, then those with the highest rates."""
    messages = queue.ready + (queue.unacknowledged or 0) + (queue.waiting or 0)
    return (-messages, -(queue.published_per_s or 0) - (queue.delivered_per_s or 0))


@grouped
def status(
    broker: ConnectionOptions,
    *,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE|PATTERN]",
            help="Topology files: show only their queues, and the drift from them. Or names of queues, with * and ?.",
        ),
    ] = None,
    sort: Annotated[SortOrder | None, option("--sort", _SORT)] = None,
    all_vhosts: Annotated[bool, option("--all-vhosts", "Show the queues of all virtual hosts.")] = False,
    watch: Annotated[bool, option("-w --watch", "Refresh until Ctrl-C.")] = False,
    interval: Annotated[float, option("--interval SECONDS", "Time between two refreshes.", min=0.1)] = 2.0,
    json: Json = False,
) -> None:
    """Show the depth, consumers and message rates of queues.

    With topology files only their queues are shown, and how many entities differ from the files; the exit code is 5 if
    one of these queues, or a queue that is named, is missing. Delayed messages, and dead letters that their target has
    not confirmed yet, are waiting. RabbitMQ's HTTP API updates its numbers every five seconds; the ready messages and
    consumers of the files' queues are current. Without the HTTP API only those two can be seen.
    """
    files = [each for each in names or () if each == "-" or each.endswith(_SUFFIXES) or exists(each)]  # noqa: PTH110
    selection = Selection(tuple(each for each in names or () if each not in files), sort, all_vhosts)
    for pattern in selection.patterns:
        properties.check_names({"queue": pattern})
    if files and all_vhosts:
        raise InputError("--all-vhosts cannot be combined with topology files, which declare one virtual host")
    topology = topology_source.load_topology(files) if files else None
    settings = topology_source.in_vhost_of(topology, broker.settings())
    if watch and not json and not output.is_terminal(sys.stdout):
        raise InputError("--watch needs a terminal", advice="Add --json to print one object a line.")
    with connect(settings) as connection:
        if watch:
            signal.signal(signal.SIGTERM, _exit)
            statuses = _refresh(partial(inspect, connection, settings, topology, selection), interval)
            if json:
                _stream(statuses)
            else:
                _draw(statuses, files)
            return
        current = inspect(connection, settings, topology, selection)
        if json:
            output.out_json(_as_json(current))
        else:
            output.out(_table(current))
            output.note("\n".join(map(output.safe, _remarks(current, files))))
        if any(each.state == MISSING for each in current.queues):
            raise typer.Exit(exit_codes.REFUSED)


def inspect(
    connection: Connection,
    settings: Settings,
    topology: Topology | None,
    selection: Selection = Selection(),
) -> Status:
    """Return the status of the selected queues of a topology, or of the virtual host.

    Raises Unreachable, AuthenticationFailed, AccessRefused if the HTTP API is needed and does not answer;
    ConnectionLost.
    """
    known: tuple[QueueStatus, ...] = ()
    unseen: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    try:
        api = connection.http_api()
        known, alarms = api.queues(all_vhosts=selection.all_vhosts), api.alarms()
    except HTTP_API_UNAVAILABLE as error:
        if topology is None:
            advice = "Or pass a topology file: AMQP alone can show its queues' ready messages and consumers."
            error.advice = f"{error.advice}\n{advice}".strip()
        if topology is None or settings.api_url:
            raise
        unseen = ("Nor can types, unacknowledged messages and rates be seen",)
    if topology is None:
        return Status(
            selection.of(known, by_default=SortOrder.BUSY), unseen=("Statistics may be up to 5 s old",), alarms=alarms
        )
    by_name = {each.name: each for each in known}
    waiting = [each for each in known if topology.delay and each.name.startswith(DELAYS)]
    queues = selection.of(
        [*(_current(connection, each.name, by_name.get(each.name)) for each in topology.queues), *waiting],
        by_default=None,
    )
    planned = connection.plan(topology)
    return Status(queues, Counter(step.outcome for step in planned.steps), (*planned.unseen, *unseen), alarms)


def _current(connection: Connection, name: str, known: QueueStatus | None) -> QueueStatus:
    """Return the status of a queue with its current counts; the rest is from the HTTP API."""
    try:
        state = connection.queue_state(name)
    except NotFound:  # or its node is down, which the HTTP API knows
        return known or QueueStatus(name, 0, 0, state=MISSING)
    except (ResourceLocked, AccessRefused):
        return known or QueueStatus(name, 0, 0, state="locked")
    known = known or QueueStatus(name, 0, 0)
    return replace(known, ready=state.ready, consumers=state.consumers, state=known.state or "running")  # it answers


def _refresh(look: Callable[[], Status], interval: float) -> Iterator[Status | BrokerError]:
    """Yield the status repeatedly; a broker that is unreachable for a while does not end it."""
    yield look()
    while True:
        time.sleep(interval)
        try:
            yield look()
        except (Unreachable, ConnectionLost) as error:
            yield error


def _exit(number: int, _frame: object) -> NoReturn:
    raise SystemExit(exit_codes.SIGNALLED + number)  # an exception, so that the terminal gets its cursor back


def _stream(statuses: Iterator[Status | BrokerError]) -> None:
    """Print one object a line, until standard output is closed."""
    for current in statuses:
        found = error_output.as_json(current) if isinstance(current, BrokerError) else _as_json(current)
        if not output.out(output.to_json(found, indent=None)):
            return


def _draw(statuses: Iterator[Status | BrokerError], files: Sequence[str]) -> None:
    from rich.console import Console  # noqa: PLC0415 - start-up time: rich is for terminals
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    with Live(console=Console(), auto_refresh=False) as screen:
        for current in statuses:
            if isinstance(current, BrokerError):
                text = error_output.as_text(current)
            else:
                text = "\n".join([*map(output.safe, _remarks(current, files)), "", _table(current)])
            screen.update(Text.from_ansi(text, no_wrap=True, overflow="ellipsis"), refresh=True)


def _table(status: Status) -> str:
    vhosts = len({queue.vhost for queue in status.queues} - {None}) > 1
    return QUEUES.text(status.queues, vhosts=vhosts)


def _remarks(status: Status, files: Sequence[str]) -> Iterator[str]:
    """Yield the totals of several queues, the unseen facts, and a line for each kind of drift."""
    if status.alarms:
        yield f"ALARM: publishers are blocked: {', '.join(status.alarms)}."
    if len(status.queues) > 1:
        ready = sum(each.ready for each in status.queues)
        unacknowledged = sum(each.unacknowledged or 0 for each in status.queues)
        waiting = sum(each.waiting or 0 for each in status.queues)
        total = f"{len(status.queues):,} queues: {ready:,} ready, {unacknowledged:,} unacknowledged"
        yield f"{total}, {waiting:,} waiting." if waiting else f"{total}."
    yield from (f"{sentence}." for sentence in status.unseen)
    if status.drift is None:
        return
    found = [(status.drift[outcome], words) for outcome, words in _DRIFT.items() if status.drift[outcome]]
    for count, words in found:
        yield f"{count:,} {words}: see `rmqkit plan {' '.join(files)}`."
    if not found:
        yield "No drift from the files, as far as can be seen." if status.unseen else "No drift from the files."


def _as_json(status: Status) -> dict[str, Any]:
    drift = None if status.drift is None else {outcome.value: status.drift[outcome] for outcome in _DRIFT}
    shown = {"queues": [asdict(each) for each in status.queues], "drift": drift}
    return shown | {"unseen": list(status.unseen), "alarms": list(status.alarms)}
