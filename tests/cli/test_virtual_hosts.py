"""Topology files that name their virtual host, and their variables, on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import Broker
from tests.support.cli import Run, rmqkit
from tests.support.queues import declare, fill, open_channel

URL = "vhost: {vhost}\nqueues: {{jobs: {{}}}}\npublish: {{exchange: '', routing_key: jobs}}\n"


@pytest.fixture
def vhosts(broker: Broker, vhost_url: str) -> Iterator[tuple[str, str]]:
    """The names of two virtual hosts."""
    first = urlsplit(vhost_url).path.removeprefix("/")
    second = f"{first}-2"
    broker.api("PUT", f"vhosts/{second}")
    yield first, second
    broker.api("DELETE", f"vhosts/{second}")


@pytest.fixture
def files(tmp_path: Path, vhosts: tuple[str, str]) -> list[Path]:
    """A topology file for each virtual host; the second one has its name from a variable."""
    made = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    made[0].write_text(URL.format(vhost=vhosts[0]))
    made[1].write_text(URL.format(vhost="${SECOND:-none}"))
    return made


@pytest.fixture
def run(broker: Broker, vhosts: tuple[str, str], tmp_path: Path) -> Run:
    """Run `rmqkit` with a URL that names no virtual host."""
    state = str(tmp_path / "state")
    own = {"RMQKIT_URL": broker.url, "RMQKIT_API_URL": broker.api_url, "XDG_STATE_HOME": state, "SECOND": vhosts[1]}
    return lambda *arguments, **more: rmqkit(*arguments, env=own | more)


def url_of(broker: Broker, vhost: str) -> str:
    return urlsplit(broker.url)._replace(path=f"/{vhost}").geturl()


def test_one_run_plans_applies_and_destroys_the_files_of_several_virtual_hosts(
    broker: Broker, run: Run, files: list[Path], vhosts: tuple[str, str]
) -> None:
    planned = run("plan", *files)
    assert [line for line in planned.stdout.splitlines() if line.startswith("virtual host")] == [
        f"virtual host {each!r}" for each in vhosts
    ]
    assert f"Variables: SECOND={vhosts[1]} (from the environment)." in planned.stderr
    applied = run("apply", *files, "--json")
    assert applied.returncode == 0, applied.stderr
    assert json.loads(applied.stdout)["vhosts"].keys() == set(vhosts)
    for each in vhosts:
        with open_channel(url_of(broker, each)) as channel:
            channel.queue_declare("jobs", passive=True)
    assert run("plan", *files, "--detailed-exit-code").returncode == 0
    assert run("publish", "--vhost", vhosts[1], "--count", "1").returncode == 0
    used = run("destroy", *files)
    assert (used.returncode, "two.yaml" in used.stderr) == (5, True)
    assert run("plan", *files, "--detailed-exit-code").returncode == 0  # nothing was deleted
    assert run("destroy", *files, "--force").returncode == 0
    assert run("plan", *files, "--detailed-exit-code").returncode == 3


def test_no_virtual_host_is_changed_if_one_has_a_conflict(
    broker: Broker, run: Run, files: list[Path], vhosts: tuple[str, str]
) -> None:
    declare(url_of(broker, vhosts[1]), "jobs", x_max_length=5)
    refused = run("apply", *files)
    assert (refused.returncode, "x-max-length" in refused.stdout) == (5, True)
    assert run("plan", files[0], "--detailed-exit-code").returncode == 3


def test_the_virtual_host_of_a_file_replaces_the_default_one_and_no_other(
    run: Run, files: list[Path], broker: Broker, vhosts: tuple[str, str]
) -> None:
    one = run("apply", files[0])
    assert one.returncode == 0
    assert f"`rmqkit publish --vhost {vhosts[0]}` now publishes to queue 'jobs'" in one.stderr
    for option, value, named in (("--vhost", "/", "/"), ("--url", url_of(broker, "other"), "other")):
        refused = run("plan", files[0], option, value)
        assert refused.returncode == 2
        assert f"one.yaml is {vhosts[0]!r}, but that of {option} is {named!r}" in refused.stderr
    for command in ("plan", "status", "check"):
        assert run(command, files[0], "--vhost", vhosts[0]).returncode == 0
        assert run(command, files[0]).returncode == 0
    with open_channel(url_of(broker, vhosts[0])) as channel:
        fill(channel, "jobs", 1)
    consumed = json.loads(run("consume", "jobs", "--topology", files[0], "-n", "1", "--json").stderr)
    assert consumed["acknowledged"] == 1


def test_an_administrator_creates_a_virtual_host_that_the_files_name_and_others_get_the_command(
    broker: Broker, run: Run, files: list[Path], vhosts: tuple[str, str]
) -> None:
    user, name = f"user {vhosts[0]}", f"new {vhosts[0]}"
    made = name.replace(" ", "%20")
    broker.api("PUT", f"users/{user.replace(' ', '%20')}", b'{"password": "pw", "tags": "management"}')
    broker.api("PUT", f"permissions/%2F/{user.replace(' ', '%20')}", b'{"configure": "", "write": "", "read": ""}')
    where = urlsplit(broker.url)
    own = {
        "RMQKIT_URL": f"amqp://{user.replace(' ', '%20')}:pw@{where.hostname}:{where.port}/",
        "RMQKIT_API_URL": broker.api_url.replace("guest:guest@", ""),
        "SECOND": name,
    }
    try:
        refused = run("apply", files[1], **own)
        assert (refused.returncode, f"rabbitmqctl add_vhost '{name}'" in refused.stderr) == (5, True), refused.stderr
        mistyped = run("apply", files[0], "--vhost", name)  # no file names it
        assert mistyped.returncode == 2
        files[1].write_text(files[1].read_text() + "exchanges: {odd: {type: x-odd}}\n")
        unsupported = run("apply", files[1], SECOND=name)  # nothing is changed
        assert (unsupported.returncode, "x-odd" in unsupported.stdout) == (5, True)
        files[1].write_text(files[1].read_text().replace("type: x-odd", "type: topic"))
        planned = json.loads(run("plan", *files, "--json", SECOND=name).stdout)["vhosts"][name]["entities"]
        assert [(each["kind"], each["outcome"]) for each in planned] == [
            ("vhost", "create"),
            ("exchange", "create"),
            ("queue", "create"),
        ]
        assert name.encode() not in broker.api("GET", "vhosts?columns=name")
        applied = run("apply", files[1], SECOND=name)
        assert applied.returncode == 0, applied.stderr
        assert applied.stdout.splitlines()[1].split() == ["+", "created", "vhost", *name.split()]
        assert run("plan", files[1], "--detailed-exit-code", SECOND=name).returncode == 0
    finally:
        broker.api("DELETE", f"users/{user.replace(' ', '%20')}")
        with suppress(OSError):
            broker.api("DELETE", f"vhosts/{made}")


def test_graph_draws_all_virtual_hosts_and_route_finds_that_of_the_target(
    run: Run, files: list[Path], vhosts: tuple[str, str]
) -> None:
    files[1].write_text(files[1].read_text().replace("jobs", "letters"))
    assert run("validate", *files).returncode == 0
    drawn = run("graph", *files).stdout.splitlines()
    assert [drawn[0], drawn[4]] == [f"virtual host {each!r}" for each in vhosts]
    assert "letters" in drawn[6]
    mermaid, dot = (run("graph", "--format", form, *files).stdout for form in ("mermaid", "dot"))
    frames = [line.strip() for line in mermaid.splitlines() if line.startswith(("  subgraph", "  end"))]
    assert [each[:12] for each in frames] == ["subgraph v0[", "end", "subgraph v1[", "end"]
    assert "n1 ==> n0" in mermaid
    assert "n3 ==> n2" in mermaid
    assert [dot.count(f"subgraph cluster{place}") for place in (0, 1, 2)] == [1, 1, 0]
    assert "letters" in run("route", *files, "-q", "letters").stdout
    assert run("route", files[0], "-q", "jobs").returncode == 0
    assert "jobs" in run("route", *files, "--vhost", vhosts[0]).stdout
    for command, message in (
        (("route", *files), "the target is in several virtual hosts of the files"),
        (("route", *files, "-q", "none"), "the target is in none of the virtual hosts of the files"),
        (("route", *files, "--vhost", "other"), "no file names virtual host 'other'"),
        (("status", *files), "for different virtual hosts"),
    ):
        refused = run(*command)
        assert (refused.returncode, message in refused.stderr) == (2, True), refused.stderr


def test_the_value_of_a_secret_variable_is_neither_shown_nor_saved(live: Run, tmp_path: Path) -> None:
    file = tmp_path / "secret.yaml"
    file.write_text(
        "queues: {jobs: {arguments: {x-key: ${DB_PASSWORD}}}}\npublish: {routing_key: jobs, exchange: ''}\n"
    )
    for arguments in (("plan", file), ("apply", file), ("apply", file, "--json")):
        done = live(*arguments, DB_PASSWORD="c4n4ry")
        assert done.returncode == 0, done.stderr
        assert "c4n4ry" not in done.stdout + done.stderr
    saved = [each for each in (tmp_path / "state").rglob("*") if each.is_file()]
    assert saved
    assert not any("c4n4ry" in each.read_text() for each in saved)
    file.write_text("queues: {other: {}}\npublish: {routing_key: '${DB_PASSWORD}', exchange: amq.topic}\n")
    done = live("apply", file, DB_PASSWORD="c4n4ry")
    assert "a name or key contains the value of DB_PASSWORD" in done.stderr
    assert not any("c4n4ry" in each.read_text() for each in saved)


def test_a_convert_keeps_the_virtual_host_and_literal_braces(run: Run, tmp_path: Path) -> None:
    file, back = tmp_path / "a.yaml", tmp_path / "b.json"
    file.write_text('vhost: shop\nqueues: {q: {arguments: {x-text: "$${A}"}}}\n')
    assert run("convert", file, back).returncode == 0
    (queue,) = json.loads(back.read_text())["queues"]
    assert (queue["vhost"], queue["arguments"]) == ("shop", {"x-text": "${A}"})
    assert "$${A}" in run("convert", back, "-", "--to", "yaml").stdout


def test_an_export_of_all_virtual_hosts_is_planned_without_changes(
    broker: Broker, run: Run, files: list[Path], vhosts: tuple[str, str], tmp_path: Path
) -> None:
    user, folder = f"user-{vhosts[0]}", tmp_path / "live"
    broker.api("PUT", f"users/{user}", b'{"password": "pw", "tags": "policymaker"}')
    try:
        for each in vhosts:  # such a user sees no other virtual host
            broker.api("PUT", f"permissions/{each}/{user}", b'{"configure": ".*", "write": ".*", "read": ".*"}')
        where = urlsplit(broker.url)
        own = {
            "RMQKIT_URL": f"amqp://{user}:pw@{where.hostname}:{where.port}/{vhosts[0]}",
            "RMQKIT_API_URL": broker.api_url.replace("guest:guest@", ""),
        }
        assert run("apply", *files).returncode == 0
        exported = run("export", "--all-vhosts", "-o", folder, **own)
        assert exported.returncode == 0, exported.stderr
        made = [folder / f"{each}.yaml" for each in vhosts]
        assert sorted(folder.iterdir()) == sorted(made)
        assert f"vhost: {vhosts[1]}" in made[1].read_text()
        again = run("export", "--all-vhosts", "-o", folder, **own)
        assert (again.returncode, "nothing was written" in again.stderr) == (2, True)
        assert run("plan", *made, "--detailed-exit-code").returncode == 0
        one = run("plan", "--all-vhosts", made[0], **own)
        assert f"No file describes virtual host {vhosts[1]!r}." in one.stderr
        report = json.loads(run("plan", "--all-vhosts", made[0], "--json", **own).stdout)
        assert (list(report["vhosts"]), report["other_vhosts"]) == ([vhosts[0]], [vhosts[1]])
        definitions = run("export", "--all-vhosts", "-o", folder, "--format", "definitions", **own)
        assert definitions.returncode == 0
        (queue,) = json.loads((folder / f"{vhosts[1]}.json").read_text())["queues"]
        assert (queue["name"], queue["vhost"]) == ("jobs", vhosts[1])
    finally:
        broker.api("DELETE", f"users/{user}")
    for wrong in ((), ("-o", folder, "--vhost", "/")):
        assert run("export", "--all-vhosts", *wrong).returncode == 2
