"""`rmqkit publish`: messages from anywhere to an exchange, confirmed."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import error_output, last_applied, output, report_text
from rmqkit.cli.contract_options import SchemaOptions
from rmqkit.cli.frame import Signals, StoppedAtOnce
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option
from rmqkit.cli.publish_input import PublishInput
from rmqkit.cli.publish_options import InputOptions, PropertyOptions, TargetOptions
from rmqkit.connection import Connection
from rmqkit.errors import RmqkitError
from rmqkit.message import Properties
from rmqkit.model import Contract, Target
from rmqkit.options import PublishOptions
from rmqkit.payload.formats import Format
from rmqkit.payload.sources import MessageDefaults
from rmqkit.report import Fate, PublishReport, as_json
from rmqkit.settings import Settings
from rmqkit.stop import Stop, StopRequested

if TYPE_CHECKING:
    from rmqkit.payload.resume import Resume

WORK = Target("", "worker_queue")  # the `publish:` section of the packaged `work` topology


@grouped
def publish(
    inputs: InputOptions,
    schema: SchemaOptions,
    target: TargetOptions,
    properties: PropertyOptions,
    broker: ConnectionOptions,
    *,
    rate: Annotated[float | None, option(metavar="N", min=0.001, help="At most N messages a second.")] = None,
    no_confirms: Annotated[
        bool, typer.Option("--no-confirms", help="Do not wait for the broker's word: nothing is known then.")
    ] = False,
    json: Json = False,
) -> None:
    """Publish messages, each persistent and confirmed, and say what became of every one.

    With nothing named, each line that is piped in is a message. Without a target, messages go where the topology
    applied last says. The exit code is 0 only if every message is known to be where it was sent.
    """
    if inputs.resume is not None and no_confirms:
        raise typer.BadParameter("--resume goes on from what was confirmed: leave --no-confirms out")
    settings = broker.settings()
    with Signals() as signals:
        try:
            intake = _intake(inputs, schema, target, properties, settings=settings, stop=signals.stop)
            with connect(settings) as connection:
                options = PublishOptions(confirms=not no_confirms, rate=rate)
                report, error, at_once = _publish(connection, intake, options, signals.stop)
                unsaved = _finish(intake)
                error = error or report_text.trouble(report, mandatory=target.mandatory) or intake.failure or unsaved
                code = report_text.exit_code(report, error, signals.received)
                _tell(report, error, intake.resume, as_json_object=json)
                if at_once:
                    output.flush()
                    os._exit(code)  # closing would wait for the broker
        except (StopRequested, StoppedAtOnce):  # before anything was sent
            code = exit_codes.SIGNALLED + signals.received
    raise typer.Exit(code)


def _intake(
    inputs: InputOptions,
    schema: SchemaOptions,
    target: TargetOptions,
    properties: PropertyOptions,
    *,
    settings: Settings,
    stop: Stop,
) -> PublishInput:
    """Return the messages, checked as far as they are there, and say where they go and what they go on from."""
    what, named = inputs.inputs(), target.target()
    given = (replace(properties, header=[]) if what.templated else properties).properties()
    if what.envelopes is not None and given != Properties():
        raise typer.BadParameter("envelopes carry their own properties: leave headers and properties out")
    recorded = what.envelopes is not None and named is None
    applied = last_applied.recall(settings)
    where = named or (((applied and applied.target) or WORK) if recorded else _default_target(applied))
    key = target.routing_key if what.templated else None
    routing_key = where.routing_key if key is None else ""
    contracts = schema.contracts(applied)
    if not recorded:
        contracts.check(where.exchange, routing_key)  # a bad schema is told before there is any input
    format = _format(inputs.format, contracts.of(where.exchange, routing_key))  # noqa: A001 - the flag's word
    outline = MessageDefaults(where.exchange, routing_key, given, format, contracts.check)
    goes = "to where each came from" if recorded else f"to {where}"
    intake = PublishInput(
        what,
        outline,
        stop,
        override_target=named is not None,
        routing_key=key,
        headers=properties.header,
        job=f"{goes} at {settings.addresses[0].key}",
    )
    if intake.resume and (going_on := report_text.going_on(intake.resume)):
        output.note(going_on)
    return intake


def _format(asked: Format | None, contract: Contract | None) -> Format | None:
    """Return the format of all bodies; raise a usage error if it is not that of the contract."""
    if contract is None or asked is Format(contract.format):
        return asked
    if asked is not None:
        raise typer.BadParameter(f"--format {asked.value}: the contract says {contract.format}; add --no-schema")
    return Format(contract.format)


def _default_target(applied: last_applied.LastApplied | None) -> Target:
    """Return the target of the topology applied last, and say so."""
    if applied is None:
        output.note(f"Publishing to {WORK}, for no target is named and nothing was applied to this broker yet.")
        return WORK
    files = output.safe(", ".join(applied.files))
    if applied.target is None:
        raise typer.BadParameter(f"{files}, applied last, has no `publish:` section: name a --queue or an --exchange")
    output.note(f"Publishing to {output.safe(str(applied.target))}, as {files} says, applied last.")
    return applied.target


def _publish(
    connection: Connection, intake: PublishInput, options: PublishOptions, stop: Stop
) -> tuple[PublishReport, RmqkitError | None, bool]:
    """Publish; return the report, what ended it before its time, and whether a second signal did."""
    report = PublishReport(confirms=options.confirms)
    was_blocked = ""
    with output.progress("publishing", intake.total) as show:

        def take(progress: PublishReport) -> None:
            nonlocal report, was_blocked
            report, blocked = progress, connection.blocked
            if blocked and not was_blocked:
                output.warn(f"the broker takes no messages for now: {blocked}")
            was_blocked = blocked
            show(report.confirmed if report.confirms else report.published, blocked)

        try:
            report = connection.publish(
                intake,
                options=options,
                check=False,
                stop=stop,
                on_progress=take,
                on_settled=intake.resume.settled if intake.resume else None,
                on_warning=output.warn,
            )
        except RmqkitError as exc:
            return report, exc, False
        except StoppedAtOnce:
            known = sum(getattr(report, fate.value) for fate in Fate if fate is not Fate.UNKNOWN)
            return replace(report, unknown=report.published - known, interrupted=True), None, True
    return report, None, False


def _finish(intake: PublishInput) -> RmqkitError | None:
    """Save how far it came, if that is to be kept; return why it cannot be."""
    try:
        if intake.resume is not None:
            intake.resume.finish(complete=intake.ended)
    except RmqkitError as exc:
        return exc
    return None


def _tell(report: PublishReport, error: RmqkitError | None, resume: Resume | None, *, as_json_object: bool) -> None:
    if as_json_object:
        resumed = {"resumed": report_text.resumed(resume)} if resume else {}
        output.out_json(as_json(report) | resumed | (error_output.as_json(error) if error else {}))
        return
    if report.published or not error:
        output.note(report_text.summary(report))
    if warning := report_text.warning(report, error):
        output.warn(warning)
    if error:
        output.note(error_output.as_text(error))
