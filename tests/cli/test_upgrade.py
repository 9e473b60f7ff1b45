"""`rmqkit validate --rabbitmq`: what an upgrade would refuse or change, in files, definitions and live brokers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika
import pytest

from rmqkit.node import installation
from rmqkit.node.node import Node
from rmqkit.topology.delays import ladder
from rmqkit.topology.lint.linter import upgrade_findings
from rmqkit.topology.lint.releases import parse_release
from tests.conftest import Broker
from tests.support.cli import Run, rmqkit
from tests.support.clients import client
from tests.support.versions import version
from tests.support.wait import wait_until

CASE = Path(__file__).parents[1] / "cases" / "upgrade" / "to_4_3.yaml"
DEFINITIONS = {
    "queues": [
        {"name": "q", "vhost": vhost, "durable": durable, "auto_delete": False, "arguments": {}}
        for vhost, durable in (("shop", False), ("audit", True))
    ],
    "policies": [
        {"name": "m", "vhost": "audit", "pattern": "q", "definition": {"ha-mode": "all"}, "apply-to": "queues"}
    ],
}


def upgrade(run: Any, *arguments: object, code: int) -> list[dict[str, Any]]:
    """Return the findings about a version."""
    done = run("validate", "--json", "--rabbitmq", *arguments)
    assert done.returncode == code, done.stderr
    return list(json.loads(done.stdout)["findings"])


def test_each_version_has_its_own_findings_about_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "queues:\n  q: {durable: false}\n  old: {type: classic, arguments: {x-queue-version: 1}}\n"
    )

    def of(release: str, code: int) -> list[tuple[Any, ...]]:
        def run(*arguments: object) -> Any:
            return rmqkit(*arguments, folder=tmp_path)

        return [(each["severity"], each["code"], each["line"]) for each in upgrade(run, release, "a.yaml", code=code)]

    assert of("3.13", 0) == []
    assert of("4.2", 0) == [("warning", "outdated-setting", 3)]
    assert of("4.3", 2) == [("error", "transient-queue", 2), ("error", "outdated-setting", 3)]
    done = rmqkit("validate", "--rabbitmq", "4.3", "a.yaml", folder=tmp_path)
    assert "a.yaml:3:3: error: in queue 'old', x-queue-version: 1 is a format" in done.stdout
    assert "https://www.rabbitmq.com/docs/classic-queues" in done.stdout
    assert done.stderr == "2 errors in 1 file for RabbitMQ 4.3.\n"


def test_native_retries_and_the_queues_of_delayed_messages_are_known(tmp_path: Path) -> None:
    """No message is delivered from a waiting queue, so the default delivery limit of RabbitMQ 4 is no news there."""
    (tmp_path / "a.yaml").write_text(
        "delay: true\nqueues:\n"
        "  own: {type: quorum, arguments: {x-delivery-limit: 9},"
        " retry: {delays: [1s, 2s], then: parked, native: true}}\n"
        "  old: {type: quorum, arguments: {x-delivery-limit: 9}, retry: {delays: [1s, 2s], then: parked}}\n"
        "  parked: {}\n"
    )

    def of(release: str) -> list[tuple[str, str, str]]:
        done = rmqkit("validate", "--json", "--rabbitmq", release, "a.yaml", folder=tmp_path)
        assert done.returncode == 0, done.stdout
        found = json.loads(done.stdout)["findings"]
        return [(each["severity"], each["name"], each["message"]) for each in found if each["code"] == "upgrade"]

    elsewhere = "failed messages of queue 'own' wait in other queues: its native retry needs RabbitMQ 4.3"
    assert of("4.2") == [("hint", "own", elsewhere)]
    own = "since RabbitMQ 4.3, queue 'own' delays its failed messages itself, and is declared with other arguments"
    assert of("4.3") == [("hint", "own", own)]
    for release in ("3.10", "3.13", "4.0", "4.3", "4.4"):
        assert upgrade_findings(ladder(), parse_release(release)) == ()


def test_definitions_are_checked_for_one_virtual_host_or_all(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps(DEFINITIONS))

    def run(*arguments: object) -> Any:
        return rmqkit(*arguments, folder=tmp_path)

    assert [each["code"] for each in upgrade(run, "4.3", "d.json", "--vhost", "shop", code=2)] == ["transient-queue"]
    found = upgrade(run, "4.3", "d.json", "--all-vhosts", code=2)
    assert {each["code"] for each in found} == {"transient-queue", "outdated-setting"}
    done = run("validate", "--rabbitmq", "4.3", "d.json")
    assert (done.returncode, "Choose with --vhost: audit, shop" in done.stderr) == (2, True)


@pytest.mark.parametrize("words", ["amqp://h", "--all-vhosts a.yaml"])
def test_a_broker_is_checked_only_for_a_version(words: str) -> None:
    done = rmqkit("validate", *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert "need --rabbitmq VERSION" in done.stderr


def test_a_live_broker_is_checked_with_its_clients(live: Run, broker: Broker, vhost_url: str) -> None:
    """Declare on 3.10 what 4.3 refuses or changes; on 4.3 what it still accepts is no change any more."""
    vhost, is_old = vhost_url.rpartition("/")[2], version(broker) < (4,)

    def set_up(channel: Any) -> None:
        channel.basic_qos(prefetch_count=2, global_qos=True)
        channel.queue_declare("replies", auto_delete=True)
        channel.queue_declare("lazy", durable=True, arguments={"x-queue-mode": "lazy"})
        channel.queue_declare("jobs", durable=True, arguments={"x-queue-type": "quorum"})
        channel.queue_declare("drops", durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 5})

    if is_old:
        body = {"pattern": "^lazy$", "definition": {"ha-mode": "all"}}
        broker.api("PUT", f"policies/{vhost}/mirrors", json.dumps(body).encode())
    frame_max = 4096 if is_old else 8192
    with client(f"{vhost_url}?frame_max={frame_max}", set_up, "small frames"):
        found: list[dict[str, Any]] = []

        def is_complete() -> bool:  # RabbitMQ updates channels and connections every five seconds
            found[:] = json.loads(live("validate", "--rabbitmq", "4.3", "--json").stdout)["findings"]
            texts = " ".join(each["message"] for each in found)
            return "frame_max of 4096" in texts and "(global)" in texts if is_old else bool(found)

        wait_until(is_complete, lambda: str(found))
        told = {(each["severity"], each["code"], each["name"]) for each in found}
        assert ("error", "transient-queue", "replies") in told
        gone = {
            ("error", "outdated-setting", "mirrors"),
            ("warning", "outdated-setting", "lazy"),
            ("warning", "delivery-limit-drops", "jobs"),
            ("error", "upgrade", f"RabbitMQ {'.'.join(map(str, version(broker)))}"),
            ("hint", "upgrade", "message-size"),
        }
        assert told & gone == (gone if is_old else set())
        assert not any(name in ("own", "drops") for _, _, name in told)
        if is_old:
            small = next(each for each in found if "frame_max" in each["message"])
            assert (small["severity"], f"Pika Python Client Library {pika.__version__}" in small["message"]) == (
                "error",
                True,
            )
        done = live("validate", "--rabbitmq", "4.3", vhost_url)
        assert (done.returncode, "in 1 virtual host of amqp://" in done.stderr) == (2, True)
        assert f"{vhost}: error: queue 'replies' is transient and not exclusive [transient-queue]" in done.stdout
        names = {each["name"] for each in upgrade(live, "4.3", "--all-vhosts", code=2)}
        assert "replies" in names


def test_what_the_user_may_not_see_is_named(broker: Broker, live: Run, vhost_url: str) -> None:
    name, vhost = f"{vhost_url.rpartition('/')[2]}-user", vhost_url.rpartition("/")[2]
    broker.api("PUT", f"users/{name}", json.dumps({"password": "p", "tags": "management"}).encode())
    try:
        everything = dict.fromkeys(("configure", "write", "read"), ".*")
        broker.api("PUT", f"permissions/{vhost}/{name}", json.dumps(everything).encode())
        login = {"RMQKIT_URL": vhost_url.replace("guest:guest", f"{name}:p")}
        login["RMQKIT_API_URL"] = broker.api_url.replace("guest:guest", f"{name}:p")
        done = live("validate", "--rabbitmq", "4.3", **login)
        missing = "Nodes, and connections of other users, are not shown: "
        assert f"warning: {missing}User {name!r} lacks the tag monitoring." in done.stderr
    finally:
        broker.api("DELETE", f"users/{name}")


def test_feature_flags_that_a_release_on_the_way_requires_are_errors(
    broker: Broker, own_node: Callable[[], Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_one_flag(*arguments: Any) -> dict[str, str]:
        return configuration(*arguments) | {"rabbitmq-env.conf": "FEATURE_FLAGS=quorum_queue\n"}

    configuration = installation.configuration
    monkeypatch.setattr(installation, "configuration", with_one_flag)
    status = own_node().status()

    def run(*arguments: object) -> Any:
        return rmqkit(*arguments, env={"RMQKIT_URL": status.url, "RMQKIT_API_URL": status.management_url})

    def needed(release: str, code: int) -> dict[str, str]:
        found = upgrade(run, release, code=code)
        return {each["name"]: each["message"] for each in found if "feature flag" in each["message"]}

    if version(broker) >= (3, 11):  # it has enabled the required ones itself
        assert needed("4.4", 0) == {}
        return
    assert needed("3.10", 0) == {}
    assert "RabbitMQ 3.11 starts only if" in needed("3.11", 2)["user_limits"]
    assert "stream_queue" not in needed("3.11", 2)
    assert "RabbitMQ 3.12 starts only if" in needed("4.3", 2)["stream_queue"]
    assert "quorum_queue" not in needed("4.3", 2)
