"""Publish the messages of an input, save its progress, and report: what `publish` and `restore` share."""

from __future__ import annotations

import os
from dataclasses import replace

from rmqkit.cli import error_output, output, report_text
from rmqkit.cli.publish_input import PublishInput
from rmqkit.connection import Connection
from rmqkit.errors import RmqkitError
from rmqkit.messaging.delayed_publishing import Delay
from rmqkit.options import PublishOptions
from rmqkit.report import Fate, PublishReport, as_json
from rmqkit.stop import Stop, StoppedAtOnce


def run(
    connection: Connection,
    messages: PublishInput,
    options: PublishOptions,
    stop: Stop,
    *,
    mandatory: bool | None,
    delay: Delay | None = None,
    json: bool,
) -> int:
    """Publish, print the report and return the exit code; `report_text.error_of` explains `mandatory`."""
    report, error, stopped_at_once = _send(connection, messages, options, delay, stop)
    unsaved = _save_progress(messages)
    error = error or report_text.error_of(report, mandatory=mandatory) or messages.failure or unsaved
    connection.complete_advice(error)
    code = report_text.exit_code(report, error)
    _print_report(report, error, messages, as_json_object=json)
    if stopped_at_once and code:
        output.flush()
        os._exit(code)  # closing would wait for the broker
    return code


def _send(
    connection: Connection, messages: PublishInput, options: PublishOptions, delay: Delay | None, stop: Stop
) -> tuple[PublishReport, RmqkitError | None, bool]:
    """Publish; return the report, the error that ended it early, and whether a second signal did."""
    report = PublishReport(confirms=options.confirms)
    with output.progress("publishing", messages.total) as show:

        def on_progress(progress: PublishReport) -> None:
            nonlocal report
            report = progress
            show(report.confirmed if report.confirms else report.published, connection.blocked)

        try:
            report = connection.publish(
                messages,
                delay=delay,
                options=options,
                check=False,
                stop=stop,
                on_progress=on_progress,
                on_settled=messages.resume.settled if messages.resume else None,
                on_failure=lambda _: None,  # the first of each fate are enough to print
                on_warning=output.warn,
            )
        except RmqkitError as exc:
            return report, exc, False
        except StoppedAtOnce:
            known = sum(getattr(report, fate.value) for fate in Fate if fate is not Fate.UNKNOWN)
            return replace(report, unknown=report.published - known, interrupted=True), None, True
    return report, None, False


def _save_progress(messages: PublishInput) -> RmqkitError | None:
    """Save the state of a run that can be resumed; return the error if it cannot be saved."""
    try:
        if messages.resume is not None:
            messages.resume.finish(complete=messages.ended)
    except RmqkitError as exc:
        return exc
    return None


def _print_report(
    report: PublishReport, error: RmqkitError | None, messages: PublishInput, *, as_json_object: bool
) -> None:
    if as_json_object:
        names = ("skipped", "retried", "doubtful")
        resumed = {"resumed": {name: getattr(resume, name) for name in names}} if (resume := messages.resume) else {}
        output.out_json(as_json(report) | resumed | (error_output.as_json(error) if error else {}))
        return
    if report.published or not error:
        output.note(report_text.publish_summary(report))
    if warning := report_text.warning(report, error):
        output.warn(warning)
    if error:
        error_output.show(error)
