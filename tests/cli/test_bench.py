"""`rmqkit bench`: its numbers add up, its checks find faults, and it leaves nothing on the broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from rmqkit.bench.load import PRESETS
from tests.conftest import Broker
from tests.support.cli import COMMAND, Run
from tests.support.queues import consumers
from tests.support.wait import wait_until

Names = Callable[[], list[str]]


@pytest.fixture
def names(broker: Broker, vhost_url: str) -> Names:
    """The queues and exchanges of benchmarks in the virtual host."""
    vhost = urlsplit(vhost_url).path[1:]

    def names() -> list[str]:
        entities = (json.loads(broker.api("GET", f"{kind}/{vhost}")) for kind in ("queues", "exchanges"))
        return [each["name"] for kind in entities for each in kind if "rmqkit.bench" in each["name"]]

    return names


def report_of(run: Run, *arguments: object) -> dict[str, Any]:
    done = run("bench", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_numbers_of_a_run_add_up_and_its_files_hold_them(live: Run, names: Names, tmp_path: Path) -> None:
    files = ("--csv", tmp_path / "seconds.csv", "--html", tmp_path / "report.html")
    report = report_of(live, "-x", 2, "-y", 3, "--queues", 2, "-s", 16, "-s", 70_000, "-n", 301, *files)

    assert report["published"]["messages"] == report["delivered"]["messages"] == 301
    assert report["check"] == {
        "republished": 0, "redelivered": 0, "published": 301, "confirmed": 301, "expected": 301,
        "unconfirmed": 0, "left": 0, "lost": 0, "duplicated": 0, "out_of_order": 0,
    }  # fmt: skip
    assert report["cpu_s"].keys() == {"producers", "consumers"}
    for times in (report["confirm_ms"], report["latency_ms"]):
        count, *quantiles = times.values()
        assert count == 301
        assert quantiles[0] > 0
        assert sorted(quantiles) == quantiles
    assert sum(each["delivered"] for each in report["seconds"]) == 301
    rows = [line.split(",") for line in (tmp_path / "seconds.csv").read_text().splitlines()]
    assert sum(int(row[rows[0].index("delivered")]) for row in rows[1:]) == 301
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg viewBox") >= 3
    assert "http" not in page
    assert names() == []


def test_every_load_delivers_each_message_as_often_as_it_should(live: Run, names: Names) -> None:
    more: dict[str, tuple[object, ...]] = {"stream": ("-y", 2), "delay": ("--delay", 1), "work": ("--fill-first",)}
    copies = {"fanout": 3, "topic": 2, "stream": 2}
    for name in PRESETS:
        report = report_of(live, name, "-n", 40, *more.get(name, ()))

        assert report["check"]["published"] == report["check"]["confirmed"] == 40, name
        assert report["delivered"]["messages"] == 40 * copies.get(name, 1), name
        assert report["latency_ms"]["min"] < 10_000, name
    assert all("delay" in each for each in names())


def test_dropped_messages_are_counted_as_lost_and_those_without_a_consumer_are_not(
    live: Run, broker: Broker, vhost_url: str
) -> None:
    policy = {"pattern": "^rmqkit.bench", "definition": {"max-length": 10}}
    broker.api("PUT", f"policies/{urlsplit(vhost_url).path[1:]}/short", json.dumps(policy).encode())

    done = live("bench", "--fill-first", "-n", 50)

    assert done.returncode == 6
    assert "Checked 50 messages: 40 lost." in done.stdout
    assert "10 messages in" in done.stdout
    assert report_of(live, "-y", 0, "-n", 7)["check"]["left"] == 7


def test_a_run_that_is_worse_than_an_earlier_one_exits_with_9(live: Run, tmp_path: Path) -> None:
    old = report_of(live, "-n", 50)
    old["published"]["rate"] *= 1000
    (tmp_path / "old.json").write_text(json.dumps(old))

    done = live("bench", "-n", 50, "--compare", tmp_path / "old.json")

    assert done.returncode == 9, done.stderr
    assert "worse" in done.stdout
    other = live("bench", "-n", 50, "-s", 99, "--compare", tmp_path / "old.json")
    assert other.returncode == 2
    assert "sizes [1024] (now [99])" in other.stderr


def test_an_interrupted_run_reports_and_a_killed_one_is_cleaned_up_by_the_next(
    live: Run, environment: dict[str, str], vhost_url: str, vhost_channel: BlockingChannel, names: Names
) -> None:
    command = [*COMMAND, "bench", "topic", "-t", "600", "--rate", "50"]
    runs = [
        subprocess.Popen(command, env=environment | {"RMQKIT_URL": vhost_url}, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    wait_until(lambda: len(found := names()) == 10 and all(has_consumer(vhost_channel, each) for each in found))
    runs[0].kill()
    runs[1].send_signal(signal.SIGINT)

    out, _ = runs[1].communicate()
    runs[0].communicate()

    assert runs[1].returncode == 130, out
    assert "none lost" in out
    assert len(names()) == 5
    report_of(live, "-n", 1)
    assert names() == []


def has_consumer(channel: BlockingChannel, name: str) -> bool:
    return name.count(".") == 2 or consumers(channel, name) > 0  # exchanges have shorter names


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("stream", "-s", "15"), "too small"),
        (("--queues", "3", "-y", "2"), "need at least 3 consumers"),
        (("fanot",), "Did you mean fanout?"),
        (("--delay", "3"), "--delay needs the preset delay"),
        (("--compare", os.devnull), "not a report"),
        (("-n", "5", "--csv", "no/such/folder.csv"), "folder.csv cannot be written: No such file"),
        (("-n", "5", "--html", "/"), "/ cannot be written: Is a directory"),
    ],
)
def test_a_load_that_cannot_run_is_refused(live: Run, names: Names, arguments: tuple[str, ...], fault: str) -> None:
    done = live("bench", *arguments)

    assert done.returncode == 2
    assert fault in done.stderr
    assert done.stdout == ""
    assert names() == []
