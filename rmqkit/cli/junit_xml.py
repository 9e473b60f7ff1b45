"""Test results as JUnit XML, which build servers read."""

from itertools import groupby
from xml.etree import ElementTree as ET

from rmqkit.cli.output import safe
from rmqkit.report import ScenarioReport, ScenarioResult


def to_xml(report: ScenarioReport) -> str:
    """Write a report as JUnit XML; characters that XML cannot hold are written as Python's escapes."""
    root = ET.Element("testsuites", {"name": "rmqkit test", **_totals(report.results)})
    for file, group in groupby(report.results, key=lambda result: result.where.file):
        results = tuple(group)
        suite = ET.SubElement(root, "testsuite", {"name": safe(file), **_totals(results)})
        for result in results:
            _case(suite, result)
    ET.indent(root)
    return ET.tostring(root, "unicode", xml_declaration=False) + "\n"


def _case(suite: ET.Element, result: ScenarioResult) -> None:
    where = result.where
    attributes = {"name": safe(result.name), "classname": safe(where.file), "file": safe(where.file)}
    case = ET.SubElement(suite, "testcase", attributes, line=str(where.line), time=f"{result.seconds:.3f}")
    if result.problems:
        failure = ET.SubElement(case, "failure", message=safe(result.problems[0].message), type="expectation")
        failure.text = safe("\n".join(map(str, result.problems)))
    if result.notes:
        ET.SubElement(case, "system-out").text = safe("\n".join(result.notes))


def _totals(results: tuple[ScenarioResult, ...]) -> dict[str, str]:
    return {
        "tests": str(len(results)),
        "failures": str(sum(bool(result.problems) for result in results)),
        "errors": "0",
        "time": f"{sum(result.seconds for result in results):.3f}",
    }
