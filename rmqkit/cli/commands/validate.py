"""`rmqkit validate`."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from rmqkit import exit_codes
from rmqkit.cli import contract_options, output
from rmqkit.cli.files import readable
from rmqkit.cli.options import Json, option
from rmqkit.cli.output import Style
from rmqkit.errors import SettingsError
from rmqkit.plural import plural
from rmqkit.topology.file import loader, scenarios
from rmqkit.topology.lint.linter import Finding, examine, unknown_code
from rmqkit.topology.lint.rule import Severity, rules

_STYLES: dict[Severity, Style] = {"error": "red", "warning": "yellow", "hint": "bold"}  # the most severe first
_SHOWN = 10  # findings of a rule that are printed; --json has all


def validate(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="Topology files, read as one; - for stdin.")
    ] = None,
    *,
    strict: Annotated[bool, option("--strict", "Exit with 2 for warnings too.")] = False,
    explain: Annotated[str, option("--explain CODE", "Explain a finding, with a bad and a good example.")] = "",
    json: Json = False,
) -> None:
    """Check topology files for errors and for anything suspicious, without a broker.

    Whatever the schema or a reference forbids is an error, as in apply. Beyond that, findings are errors (the broker
    would refuse it), warnings or hints; each has a code, and `lint:` in the file can suppress it, with a reason.
    Scenario files (.test.yaml) are checked as `rmqkit test` does, and the schemas of contracts are read.
    """
    if explain:
        _explain(explain, as_one_json=json)
        return
    if not files:
        raise typer.BadParameter("Name a topology file, or - for standard input.", param_hint="FILE")
    scenario_files = [file for file in files if file.endswith(scenarios.SUFFIX)]
    scenarios.load(*scenario_files)
    findings: list[Finding] = []
    suppressed: list[Finding] = []
    for topology in loader.load_by_vhost(*(readable(file) for file in files if file not in scenario_files)):
        contract_options.check(topology)
        found, silenced = examine(topology)
        findings += found
        suppressed += silenced
    if json:
        output.out_json({"findings": [_as_json(finding) for finding in findings], "silenced": len(suppressed)})
    else:
        for line in _lines(findings):
            output.out(line)
        output.note(_summary(findings, len({*files}), len(suppressed)))
    failing = {"error", "warning"} if strict else {"error"}
    raise typer.Exit(exit_codes.BAD_INPUT if any(each.severity in failing for each in findings) else exit_codes.DONE)


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield findings rule by rule, the most severe first, each group followed by advice and reason."""
    severities = list(_STYLES)
    groups: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=lambda each: severities.index(each.severity)):
        groups.setdefault(finding.code, []).append(finding)
    for number, (code, group) in enumerate(groups.items()):
        if number:
            yield ""
        for finding in group[:_SHOWN]:
            where = output.paint(output.safe(str(finding.where)), "bold", sys.stdout)
            message = output.safe(finding.message).replace("\n", "\\n")
            severity = output.paint(finding.severity, _STYLES[finding.severity], sys.stdout)
            yield f"{where}: {severity}: {message} [{code}]"
        if len(group) > _SHOWN:
            yield f"{len(group) - _SHOWN:,} more findings of [{code}]; --json shows all."
        rule = rules()[code]
        for line in (*dict.fromkeys(finding.advice for finding in group[:_SHOWN]), rule.why, rule.url):
            if line:
                yield output.paint(f"  {output.safe(line)}", "dim", sys.stdout)


def _summary(findings: Sequence[Finding], files: int, suppressed: int) -> str:
    counts = Counter(finding.severity for finding in findings)
    found = ", ".join(plural(counts[severity], severity) for severity in _STYLES if counts[severity])
    rest = f"; {suppressed} suppressed" if suppressed else ""
    return f"{found or 'No findings'} in {plural(files, 'file')}{rest}."


def _as_json(finding: Finding) -> dict[str, Any]:
    rule = rules()[finding.code]
    place = {"code": finding.code, "severity": finding.severity, "name": finding.name} | asdict(finding.where)
    return place | {"message": finding.message, "advice": finding.advice, "why": rule.why, "url": rule.url}


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
    output.out(f"{output.paint(code, 'bold', sys.stdout)}: {severity}\n{rule.why}\n{rule.url}".rstrip())
    for title, example in (("Bad", rule.bad), ("Good", rule.good)):
        lines = "".join(f"  {line}\n" for line in example.splitlines())
        output.out(f"\n{output.paint(f'{title}:', 'bold', sys.stdout)}\n{lines}".rstrip())
