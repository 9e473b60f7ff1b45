"""`rmqkit publish`: confirmed messages from any input to an exchange."""

import os
from typing import Annotated

import typer

from rmqkit.cli import last_applied, output, publish_run, report_text
from rmqkit.cli.contract_options import SchemaOptions
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option
from rmqkit.cli.publish_input import InputOptions, PropertyOptions, PublishInput, TargetOptions, parse_delay
from rmqkit.cli.signals import run_and_exit
from rmqkit.connection import Connection
from rmqkit.errors import AccessRefused, InputError, NotFound, Refused, ResourceLocked
from rmqkit.message import Properties
from rmqkit.model import Contract, Target
from rmqkit.options import PublishOptions
from rmqkit.payload.formats import Format
from rmqkit.payload.sources import MessageDefaults
from rmqkit.settings import Settings
from rmqkit.stop import Stop

WORK = Target("", "worker_queue")  # the `publish:` section of the packaged `work` topology


@grouped
def publish(
    inputs: InputOptions,
    schema: SchemaOptions,
    target: TargetOptions,
    properties: PropertyOptions,
    broker: ConnectionOptions,
    *,
    rate: Annotated[float | None, option("--rate N", "Publish at most N messages a second.", min=0.001)] = None,
    delay: Annotated[
        str | None, option("--delay TIME", "Deliver the messages later: after 90s, 5m, 2h or 30d, up to 180d.")
    ] = None,
    at: Annotated[
        str | None,
        option("--at TIME", "Deliver the messages at a time, such as 2026-12-24T18:00Z, up to 180 days ahead."),
    ] = None,
    no_confirms: Annotated[
        bool, option("--no-confirms", "Do not wait for confirms: the outcome is unknown then.")
    ] = False,
    json: Json = False,
) -> None:
    """Publish messages, each persistent and confirmed, and report the outcome of each.

    Without an input, each line piped in is a message. Without QUEUE, -q, -e or -r, messages go to the target of the
    topology applied last. The exit code is 0 only if every message is known to have arrived.
    """
    named, queue = target.target(), None
    if named is None:
        queue, inputs = inputs.split_queue()
        named = None if queue is None else Target("", queue)
    if inputs.resume is not None and no_confirms:
        raise typer.BadParameter("--resume cannot be combined with --no-confirms: it saves what was confirmed")
    later = parse_delay(delay, at)
    settings = broker.settings()
    options = PublishOptions(confirms=not no_confirms, rate=rate)
    mandatory = True if target.mandatory else False if target.allow_unroutable else None

    def body(stop: Stop) -> int:
        messages = _open_input(inputs, schema, target, named, properties, settings=settings, stop=stop)
        with connect(settings) as connection:
            if queue is not None:
                _check_queue(connection, queue)
            elif inputs.payloads and named != Target("", inputs.payloads[0]):
                _refuse_queue_name(connection, inputs.payloads[0])
            return publish_run.run(connection, messages, options, stop, mandatory=mandatory, delay=later, json=json)

    run_and_exit(body)


def _open_input(
    inputs: InputOptions,
    schema: SchemaOptions,
    target: TargetOptions,
    named: Target | None,
    properties: PropertyOptions,
    *,
    settings: Settings,
    stop: Stop,
) -> PublishInput:
    """Return the messages, checked as far as possible, and print their target and where they resume."""
    inputs.check()
    given = properties.properties(headers=not inputs.templated)
    if inputs.envelopes is not None and given != Properties():
        raise typer.BadParameter("envelopes carry their own properties: omit headers and properties")
    to_origin = inputs.envelopes is not None and named is None
    applied = last_applied.recall(settings)
    where = named or (((applied and applied.target) or WORK) if to_origin else _default_target(applied))
    key_template = target.routing_key if inputs.templated else None
    routing_key = where.routing_key if key_template is None else ""
    contracts = schema.contracts(applied)
    if not to_origin:
        contracts.check(where.exchange, routing_key)  # a bad schema is reported before any input is read
    format = _format(inputs.format, contracts.of(where.exchange, routing_key))  # noqa: A001 - the flag's word
    messages = PublishInput(
        inputs,
        MessageDefaults(where.exchange, routing_key, given, format, contracts.check),
        stop,
        override_target=named is not None,
        routing_key=key_template,
        headers=properties.header,
        job=f"{'to where each came from' if to_origin else f'to {where}'} at {settings.addresses[0].key}",
    )
    if messages.resume and (resuming := report_text.resuming(messages.resume)):
        output.note(resuming)
    return messages


def _check_queue(connection: Connection, queue: str) -> None:
    """Raise NotFound if the queue before the payloads does not exist: it may be meant as a payload."""
    try:
        connection.queue_state(queue)
    except NotFound as exc:
        exc.advice = "Without -q, -e or -r, the first argument is the queue: name one of them before a payload."
        raise
    except (AccessRefused, ResourceLocked):
        return


def _refuse_queue_name(connection: Connection, payload: str) -> None:
    """Raise a usage error if the first payload or file has the name of another queue than the target."""
    try:
        connection.queue_state(payload)
    except (InputError, Refused):
        return
    raise typer.BadParameter(f"{payload!r} is a queue. Use --queue {payload} to publish to it, or pipe the name in.")


def _format(asked: Format | None, contract: Contract | None) -> Format | None:
    """Return the format of all bodies. Raises a usage error if it differs from the contract's."""
    if contract is None or asked is Format(contract.format):
        return asked
    if asked is not None:
        raise typer.BadParameter(
            f"--format {asked.value} contradicts the contract, which is {contract.format}. Add --no-schema."
        )
    return Format(contract.format)


def _default_target(applied: last_applied.LastApplied | None) -> Target:
    """Return the target of the topology applied last, and print it."""
    if applied is None or not applied.files:
        if not os.isatty(2):
            raise typer.BadParameter("no target given, and no topology applied yet. Use --queue or --exchange.")
        output.note(f"No target given and no topology applied yet: publishing to {WORK}.")
        return WORK
    files = output.safe(", ".join(applied.files))
    if applied.target is None:
        raise typer.BadParameter(f"{files}, applied last, has no `publish:` section. Use --queue or --exchange.")
    output.note(f"No target given: publishing to {output.safe(str(applied.target))}, the target of {files}.")
    return applied.target
