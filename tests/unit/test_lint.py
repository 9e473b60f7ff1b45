"""What lint finds, and what it lets be."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmqkit.errors import InputError, Location
from rmqkit.http_api import upgrade
from rmqkit.model import Binding, Exchange, Policy, Queue, Suppression, Target, Topology
from rmqkit.topology.dead_letters import dead_letters
from rmqkit.topology.examples import example_names
from rmqkit.topology.file.loader import load, loads
from rmqkit.topology.lint.linter import examine, lint, upgrade_findings
from rmqkit.topology.lint.releases import FINDERS, UPGRADE, Fact, facts, parse_release
from rmqkit.topology.lint.rule import CHECKS, Rule, rules
from rmqkit.topology.routing import route


def of(text: str, release: str = "") -> list[str]:
    """Return the codes of what lint finds in a topology, for a release if there is one."""
    return [finding.code for finding in examine(loads(text), parse_release(release) if release else None)[0]]


@pytest.mark.parametrize("rule", rules().values(), ids=rules())
def test_the_bad_example_of_a_rule_has_its_finding_and_no_other(rule: Rule) -> None:
    assert {*of(rule.bad, rule.release)} == {rule.code}


@pytest.mark.parametrize("rule", rules().values(), ids=rules())
def test_the_good_example_of_a_rule_has_no_finding_but_hints(rule: Rule) -> None:
    assert [finding for finding in lint(loads(rule.good)) if finding.severity != "hint"] == []
    assert rule.code not in of(rule.good, rule.release)


def test_every_rule_has_its_check() -> None:
    assert {*CHECKS, "suppression-unused", UPGRADE} == {*rules()}


CASES = sorted((Path(__file__).parents[1] / "cases" / "lint").glob("*.yaml"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_case_has_the_findings_that_its_lines_name(path: Path) -> None:
    lines = enumerate(path.read_text("utf-8").splitlines(), 1)
    expected = [(number, code) for number, line in lines for code in line.partition("# finds ")[2].split()]
    assert [(finding.where.line, finding.code) for finding in lint(load(path))] == sorted(expected)


def test_each_line_of_a_case_has_what_release_4_3_does_to_it() -> None:
    path = CASES[0].parents[1] / "upgrade" / "to_4_3.yaml"
    lines = enumerate(path.read_text("utf-8").splitlines()[1:], 2)
    words = {"refuses": "error", "changes": "warning"}
    expected = [(number, words[word]) for number, line in lines for word in line.partition("  # ")[2].split()]
    found = upgrade_findings(load(path), parse_release("4.3"))
    assert [(finding.where.line, finding.severity) for finding in found] == expected
    assert all(finding.advice and finding.url.startswith("https://") for finding in found)
    assert upgrade_findings(load(path), parse_release("4.3"), current=(4, 3, 0)) == tuple(
        finding for finding in found if finding.severity == "error"
    )


def test_a_suppression_of_what_another_release_does_is_not_unused() -> None:
    text = "queues: {q: {durable: false}}\nlint: [{ignore: transient-queue, name: q, reason: permitted}]"
    assert (of(text, "4.2"), of(text, "4.3"), of(text)) == ([], [], [])


@pytest.mark.parametrize(
    ("text", "release"), [("3.10", (3, 10, 999)), ("4.3", (4, 3, 999)), ("4.3.6", (4, 3, 6)), ("4.4", (4, 4, 999))]
)
def test_a_version_without_a_patch_is_the_latest_of_its_series(text: str, release: tuple[int, ...]) -> None:
    assert parse_release(text) == release


@pytest.mark.parametrize(
    "text", ["3.9", "3.14", "4.5", "5.0", "4", "four", "4.3.x", "-4.3", "4.3.6.1", "4.30", "1" * 5000]
)
def test_another_version_is_an_error_that_names_the_range(text: str) -> None:
    with pytest.raises(InputError, match=r"not a version from 3\.10 to 4\.4"):
        parse_release(text)


@pytest.mark.parametrize("fact", facts(), ids=lambda fact: fact.name)
def test_a_fact_has_a_rule_texts_and_a_source(fact: Fact) -> None:
    rule = rules()[fact.rule]
    assert fact.refused or fact.changed or fact.noted
    assert (fact.finder in FINDERS) is not (fact.finder in upgrade.FINDERS)
    assert all([fact.message or rule.message, fact.advice or rule.advice, fact.url or rule.url])


@pytest.mark.parametrize("path", example_names().values(), ids=example_names())
def test_a_shipped_topology_has_no_finding(path: Path) -> None:
    assert lint(load(path)) == ()


names = st.sampled_from(["a", "b", "c", "amq.topic"])
keys = st.lists(st.sampled_from(["a", "b", "*", "#"]), max_size=3).map(".".join)
values = st.sampled_from(["", "a", "c", 0, 1000, -1, None, True, 1.5, ["a"], {"a": 1}, b"a", "at-least-once", "lazy"])
setting_names = st.sampled_from(
    ["dead-letter-exchange", "dead-letter-routing-key", "message-ttl", "max-length", "overflow", "delivery-limit",
     "alternate-exchange", "dead-letter-strategy", "queue-mode", "max-age", "ha-mode", "of-a-plugin"]
)  # fmt: skip
plain_arguments = st.dictionaries(st.sampled_from(["x-match", "a", "x-b"]), st.sampled_from(["any", "all", 1, None]))
bindings = st.builds(
    Binding, names, names, st.sampled_from(["queue", "exchange"]), keys, st.just({}) | plain_arguments
)  # fmt: skip


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Topologies of few names, so that all of them have to do with each other."""

    def arguments(prefix: str) -> dict[str, object]:
        return {prefix + key: value for key, value in draw(st.dictionaries(setting_names, values, max_size=3)).items()}

    kinds = st.sampled_from(["direct", "fanout", "topic", "headers", "x-of-a-plugin"])
    exchanges = [
        Exchange(name, draw(kinds), draw(st.booleans()), False, draw(st.booleans()), arguments(""))
        for name in draw(st.sets(names))
    ]
    types = st.sampled_from([{}, {"x-queue-type": "classic"}, {"x-queue-type": "quorum"}, {"x-queue-type": "stream"}])
    queues = [
        Queue(name, draw(st.booleans()), False, draw(st.booleans()), arguments("x-") | draw(types))
        for name in draw(st.sets(names))
    ]
    policies = [
        Policy(
            name,
            draw(st.sampled_from(["a", "^b$", ".*", "^z", "(", "[[:alpha:]]"])),
            arguments(""),
            priority=draw(st.integers(0, 1)),
        )
        for name in draw(st.sets(names, max_size=3))
    ]
    return Topology(
        exchanges=tuple(exchanges),
        queues=tuple(queues),
        bindings=tuple(draw(st.lists(bindings, max_size=8))),
        publish=draw(st.none() | st.builds(Target, names, keys)),
        external_exchanges=tuple(draw(st.sets(names, max_size=1))),
        policies=tuple(policies),
        suppressions=tuple(draw(st.lists(st.builds(Suppression, st.sampled_from([*rules(), "x"]), names), max_size=2))),
    )


