"""`rmqkit validate`."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any, NamedTuple

import typer

from rmqkit import exit_codes
from rmqkit.cli import contract_options, output, topology_source
from rmqkit.cli.files import readable
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option
from rmqkit.cli.output import Style
from rmqkit.errors import SettingsError
from rmqkit.plural import plural
from rmqkit.topology.file import definitions, loader, scenarios
from rmqkit.topology.lint.linter import Finding, examine, unknown_code, upgrade_findings
from rmqkit.topology.lint.releases import UPGRADE, Release, parse_release
from rmqkit.topology.lint.rule import Severity, rules

_STYLES: dict[Severity, Style] = {"error": "red", "warning": "yellow", "hint": "bold"}  # the most severe first
_SHOWN = 10  # findings of a rule that are printed; --json has all


@grouped
def validate(
    broker: ConnectionOptions,
    *,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE",
            help="Topology files, read as one; - for stdin. With --rabbitmq also one definitions file (.json), or the"
            " amqp:// URL of a broker. [default: with --rabbitmq, the broker]",
        ),
    ] = None,
    rabbitmq: Annotated[
        str,
        option(
            "--rabbitmq VERSION", "Show what this version of RabbitMQ, 3.10 to 4.4, refuses or handles differently."
        ),
    ] = "",
    all_vhosts: Annotated[bool, option("--all-vhosts", "With --rabbitmq: check all virtual hosts.")] = False,
    strict: Annotated[bool, option("--strict", "Exit with 2 for warnings too.")] = False,
    explain: Annotated[str, option("--explain CODE", "Explain a finding, with a bad and a good example.")] = "",
    json: Json = False,
) -> None:
    """Check topology files for errors and for anything suspicious, without a broker.

    Violations of the schema and references to undeclared entities are errors, as in apply. Beyond that, findings are
    errors (the broker would refuse it), warnings or hints; each has a code, and `lint:` in the file can suppress it,
    with a reason. Scenario files (.test.yaml) are checked as `rmqkit test` does, and the schemas of contracts are read.

    With --rabbitmq, findings that depend on the version are exact: errors for what that version refuses, warnings for
    what it changes without an error. Definitions and a live broker are checked for nothing else, a broker also for
    its version, feature flags, Erlang and clients (HTTP API, tag `monitoring`).
    """
    if explain:
        _explain(explain, as_one_json=json)
        return
    release = parse_release(rabbitmq) if rabbitmq else None
    if not release and (all_vhosts or any(map(topology_source.is_url, files or ()))):
        raise typer.BadParameter("A broker, and --all-vhosts, need --rabbitmq VERSION.", param_hint="FILE")
    if release:
        checked = _upgrade(files or [], release, broker, all_vhosts=all_vhosts)
    elif files:
        checked = _topology(files, None)
    else:
        raise typer.BadParameter("Name a topology file, or - for standard input.", param_hint="FILE")
    if json:
        found = [_as_json(finding) for finding in checked.findings]
        output.out_json(
            {"findings": found, "silenced": checked.suppressed} | ({"rabbitmq": rabbitmq} if release else {})
        )
    else:
        for line in _lines(checked.findings):
            output.sentence(line)
        output.note(_summary(checked, f" for RabbitMQ {rabbitmq}" if release else ""))
    for sentence in checked.unseen:
        output.warn(sentence)
    failing = {"error", "warning"} if strict else {"error"}
    has_failed = any(each.severity in failing for each in checked.findings)
    raise typer.Exit(exit_codes.BAD_INPUT if has_failed else exit_codes.DONE)


class _Checked(NamedTuple):
    """The findings, where they were looked for, in words, the number of suppressed ones, and what was not seen."""

    findings: Sequence[Finding]
    place: str
    suppressed: int = 0
    unseen: Sequence[str] = ()


def _topology(files: Sequence[str], release: Release | None, text: str | None = None) -> _Checked:
    """Check topology files; `text` is that of a single one, if it has been read."""
    scenario_files = [file for file in files if file.endswith(scenarios.SUFFIX)]
    scenarios.load(*scenario_files)
    paths = [readable(file) for file in files if file not in scenario_files]
    topologies = (loader.loads(text, paths[0]),) if text is not None and paths else loader.load_by_vhost(*paths)
    findings: list[Finding] = []
    suppressed = 0
    for topology in topologies:
        contract_options.check(topology)
        found, silenced = examine(topology, release)
        findings += found
        suppressed += len(silenced)
    return _Checked(findings, plural(len({*files}), "file"), suppressed)


def _upgrade(files: Sequence[str], release: Release, broker: ConnectionOptions, *, all_vhosts: bool) -> _Checked:
    """Check topology files, or one definitions file, or a broker: that of a URL, or of the options."""
    if len(files) > 1:
        return _topology(files, release)
    if not files or topology_source.is_url(files[0]):
        from rmqkit.http_api import upgrade  # noqa: PLC0415 - start-up time: pika

        settings = topology_source.broker_at(files[0], broker) if files else broker.settings()
        with connect(settings) as connection:
            found = upgrade.find(connection.http_api(), release, all_vhosts=all_vhosts)
        place = f"{plural(len(found.vhosts), 'virtual host')} of {topology_source.broker_name(settings)}"
        return _Checked(found.findings, place, unseen=found.unseen)
    (file,) = files
    text = topology_source.read_file(file)
    if not topology_source.is_definitions(file, text):
        return _topology(files, release, text)
    path = readable(file)
    vhosts = definitions.virtual_hosts(text, file=path) if all_vhosts else (broker.vhost,)
    topologies = [definitions.from_definitions(text, file=path, vhost=vhost).topology for vhost in vhosts]
    return _Checked([each for topology in topologies for each in upgrade_findings(topology, release)], "1 file")


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield findings rule by rule, the most severe first, each group followed by advice and reason."""
    severities = list(_STYLES)
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda each: severities.index(each.severity)):
        groups.setdefault((finding.code, finding.url), []).append(finding)
    for number, ((code, url), group) in enumerate(groups.items()):
        if number:
            yield ""
        for finding in group[:_SHOWN]:
            where = output.paint(output.safe(str(finding.where)), "bold", sys.stdout)
            message = output.safe(finding.message).replace("\n", "\\n")
            severity = output.paint(finding.severity, _STYLES[finding.severity], sys.stdout)
            yield f"{where}: {severity}: {message} [{code}]"
        if len(group) > _SHOWN:
            yield f"{len(group) - _SHOWN:,} more findings of [{code}]; --json shows all."
        why = "" if code == UPGRADE else rules()[code].why
        for line in (*dict.fromkeys(finding.advice for finding in group[:_SHOWN]), why, url):
            if line:
                yield output.paint(f"  {output.safe(line)}", "dim", sys.stdout)


