"""`rmqkit consume`: handle the messages of a queue, by printing them unless another handler is named."""

from dataclasses import dataclass
from typing import Annotated

import typer

from rmqkit.cli import last_applied, metrics, output, signals, topology_source, worker_processes
from rmqkit.cli.consume_command import ConsumeCommand
from rmqkit.cli.contract_options import ConsumedSchemaOptions
from rmqkit.cli.handler_options import OFFSET_HELP, HandlerOptions, parse_offset
from rmqkit.cli.last_applied import LastApplied
from rmqkit.cli.options import ConnectionOptions, Json, grouped, option_field
from rmqkit.handlers.runner import ConsumeJob
from rmqkit.message import Verdict
from rmqkit.model import Retry, Target
from rmqkit.topology.retry import in_words


@dataclass(frozen=True, slots=True)
class ConsumerOptions:
    """How to consume, and the source of the queue's contract and retry."""

    workers: int = option_field("--workers N", "Consume with N processes.", default=1, min=1)
    channels: int = option_field(
        "--channels N", "Consume with N consumers on one connection, in each process.", default=1, min=1
    )
    topology: list[str] | None = option_field(
        "--topology FILE", "Take the queue's contract and retry from this file instead of the topology applied last."
    )
    no_ack: bool = option_field(
        "--no-ack",
        "Acknowledge messages before they are printed, up to 100 at a time: none is printed twice, but those in"
        " hand are lost when printing ends early. The report counts them, and the exit code is 8.",
        default=False,
    )
    offset: str | None = option_field("--offset WHERE", OFFSET_HELP)
    metrics_port: int | None = option_field("--metrics-port PORT", metrics.HELP, min=1, max=65535)

    def check(self, handler: HandlerOptions, *, checked: bool) -> None:
        """Raise a usage error for options that contradict each other; `checked` says whether there is a contract."""
        if self.no_ack and (handler.filter is not None or not handler.prints):
            raise typer.BadParameter(
                "--no-ack cannot be combined with a filter or a handler, which need acknowledgements"
            )
        if self.no_ack and checked:
            raise typer.BadParameter("--no-ack cannot be combined with a contract. Omit it, or add --no-schema.")
        if self.offset is not None and (self.workers > 1 or self.channels > 1):
            raise typer.BadParameter(
                "--offset cannot be combined with --workers or --channels: every consumer receives all of a stream"
            )


@grouped
def consume(
    queue: Annotated[str, typer.Argument(help="The queue.")],
    handler: HandlerOptions,
    contract: ConsumedSchemaOptions,
    broker: ConnectionOptions,
    *,
    consumer: ConsumerOptions,
    json: Json = False,
) -> None:
    """Print the messages of a queue as they arrive, until Ctrl-C; each is acknowledged once it is written.

    Options save them, forward them, or pass each to a command or a function. A message that was not handled completely
    stays in the queue. A message the handler fails on is retried as the topology says, or else dead-lettered; if no
    retry and no dead-letter exchange of the queue is known, consuming stops and the message stays. The report goes to
    standard error.
    """
    handler.check()
    topology = topology_source.load_topology(consumer.topology) if consumer.topology else None
    settings = topology_source.in_vhost_of(topology, broker.settings())
    handler.check_target(settings, queue=queue)
    applied = last_applied.from_topology(topology, topology.files) if topology else last_applied.recall(settings)
    retry = _retry(queue, applied) if handler.may_fail and applied and not handler.on_failure else None
    schema = contract.of(Target("", queue), applied)
    consumer.check(handler, checked=bool(schema))
    handler.check_policy(checked=bool(schema))
    # Acknowledging takes nothing out of a stream.
    unmatched = handler.unmatched or (Verdict.REQUEUE if consumer.offset is None else Verdict.ACK)
    job = ConsumeJob(
        queue,
        handler.consume_options(no_ack=consumer.no_ack, offset=parse_offset(consumer.offset)),
        consumer.channels,
        filter=handler.filter,
        unmatched=unmatched,
        contract=schema,
        invalid_to=contract.target(queue, applied) if schema else None,
        retry=retry,
        failed=handler.on_failure,
        drops=applied.dead_letters[queue] is None if applied and queue in applied.dead_letters else None,
    )
    command = ConsumeCommand(settings, job, handler, consumer.workers, metrics_port=consumer.metrics_port)

    signals.run_and_exit(lambda stop: worker_processes.run(command, stop, as_json_object=json))


def _retry(queue: str, applied: LastApplied) -> Retry | None:
    """Return the retry of a queue, and say where it is declared."""
    files = applied.files_of(Target("", queue))
    if retry := applied.retries.get(queue):
        output.note(output.safe(f"A failed message {in_words(retry)}: the retry of queue {queue!r} in {files}."))
    return retry