@settings(deadline=None)
@given(topologies())
def test_lint_is_deterministic_and_fails_on_no_topology(topology: Topology) -> None:
    findings, suppressed = examine(topology)
    assert (findings, suppressed) == examine(topology)
    assert {finding.severity for finding in findings} <= {"error", "warning", "hint"}
    assert all(finding.message and "\n" not in finding.message for finding in (*findings, *suppressed))


idle = st.builds(
    Binding,
    st.sampled_from(["topic", "headers", "fanout"]),
    st.sampled_from("qr"),
    st.just("queue"),
    keys,
    plain_arguments,
)


@settings(deadline=None)
@given(st.lists(idle, min_size=2, max_size=6), keys, plain_arguments)
def test_a_binding_that_lint_calls_redundant_does_not_change_any_route(
    bindings: list[Binding], key: str, headers: dict[str, object]
) -> None:
    exchanges = [Exchange(kind, kind) for kind in ("topic", "headers", "fanout")]
    placed = [replace(each, where=Location("a.yaml", index)) for index, each in enumerate(bindings)]
    topology = Topology("", tuple(exchanges), (Queue("q"), Queue("r")), tuple(placed))
    for finding in lint(topology):
        if finding.code in ("same-routing-twice", "swallowed-pattern", "headers-never-match"):
            at = finding.where.line
            without = replace(topology, bindings=(*placed[:at], *placed[at + 1 :]))
            for taken in (key, placed[at].routing_key.replace("*", "z").replace("#", "z")):
                target = Target(placed[at].source, taken)
                assert route(topology, target, headers).queues == route(without, target, headers).queues