def _summary(checked: _Checked, version: str) -> str:
    counts = Counter(finding.severity for finding in checked.findings)
    found = ", ".join(plural(counts[severity], severity) for severity in _STYLES if counts[severity])
    rest = f"; {checked.suppressed} suppressed" if checked.suppressed else ""
    return f"{found or 'No findings'} in {checked.place}{version}{rest}."


def _as_json(finding: Finding) -> dict[str, Any]:
    place = {"code": finding.code, "severity": finding.severity, "name": finding.name} | asdict(finding.where)
    texts = {"message": finding.message, "advice": finding.advice, "why": rules()[finding.code].why}
    return place | texts | {"url": finding.url}


def _explain(code: str, *, as_one_json: bool) -> None:
    rule = rules().get(code)
    if not rule:
        message, advice = unknown_code(code)
        raise SettingsError(message, advice=advice or "`rmqkit validate FILE` prints the code of every finding.")
    if as_one_json:
        names = ("code", "severity", "why", "url", "bad", "good")
        output.out_json({name: getattr(rule, name) for name in names})
        return
    severity = output.paint(rule.severity, _STYLES[rule.severity], sys.stdout)
    output.sentence(f"{output.paint(code, 'bold', sys.stdout)}: {severity}\n{rule.why}\n{rule.url}".rstrip())
    for title, example in (("Bad", rule.bad), ("Good", rule.good)):
        lines = "".join(f"  {line}\n" for line in example.splitlines())
        output.out(f"\n{output.paint(f'{title}:', 'bold', sys.stdout)}\n{lines}".rstrip())
