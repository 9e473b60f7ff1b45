"""`rmqkit check`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import output, topology_source
from rmqkit.cli.options import ConnectionOptions, Json, grouped, option, option_field
from rmqkit.payload import properties
from rmqkit.topology.retry import parse_delay

_DURATION = re.compile(r"\d{1,9}(ms|s|m|h)", re.ASCII)


@dataclass(frozen=True, slots=True)
class LimitOptions:
    """The queues to check, and their limits."""

    queue: list[str] = option_field(
        "--queue NAME",
        "Check this queue, or all queues that match a pattern with * and ?; repeatable.",
        default_factory=list,
    )
    max_ready: int | None = option_field("--max-ready N", "Maximum number of ready messages in each queue.", min=0)
    max_unacked: int | None = option_field(
        "--max-unacked N", "Maximum number of unacknowledged messages in each queue.", min=0
    )
    min_consumers: int | None = option_field("--min-consumers N", "Minimum number of consumers of each queue.", min=0)
    max_age: str | None = option_field(
        "--max-age TIME", "Maximum age of the oldest message in each queue, such as 30s, 5m or 1h."
    )


@grouped
def check(
    broker: ConnectionOptions,
    *,
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE]", help="Topology files to check for drift.")
    ] = None,
    limits: LimitOptions,
    min_cert_days: Annotated[
        int, option("--min-cert-days N", "The broker's certificate must be valid for N more days.", min=0)
    ] = 14,
    json: Json = False,
    prometheus: Annotated[bool, option("--prometheus", "Print metrics in Prometheus's text format.")] = False,
    nagios: Annotated[bool, option("--nagios", "Use the output format and exit codes of Nagios plugins.")] = False,
) -> None:
    """Check the health of a broker, for probes, cron and monitoring systems.

    The checks are: connection and login; with TLS, the certificate; through RabbitMQ's HTTP API, alarms, nodes,
    listeners, and whether a quorum queue would lose its majority if this node stopped; drift from topology files; and
    limits of queues.

    The exit code is 0 if nothing is critical or unknown, 4 if the connection failed, and 9 otherwise. With --nagios it
    is 0 (ok), 1 (warning), 2 (critical) or 3 (unknown). The age of a message is that of the timestamp that its
    publisher set.
    """
    if sum((json, prometheus, nagios)) > 1:
        raise typer.BadParameter("use only one of --json, --prometheus, --nagios")
    _validate(limits)
    from rmqkit.cli import health_checks, health_text  # noqa: PLC0415 - start-up time: pika

    wanted = health_checks.Wanted(
        topology_source.load_topology(files) if files else None,
        tuple(files or ()),
        tuple(dict.fromkeys(limits.queue)),
        health_checks.Limits(
            limits.max_ready,
            limits.max_unacked,
            limits.min_consumers,
            None if limits.max_age is None else parse_delay(limits.max_age) / 1000,
        ),
        min_cert_days,
    )
    settings = topology_source.in_vhost_of(wanted.topology, broker.settings())
    checks = list(health_checks.run(settings, wanted))
    worst = health_text.worst(checks)
    if json:
        output.out_json(health_text.as_json(checks))
    elif prometheus:
        output.out(health_text.as_metrics(checks))
    else:
        output.out(health_text.as_nagios(checks) if nagios else health_text.as_table(checks))
    if nagios:
        raise typer.Exit(int(worst))
    if len(checks) == 1 and worst is health_text.Level.CRITICAL:
        raise typer.Exit(exit_codes.UNREACHABLE)
    if worst in (health_text.Level.CRITICAL, health_text.Level.UNKNOWN):
        raise typer.Exit(exit_codes.TEST_FAILED)


def _validate(limits: LimitOptions) -> None:
    """Raise a usage error, or PayloadError for a name AMQP cannot carry."""
    if not limits.queue and any(
        each is not None for each in (limits.max_ready, limits.max_unacked, limits.min_consumers, limits.max_age)
    ):
        raise typer.BadParameter("limits need --queue NAME; '*' stands for all queues")
    if limits.max_age is not None and not _DURATION.fullmatch(limits.max_age):
        raise typer.BadParameter("--max-age: expected a duration such as 30s, 5m or 1h")
    for name in limits.queue:
        properties.check_names({"queue": name})
