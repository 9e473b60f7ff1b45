"""Every scenario file in tests/cases/scenarios, and beside a shipped topology, is a test."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from rmqkit import exit_codes
from rmqkit.cli.junit_xml import to_xml
from rmqkit.errors import DocumentError, InputError, Problem
from rmqkit.report import ScenarioReport, as_json
from rmqkit.topology.examples import example_names
from rmqkit.topology.file.scenarios import load
from rmqkit.topology.scenario_check import judge

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "cases" / "scenarios"
PASSING = sorted([*ROOT.glob("topologies/*.test.yaml"), *CASES.glob("*.test.yaml")])
INVALID = sorted(CASES.glob("invalid/*.test.yaml"))
FAILING = sorted(CASES.glob("failing/*.test.yaml"))


def by_name(path: Path) -> str:
    return path.name.removesuffix(".test.yaml")


def printed(problem: Problem, file: Path) -> str:
    """Return a problem as printed, without the folder, or the file itself."""
    return str(problem).replace(f"{file}:", "").replace(f"{file.parent}/", "")


def expected(file: Path) -> list[str]:
    return file.with_name(f"{by_name(file)}.expected").read_text().split("\n\n")[:-1]


@pytest.mark.parametrize("file", PASSING, ids=by_name)
def test_correct_scenarios_pass(file: Path) -> None:
    assert [problem for scenario in load(file) for problem in judge(scenario).problems] == []


@pytest.mark.parametrize("file", INVALID, ids=by_name)
def test_an_invalid_scenario_file_is_refused_with_the_expected_words(file: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(file)
    assert [printed(each, file) for each in caught.value.problems] == expected(file)


@pytest.mark.parametrize("file", FAILING, ids=by_name)
def test_a_wrong_scenario_fails_with_the_expected_words(file: Path) -> None:
    results = [judge(scenario) for scenario in load(file)]
    assert [printed(each, file) for result in results for each in result.problems] == expected(file)
    assert all(result.problems for result in results)


def test_every_expectation_has_its_file() -> None:
    files = {by_name(file) for file in [*INVALID, *FAILING]}
    assert {path.stem for path in CASES.glob("*/*.expected")} == files
    assert (len(PASSING) >= 6, len(INVALID) >= 7, len(FAILING) >= 3) == (True, True, True)


def test_scenario_files_are_not_taken_for_topologies() -> None:
    assert not [name for name in example_names() if "test" in name]


def test_the_problems_of_all_files_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "list.test.yaml").write_text("- a\n")
    with pytest.raises(DocumentError, match="9 problems in 3 files"):
        load(tmp_path / "list.test.yaml", CASES / "invalid/names.test.yaml", CASES / "invalid/no_target.test.yaml")


def test_a_report_counts_and_names_failures() -> None:
    scenarios = load(PASSING[0], CASES / "failing/unknown.test.yaml")
    report = ScenarioReport(tuple(judge(scenario) for scenario in scenarios))
    assert (report.failed, exit_codes.exit_code(report), exit_codes.exit_code(ScenarioReport())) == (3, 9, 0)
    told = as_json(report)
    assert (told["passed"], told["failed"], told["live"]) == (len(scenarios) - 3, 3, False)
    last = told["scenarios"][-1]
    assert (last["name"], last["passed"], last["line"]) == ("an exchange of others, at once", False, 9)
    assert last["problems"][0]["line"] == 11


def test_junit_has_a_case_for_each_scenario_and_holds_any_name(tmp_path: Path) -> None:
    file = tmp_path / "names.test.yaml"
    text = 'scenarios:\n  "a < b \\e \\0 \\uFFFE": {expect: [audit, billing]}\n  bad: {expect: []}\n'
    file.write_text(f"topology: {CASES}/shop.yaml\n{text}")
    root = ET.fromstring(to_xml(ScenarioReport(tuple(map(judge, load(file))))))
    good, bad = root.iter("testcase")
    assert (root.get("tests"), root.get("failures"), root[0].get("failures")) == ("2", "1", "1")
    assert (good.get("name"), good.find("failure")) == ("a < b \\x1b \\x00 \\ufffe", None)
    failure = bad.find("failure")
    assert failure is not None
    assert failure.get("message") == "expected no queue, but it reached 'audit', 'billing'"
    assert f"{file}:4:17: expected no queue" in str(failure.text)
