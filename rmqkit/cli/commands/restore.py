"""`rmqkit restore`."""

from __future__ import annotations

from typing import Annotated

import typer

from rmqkit.administration import overflow_warning
from rmqkit.cli import output, protection, publish_run, report_text
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option, parse_target
from rmqkit.cli.publish_input import InputOptions, PublishInput
from rmqkit.cli.signals import run_and_exit
from rmqkit.errors import PayloadError
from rmqkit.options import PublishOptions
from rmqkit.payload.sources import MessageDefaults
from rmqkit.stop import Stop


@grouped
def restore(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file written by `rmqkit snapshot`.")],
    broker: ConnectionOptions,
    *,
    queue: Annotated[str | None, option("-q --queue NAME", "Publish to this queue only.")] = None,
    to_origin: Annotated[
        bool,
        option(
            "--to-origin",
            "Publish each message to its original exchange, with its key, and so to every matching queue.",
        ),
    ] = False,
    resume: Annotated[str | None, option("--resume STATE", "Save progress in STATE and resume from it.")] = None,
    rate: Annotated[float | None, option("--rate N", "Publish at most N messages a second.", min=0.001)] = None,
    yes: protection.Yes = None,
    json: Json = False,
) -> None:
    """Publish the messages of a snapshot again, byte for byte and in order; each is confirmed.

    With --queue, which must exist, the name of the queue becomes the routing key. The dead-letter history is kept in
    another header; delivery counts are not restored. The exit code is 0 only if every message is known to have arrived.
    """
    if (queue is None) is not to_origin:
        raise typer.BadParameter("name the target: either --queue NAME or --to-origin")
    target, settings = parse_target(queue=queue, exchange=None, routing_key=None), broker.settings()
    protection.confirm(settings, yes, f"restore {file} {'to its origin' if target is None else f'to {target}'}")

    def body(stop: Stop) -> int:
        messages = PublishInput(
            InputOptions(envelopes=file, resume=resume),
            MessageDefaults(routing_key=queue or ""),
            stop,
            override_target=target is not None,
            check_first=True,
            job=f"{'to where each came from' if target is None else f'to {target}'} at {settings.addresses[0].key}",
        )
        if messages.total == 0 and not (messages.resume and messages.resume.place.n):
            raise PayloadError(f"{file}: there is no message in this file; nothing was published")
        if messages.resume and (resuming := report_text.resuming(messages.resume)):
            output.note(resuming)
        with connect(settings) as connection:
            if queue and messages.total and (warning := overflow_warning(connection, queue, messages.total)):
                output.warn(warning)
            return publish_run.run(connection, messages, PublishOptions(rate=rate), stop, mandatory=True, json=json)

    run_and_exit(body)
