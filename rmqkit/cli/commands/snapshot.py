"""`rmqkit snapshot`."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmqkit import exit_codes
from rmqkit.cli import output
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option_field
from rmqkit.cli.signals import run_and_exit
from rmqkit.errors import InputError
from rmqkit.message import Verdict
from rmqkit.messaging.queue_browser import MOST
from rmqkit.payload.envelopes import EnvelopeWriter
from rmqkit.plural import plural
from rmqkit.stop import Stop

if TYPE_CHECKING:
    from rmqkit.connection import Connection
    from rmqkit.payload.snapshot_file import SnapshotWriter

_HOLD_S = 300.0  # far below RabbitMQ's consumer timeout of 30 minutes
_STREAM_IDLE_S, _STREAM_CHUNK_S = 1.0, 5.0  # by then, the messages at the start are in chunks that are complete
_OFFSET = "x-stream-offset"


@dataclass(frozen=True, slots=True)
class SnapshotOptions:
    """How much of the queue to save."""

    limit: int | None = option_field(
        "-n --limit N",
        "Save the first N messages. [default: all, up to 100,000 except for streams]",
        min=1,
    )
    force: bool = option_field(
        "--force",
        "Save even if this may delay messages, or drop or dead-letter them at the delivery limit.",
        default=False,
    )


@grouped
def snapshot(
    queue: Annotated[str, typer.Argument(help="The queue.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write; .gz and .zst are compressed.")],
    broker: ConnectionOptions,
    *,
    options: SnapshotOptions,
    json: Json = False,
) -> None:
    """Save the messages of a queue to a file without removing or reordering them.

    All messages are held until the last one is written, so that they can be requeued in their order; until then,
    consumers do not receive them. The side effects are those of `rmqkit peek`. Messages of a stream are not held, and
    an interrupted snapshot of a stream resumes from FILE.part. FILE appears once it is complete; `rmqkit restore`
    publishes its messages.
    """
    from rmqkit.payload.snapshot_file import SnapshotWriter  # noqa: PLC0415 - lazy: not needed for --help

    def body(stop: Stop) -> int:
        started_s = time.monotonic()
        with connect(broker.settings()) as connection:
            settings = connection.queue_settings(queue)
            is_stream = settings is not None and settings["x-queue-type"] == "stream"
            writer, complete = SnapshotWriter(file, resumable=is_stream), False
            try:
                with output.progress("saving", None if is_stream else connection.queue_state(queue).ready) as show:
                    save = _save_stream if is_stream else _save_queue
                    side_effects = save(connection, queue, writer, options=options, stop=stop, show=show)
                complete = not stop.requested
                if complete:
                    writer.finish()
            finally:
                if not complete:
                    writer.abandon(keep=is_stream)
        if not complete:
            kept = f"; the next run resumes from {file}.part" if is_stream else ""
            output.note(output.safe(f"Stopped: {file} was not written{kept}."))
            return exit_codes.DONE
        _report(queue, file, writer.count, side_effects, time.monotonic() - started_s, json=json)
        return exit_codes.DONE

    run_and_exit(body)


def _save_queue(
    connection: Connection,
    queue: str,
    writer: SnapshotWriter,
    *,
    options: SnapshotOptions,
    stop: Stop,
    show: output.Update,
) -> str:
    """Save the messages of a queue that is not a stream, and return the side effects on them."""
    limit, envelopes = options.limit or MOST, EnvelopeWriter()
    with connection.browse(queue, limit=limit, hold_s=_HOLD_S, force=options.force, stop=stop) as browser:
        browser.check_length(options.limit)
        for delivery in browser:
            writer.add(envelopes.write(delivery))
            show(writer.count, "")
        if browser.cut_short:
            raise InputError(
                f"{writer.count:,} of {browser.ready:,} messages were read: {browser.cut_short}; nothing was saved",
                advice="Save only the first messages with --limit.",
            )
        if browser.missing and not stop.requested:
            output.warn(f"{plural(browser.missing, 'message')} left queue {queue!r} during the snapshot")
    return browser.side_effects.text


def _save_stream(
    connection: Connection,
    queue: str,
    writer: SnapshotWriter,
    *,
    options: SnapshotOptions,
    stop: Stop,
    show: output.Update,
) -> str:
    """Save the messages of a stream, up to those published a few seconds after the start."""
    envelopes, started_s = EnvelopeWriter(), time.monotonic()
    count = None if options.limit is None else options.limit - writer.count
    begin = _offset_of(json_module.loads(writer.last)["headers"]) + 1 if writer.last else "first"
    end: int | None = None
    with connection.consume(queue, count=count, idle_timeout_s=_STREAM_IDLE_S, offset=begin, stop=stop) as consumer:
        for batch in consumer.batches() if count is None or count > 0 else ():
            for delivery in batch:
                writer.add(envelopes.write(delivery))
            consumer.settle(batch, Verdict.ACK)  # which only asks for more
            show(writer.count, "")
            if end is None and time.monotonic() - started_s > _STREAM_CHUNK_S:
                end = connection.peek(queue, limit=1, offset="last", stop=stop).messages[0].position
            if end is not None and _offset_of(batch[-1].properties.headers or {}) >= end:
                break
    return "read by offset, which changes nothing"


def _offset_of(headers: Mapping[str, Any]) -> int:
    return int(headers[_OFFSET])


def _report(queue: str, file: Path, saved: int, side_effects: str, seconds: float, *, json: bool) -> None:
    size = file.stat().st_size
    if json:
        numbers = {"saved": saved, "bytes": size, "seconds": round(seconds, 3)}
        output.out_json({"queue": queue, "file": str(file), **numbers, "side_effects": side_effects})
        return
    saving = f"Saved {plural(saved, 'message')} of {queue!r} to {file} ({size:,} bytes, {seconds:.2f} s)"
    output.note(output.safe(f"{saving}; {side_effects}."))