dead_letter_arguments = st.fixed_dictionaries(
    {"x-dead-letter-exchange": st.sampled_from(["", "direct", "topic", "fanout"])},
    optional={"x-dead-letter-routing-key": st.sampled_from(["a", "q", "r"]), "x-message-ttl": st.just(1000)},
)
fed = st.builds(
    Binding,
    st.sampled_from(["direct", "topic", "fanout"]),
    st.sampled_from("qrs"),
    st.just("queue"),
    st.sampled_from(["a", "q", "r", "b.c", "#"]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(dead_letter_arguments, min_size=3, max_size=3), st.lists(fed, max_size=5))
def test_the_router_agrees_on_dead_letters_that_lint_calls_lost(
    arguments: list[dict[str, object]], bindings: list[Binding]
) -> None:
    exchanges = [Exchange(kind, kind) for kind in ("direct", "topic", "fanout")]
    queues = [Queue(name, arguments=each) for name, each in zip("qrs", arguments, strict=True)]
    topology = Topology("", tuple(exchanges), tuple(queues), tuple(bindings))
    targets = [*(Target(each.source, each.routing_key) for each in bindings), *(Target("", name) for name in "qrs")]
    letters = [letter for target in targets for letter in dead_letters(topology, route(topology, target))]
    for finding in lint(topology):
        of_queue = [letter for letter in letters if letter.queue == finding.name]
        if finding.code == "dead-letter-nowhere":
            assert any(not letter.route.queues for letter in of_queue)
        if finding.code in ("dead-letter-expiry-cycle", "dead-letter-hot-loop"):
            cycles = [cycle for letter in letters for cycle in letter.cycles if finding.name in cycle]
            assert cycles


def test_a_suppression_removes_its_findings_and_no_others() -> None:
    text = "exchanges: {a: {}, ab: {}, b: {}}\n"
    assert of(text) == ["nothing-bound"] * 3
    findings, suppressed = examine(loads(text + "lint: [{ignore: nothing-bound, name: a*, reason: r}]"))
    assert [finding.name for finding in findings] == ["b"]
    assert [finding.name for finding in suppressed] == ["a", "ab"]


def test_an_unknown_code_in_a_suppression_is_reported_with_a_suggestion() -> None:
    (finding,) = lint(loads("lint: [{ignore: nothing-bond, reason: r}]"))
    assert (finding.code, finding.advice) == ("suppression-unused", "Did you mean nothing-bound?")
    assert (finding.where.line, finding.where.column) == (1, 8)


@pytest.mark.parametrize(
    ("exchange", "key", "told"),
    [
        ("in", "", True),  # on to another exchange, where it ends
        ("in", "a", False),
        ("by-header", "", False),  # whose headers are known to the publisher alone
        ("theirs", "", False),
        ("empty", "", False),  # as nothing-bound
        ("", "q", False),
    ],
)
def test_a_publish_target_is_reported_if_it_certainly_reaches_no_queue(exchange: str, key: str, told: bool) -> None:
    topology = loads(f"""
        exchanges: {{in: {{type: fanout}}, further: {{}}, by-header: {{type: headers}}, empty: {{}}}}
        queues: {{q: {{}}}}
        bindings:
          - {{source: in, destination: further, destination_type: exchange}}
          - {{source: further, destination: q, routing_key: a}}
          - {{source: by-header, destination: q, arguments: {{a: 1}}}}
        external: {{exchanges: [theirs]}}
        publish: {{exchange: "{exchange}", routing_key: "{key}"}}
    """)
    assert ("publish-unroutable" in {finding.code for finding in lint(topology)}) is told


def test_findings_are_sorted_by_file_line_and_code() -> None:
    queues = [Queue(name, False, arguments={"x-message-ttl": 1}) for name in "ba"]
    placed = Queue("c", False, where=Location("a.yaml", 7, 3))
    other = Queue("d", False, where=Location("a.yaml", 12, 3))
    found = lint(Topology(queues=(other, placed, *queues)))
    assert [(finding.code, finding.name) for finding in found] == [
        ("drops-silently", "a"),
        ("drops-silently", "b"),
        ("transient-queue", "a"),
        ("transient-queue", "b"),
        ("transient-queue", "c"),
        ("transient-queue", "d"),
    ]


def cpu_seconds_to_lint(size: int) -> float:
    exchanges = [
        Exchange(f"e{index}", ("topic", "direct", "fanout", "headers")[index % 4]) for index in range(size // 10)
    ]
    arguments = {"x-dead-letter-exchange": "dead", "x-message-ttl": 1000}
    queues = [Queue(f"q{index}", arguments=arguments) for index in range(size)]
    bindings = [
        Binding(f"e{index % (size // 10)}", f"q{index % size}", routing_key=f"a.{index}.*")
        for index in range(10 * size)
    ]
    bindings += [Binding("e0", "q0", routing_key=f"*.{index}.b") for index in range(3 * size)]
    policies = [Policy(f"p{index}", f"^q{index}$", {"max-length": 5}, "queues") for index in range(20)]
    begin = time.process_time()
    lint(Topology("", (*exchanges, Exchange("dead")), tuple(queues), tuple(bindings), policies=tuple(policies)))
    return time.process_time() - begin


def test_the_time_to_lint_a_topology_grows_linearly_with_its_size() -> None:
    cpu_seconds_to_lint(10)  # reads the rules
    assert cpu_seconds_to_lint(800) < 32 * cpu_seconds_to_lint(100)  # 8 times the size: quadratic would be 64


def messages(text: str, code: str) -> list[str]:
    """Return the messages and advice of a rule's findings in a topology."""
    return [f"{finding.message}. {finding.advice}" for finding in lint(loads(text)) if finding.code == code]


def test_an_exchange_without_bindings_names_the_queues_whose_dead_letters_are_lost() -> None:
    queues = ", ".join(f"q{number}: {{arguments: {{x-dead-letter-exchange: dead}}}}" for number in range(5))
    (message,) = messages(f"exchanges: {{dead: {{type: fanout}}}}\nqueues: {{{queues}}}", "nothing-bound")
    assert "so the dead letters of 'q0', 'q1', 'q2' and 2 more are lost. Bind" in message
    alternate = "exchanges: {rest: {}, in: {arguments: {alternate-exchange: rest}}}"
    assert "so messages that 'in' cannot route are lost. Bind" in messages(alternate, "nothing-bound")[0]


def test_dead_letters_that_keep_their_key_may_also_go_by_a_cc_header() -> None:
    text = """
        exchanges: {dead: {}}
        queues: {kept: {arguments: {x-dead-letter-exchange: dead}}, own: {arguments: {x-dead-letter-exchange: dead,
          x-dead-letter-routing-key: own}}, failed: {}}
        bindings: [{source: dead, destination: failed, routing_key: failed}]
    """
    kept, own = messages(text, "dead-letter-nowhere")
    assert kept.endswith("Set x-dead-letter-routing-key to one that leads to a queue, unless a CC header adds one.")
    assert own.endswith("Set x-dead-letter-routing-key to one that leads to a queue.")


def test_a_policy_that_matches_nothing_here_is_a_hint() -> None:
    text = "{queues: {a: {}}, policies: {theirs: {pattern: ^app, definition: {max-length: 1, overflow: drop-head}}}}"
    (finding,) = lint(loads(text))
    assert (finding.code, finding.severity) == ("policy-matches-nothing", "hint")


def test_a_pattern_that_releases_read_differently_for_a_name_is_reported_with_the_name() -> None:
    text = r"{queues: {é: {}, e: {}}, policies: {p: {pattern: '^\w+$', definition: {max-length: 1}}}}"
    (message,) = messages(text, "policy-unread")
    assert message.startswith(r"the pattern '^\\w+$' of policy 'p' matches 'é' or not, depending on the release.")
