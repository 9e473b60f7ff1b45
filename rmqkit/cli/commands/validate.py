"""`rmqkit validate`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmqkit import exit_codes
from rmqkit.cli import contract_options, output
from rmqkit.cli.files import readable
from rmqkit.cli.options import Json
from rmqkit.cli.output import Style
from rmqkit.errors import SettingsError

if TYPE_CHECKING:
    from rmqkit.topology.lint.linter import Finding
    from rmqkit.topology.lint.rule import Rule, Severity

_STYLES: dict[Severity, Style] = {"error": "red", "warning": "yellow", "hint": "bold"}  # the gravest first


def validate(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="Topology files, taken as one; - for stdin.")
    ] = None,
    *,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 2 for warnings too, not for errors alone.")
    ] = False,
    explain: Annotated[
        str, typer.Option("--explain", metavar="CODE", help="Say what a finding means, with a bad and a good example.")
    ] = "",
    json: Json = False,
) -> None:
    """Check topology files, and say what is suspicious in them, without a broker.

    What the schema or a reference forbids is an error, as it is for apply. Beyond that, findings are errors (the broker
    would refuse it), warnings or hints; each has a code, and `lint:` in the file can silence it, with a reason. Files
    of scenarios (.test.yaml) are checked as what `rmqkit test` takes, and the schemas of contracts are read.
    """
    from rmqkit.topology.file.loader import load  # noqa: PLC0415
    from rmqkit.topology.file.scenarios import SUFFIX as SCENARIOS  # noqa: PLC0415
    from rmqkit.topology.file.scenarios import load as load_scenarios  # noqa: PLC0415
    from rmqkit.topology.lint.linter import RULES, examine  # noqa: PLC0415 - start-up time

    if explain:
        _explain(explain, as_one_json=json)
        return
    if not files:
        raise typer.BadParameter("Name a topology file, or - for standard input.", param_hint="FILE")
    scenarios = [file for file in files if file.endswith(SCENARIOS)]
    load_scenarios(*scenarios)
    topology = load(*(readable(file) for file in files if file not in scenarios))
    contract_options.check(topology)
    findings, silenced = examine(topology)
    if json:
        found = [_as_json(finding, RULES[finding.code]) for finding in findings]
        output.out_json({"findings": found, "silenced": len(silenced)})
    else:
        for line in _lines(findings, RULES):
            output.out(line)
        output.note(_summary(findings, len({*files}), len(silenced)))
    grave = {"error", "warning"} if strict else {"error"}
    raise typer.Exit(exit_codes.BAD_INPUT if any(each.severity in grave for each in findings) else exit_codes.DONE)


def _lines(findings: Sequence[Finding], rules: Mapping[str, Rule]) -> Iterator[str]:
    """Yield findings rule by rule, the gravest first, each rule followed by what it is about."""
    gravity = list(_STYLES)
    groups: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=lambda each: gravity.index(each.severity)):
        groups.setdefault(finding.code, []).append(finding)
    for number, (code, group) in enumerate(groups.items()):
        if number:
            yield ""
        for finding in group:
            where = output.paint(output.safe(str(finding.where)), "bold", sys.stdout)
            message = output.safe(finding.message).replace("\n", "\\n")
            severity = output.paint(finding.severity, _STYLES[finding.severity], sys.stdout)
            yield f"{where}: {severity}: {message} [{code}]"
        for line in (*dict.fromkeys(finding.advice for finding in group), rules[code].why, rules[code].url):
            if line:
                yield output.paint(f"  {output.safe(line)}", "dim", sys.stdout)


def _summary(findings: Sequence[Finding], files: int, silenced: int) -> str:
    counts = Counter(finding.severity for finding in findings)
    found = ", ".join(_count(counts[severity], severity) for severity in _STYLES if counts[severity])
    rest = f"; {silenced} silenced" if silenced else ""
    return f"{found or 'No findings'} in {_count(files, 'file')}{rest}."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("s" if number != 1 else "")


def _as_json(finding: Finding, rule: Rule) -> dict[str, Any]:
    return {
        "code": finding.code,
        "severity": finding.severity,
        "name": finding.name,
        **asdict(finding.where),
        "message": finding.message,
        "advice": finding.advice,
        "why": rule.why,
        "url": rule.url,
    }


def _explain(code: str, *, as_one_json: bool) -> None:
    from rmqkit.topology.file.schema import suggest  # noqa: PLC0415
    from rmqkit.topology.lint.linter import RULES  # noqa: PLC0415 - start-up time

    rule = RULES.get(code)
    if not rule:
        guess = suggest(code, RULES)
        raise SettingsError(
            f"{code!r} is no code of a finding",
            advice=f"Did you mean {guess}?" if guess else f"There are: {', '.join(RULES)}.",
        )
    if as_one_json:
        names = ("code", "severity", "why", "url", "bad", "good")
        output.out_json({name: getattr(rule, name) for name in names})
        return
    severity = output.paint(rule.severity, _STYLES[rule.severity], sys.stdout)
    output.out(f"{output.paint(code, 'bold', sys.stdout)}: {severity}\n{rule.why}\n{rule.url}".rstrip())
    for title, example in (("Bad", rule.bad), ("Good", rule.good)):
        lines = "".join(f"  {line}\n" for line in example.splitlines())
        output.out(f"\n{output.paint(f'{title}:', 'bold', sys.stdout)}\n{lines}".rstrip())
