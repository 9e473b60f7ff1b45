"""`rmqkit test`."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Annotated

import typer

from rmqkit import exit_codes, report
from rmqkit.cli import output, signals
from rmqkit.cli.files import write
from rmqkit.cli.options import ConnectionOptions, Json, grouped, option
from rmqkit.report import ScenarioReport, ScenarioResult
from rmqkit.stop import Stop, StopRequested
from rmqkit.topology.file.scenarios import Scenario, load
from rmqkit.topology.scenario_check import judge, offline


@grouped
def run(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Scenario files, each beside its topology.")],
    broker: ConnectionOptions,
    *,
    live: Annotated[
        bool, option("--live", "Run them on a broker, in a copy of the topology that is deleted afterward.")
    ] = False,
    junit: Annotated[str, option("--junit FILE", "Also write the results as JUnit XML; - for stdout.")] = "",
    json: Json = False,
) -> None:
    """Check that messages reach the queues that scenario files expect, and no others.

    Without --live no connection is made: the offline router predicts where messages go. If a scenario fails, the exit
    code is 9.
    """
    scenarios = load(*files)

    def test(stop: Stop) -> int:
        results: list[ScenarioResult] = []
        try:
            for result in _results(scenarios, broker if live else None, stop):
                if not (json or junit == "-"):
                    _show(result, results)
                results.append(result)
        except StopRequested:
            pass
        done = ScenarioReport(tuple(results), live)
        if junit:
            from rmqkit.cli.junit_xml import to_xml  # noqa: PLC0415 - start-up time

            write(junit, to_xml(done), force=True)
        if json:
            output.out_json(report.as_json(done))
        skipped = len(scenarios) - len(results)
        output.note(_summary(done, skipped))
        return exit_codes.DONE if skipped else exit_codes.exit_code(done)

    signals.run_and_exit(
        test
    )  # stopped at once, it leaves the copy of the topology, which the broker deletes after some minutes


def _results(scenarios: Sequence[Scenario], broker: ConnectionOptions | None, stop: Stop) -> Iterator[ScenarioResult]:
    """Yield the result of each scenario: on a broker, or offline without one."""
    with ExitStack() as stack:
        observe = offline
        if broker:
            connection = stack.enter_context(broker.connect())
            observe = stack.enter_context(connection.scenario_runner(stop=stop)).observe
        for scenario in scenarios:
            started_s = time.monotonic()
            result = judge(scenario, observe)
            yield replace(result, seconds=time.monotonic() - started_s)


def _show(result: ScenarioResult, before: Sequence[ScenarioResult]) -> None:
    """Print the result of a scenario below the name of its file."""
    out = sys.stdout
    if not before or before[-1].where.file != result.where.file:
        output.out(output.paint(output.safe(result.where.file), "bold", out))
    name = output.safe(result.name).replace("\n", "\\n")
    word = output.paint("FAILED", "red", out) if result.problems else output.paint("ok    ", "green", out)
    output.out(f"  {word}  {name}")
    for problem in result.problems:
        where = output.paint(output.safe(str(problem.where)), "bold", out)
        output.sentence(f"    {where}: {output.safe(problem.message)}")
        for line in output.safe(problem.advice).splitlines():
            output.sentence(output.paint(f"      {line}", "dim", out))
    for note in result.notes:
        output.sentence(output.paint(f"    {output.safe(note)}", "yellow", out))


def _summary(done: ScenarioReport, skipped: int) -> str:
    passed = output.paint(f"{len(done.results) - done.failed} passed", "green", sys.stderr)
    failed = output.paint(f", {done.failed} failed", "red", sys.stderr) if done.failed else ""
    return f"{passed}{failed}{f', {skipped} not run' if skipped else ''}, {'live' if done.live else 'offline'}."
