"""`rmqkit permissions`: a service with the permissions that it prints can do its work, and nothing else."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from rmqkit.topology.file.loader import load
from tests.conftest import Broker
from tests.support.cli import Run, rmqkit
from tests.support.queues import open_channel, ready
from tests.support.terminal import terminal
from tests.support.versions import version
from tests.support.wait import wait_for_queue

FILE = """
exchanges:
  orders: {type: topic}
  invoices: {type: topic, arguments: {alternate-exchange: unrouted}}
  unrouted: {type: fanout}
  failures: {}
queues:
  billing:
    arguments: {x-dead-letter-exchange: failures, x-dead-letter-routing-key: failed}
    retry: {delays: [1h], then: parked}
  parked: {}
  audit: {}
  failed: {}
bindings:
  - {source: orders, destination: billing, routing_key: "order.#"}
  - {source: failures, destination: failed, routing_key: failed}
  - {source: unrouted, destination: audit}
  - {source: invoices, destination: audit, routing_key: "#"}
services:
  shop: {publishes: [{exchange: orders, routing_keys: [order.*.paid]}]}
  billing: {consumes: [billing], publishes: [{exchange: invoices}]}
  owner: {consumes: [billing], declares: [billing]}
"""


@pytest.fixture
def topology(tmp_path: Path) -> Path:
    file = tmp_path / "shop.yaml"
    file.write_text(FILE)
    return file


@dataclass(frozen=True)
class User:
    """A user without permissions, who acts for a service."""

    broker: Broker
    url: str
    name: str

    @property
    def place(self) -> str:
        """The part of the HTTP API's paths that names it."""
        return f"{urlsplit(self.url).path[1:]}/{self.name}"

    @property
    def login(self) -> str:
        """Its URL, with its password."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=f"{self.name}:p@{parts.netloc.rpartition('@')[2]}").geturl()

    def run(self, *arguments: object) -> Any:
        """Run `rmqkit` as this user, without the HTTP API."""
        return rmqkit(*arguments, env={"RMQKIT_URL": self.login, "RMQKIT_API_URL": "http://127.0.0.1:1"})

    def permissions(self) -> dict[str, str]:
        """Return its patterns, as RabbitMQ's HTTP API has them."""
        found = json.loads(self.broker.api("GET", f"permissions/{self.place}"))
        return {kind: found[kind] for kind in ("configure", "write", "read")}


@pytest.fixture
def user(broker: Broker, vhost_url: str) -> Iterator[User]:
    name = f"test-{uuid.uuid4().hex[:12]}"
    broker.api("PUT", f"users/{name}", b'{"password": "p", "tags": ""}')
    yield User(broker, vhost_url, name)
    broker.api("DELETE", f"users/{name}")


def is_refused(login: str, method: str, *arguments: Any, **more: Any) -> bool:
    """Call a method of pika's channel, and tell whether the broker refuses it for lack of a permission."""
    with pika.BlockingConnection(pika.URLParameters(login)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        try:
            getattr(channel, method)(*arguments, **more)
        except ChannelClosedByBroker as error:
            if error.reply_code != 403:
                raise
            return True
    return False


def test_a_publisher_can_publish_with_its_keys_and_nothing_else(live: Run, user: User, topology: Path) -> None:
    assert live("apply", topology).returncode == 0
    assert live("permissions", topology, "--for", "shop", "--user", user.name, "--apply", "--yes").returncode == 0
    done = user.run("publish", "-e", "orders", "-r", "order.eu.paid", "hello")
    assert done.returncode == 0, done.stderr
    assert ready(user.url, "billing") == 1
    for target in (
        ["-e", "orders", "-r", "order.eu"],
        ["-e", "orders", "-r", ""],
        ["-e", "invoices"],
        ["-q", "billing"],
    ):
        done = user.run("publish", *target, "hello")
        assert (done.returncode, "lacks" in done.stderr) == (5, True), target
    assert user.run("consume", "billing", "-n", 1, "--idle-timeout", 1).returncode == 5
    assert ready(user.url, "billing") == 1
    assert is_refused(user.login, "queue_declare", "other")
    assert is_refused(user.login, "queue_bind", "billing", "orders", "order.eu.paid")
    assert is_refused(user.login, "queue_delete", "billing")


def test_a_consumer_can_consume_retry_and_publish_its_results(live: Run, user: User, topology: Path) -> None:
    assert live("apply", topology).returncode == 0
    assert live("permissions", topology, "--for", "billing", "--user", user.name, "--apply", "--yes").returncode == 0
    assert live("publish", "-e", "orders", "-r", "order.eu.paid", "one", "two").returncode == 0
    with open_channel(user.url) as channel:
        wait_for_queue(channel, "billing", ready=2)
        done = user.run("consume", "billing", "-n", 1, "--exec", "false", "--topology", topology, "--idle-timeout", 5)
        assert done.returncode == 8, done.stderr
        wait_for_queue(channel, "billing.retry.1h", ready=1)
        done = user.run("consume", "billing", "-n", 1, "--idle-timeout", 5)
        assert (done.returncode, done.stderr.startswith("Consumed 1 message")) == (0, True), done.stderr
    assert user.run("publish", "-e", "invoices", "-r", "any.key", "made").returncode == 0
    assert ready(user.url, "audit") == 1
    assert user.run("consume", "audit", "-n", 1, "--idle-timeout", 1).returncode == 5
    assert user.run("publish", "-e", "orders", "-r", "order.eu.paid", "no").returncode == 5
    assert is_refused(user.login, "queue_declare", "billing", durable=True)
    assert is_refused(user.login, "exchange_declare", "invoices", "topic", durable=True)


def test_a_service_that_delays_messages_can_do_so_and_declares_only_the_last_queue(
    live: Run, user: User, tmp_path: Path
) -> None:
    file = tmp_path / "later.yaml"
    file.write_text("delay: true\n" + FILE.replace("{exchange: invoices}", "{exchange: invoices, delay: true}"))
    assert live("apply", file).returncode == 0
    needed = live("permissions", file, "--for", "billing", "--user", user.name, "--apply", "--yes", "--json")
    assert needed.returncode == 0, needed.stderr
    last = r"rmqkit\.delay\.exchange\.invoices"
    assert json.loads(needed.stdout)["configure"] == rf"^(rmqkit\.delay\.deliver|{last})$"
    done = user.run("publish", "-e", "invoices", "-r", "any.key", "--delay", "1s", "later")
    assert done.returncode == 0, done.stderr
    with open_channel(user.url) as channel:
        wait_for_queue(channel, "audit", ready=1)
    refused = user.run("publish", "-e", "orders", "-r", "order.eu.paid", "--delay", "1s", "no")
    assert (refused.returncode, "lacks" in refused.stderr) == (5, True), refused.stderr
    assert is_refused(user.login, "queue_delete", "rmqkit.delay.3")
    file.write_text(file.read_text().replace("delay: true\n", "", 1))
    refused = rmqkit("permissions", file, "--for", "billing")
    assert (refused.returncode, "the files have no `delay: true` at the top level" in refused.stderr) == (2, True)


def test_the_tag_that_a_native_retry_needs_is_named(tmp_path: Path) -> None:
    file = tmp_path / "native.yaml"
    file.write_text(
        "queues: {jobs: {type: quorum, retry: {delays: [1s, 2s], then: parked, native: true}}, parked: {}}\n"
        "services: {worker: {consumes: [jobs]}}\n"
    )
    assert "'worker' also needs the tag management" in rmqkit("permissions", file, "--for", "worker").stderr
    assert json.loads(rmqkit("permissions", file, "--for", "worker", "--json").stdout)["tags"] == ["management"]


def test_a_service_can_declare_what_it_declares_and_nothing_else(live: Run, user: User, topology: Path) -> None:
    with open_channel(user.url) as channel:
        for name, kind in (("orders", "topic"), ("failures", "direct"), ("invoices", "topic")):
            channel.exchange_declare(name, kind, durable=True)
    assert live("permissions", topology, "--for", "owner", "--user", user.name, "--apply", "--yes").returncode == 0
    for queue in load(topology).queues[:2]:  # with the one in which messages wait
        assert not is_refused(user.login, "queue_declare", queue.name, durable=True, arguments=dict(queue.arguments))
    assert not is_refused(user.login, "queue_bind", "billing", "orders", "order.#")
    for key in ("order.*", "", "#"):
        assert is_refused(user.login, "queue_bind", "billing", "orders", key)
    assert is_refused(user.login, "queue_bind", "billing", "invoices", "order.#")
    assert is_refused(user.login, "queue_declare", "audit", durable=True)
    assert is_refused(user.login, "queue_declare", "billing2", durable=True)
    assert is_refused(user.login, "basic_publish", "orders", "order.eu", b"")


def test_the_commands_set_what_the_service_needs(topology: Path) -> None:
    def lines(name: str, *arguments: str) -> tuple[list[str], str]:
        done = rmqkit("permissions", topology, "--for", name, *arguments, env={"RMQKIT_URL": "amqp://h/shop"})
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), done.stderr

    assert lines("shop") == (
        [
            "rabbitmqctl set_permissions -p shop shop '^$' '^orders$' '^$'",
            r"rabbitmqctl set_topic_permissions -p shop shop orders '^order\.[^.]*\.paid$' '^$'",
        ],
        "",
    )
    assert lines("billing", "--user", "b 1") == (
        [
            r"rabbitmqctl set_permissions -p shop 'b 1' '^$' '^(invoices|amq\.default)$' '^billing$'",
            "rabbitmqctl set_topic_permissions -p shop 'b 1' invoices '.*' '^$'",
        ],
        (
            "Write permission on amq.default, the default exchange, lets the user publish to every queue of the virtual"
            " host.\n"
        ),
    )
    report = json.loads("\n".join(lines("owner", "--json")[0]))
    assert report == {
        "user": "owner",
        "vhost": "shop",
        "configure": r"^(billing|billing\.retry\.1h)$",
        "write": r"^(amq\.default|failures|billing)$",
        "read": r"^(billing|billing\.retry\.1h|orders)$",
        "topics": [{"exchange": "orders", "write": "^$", "read": r"^order\.\#$"}],
        "tags": [],
    }


def test_a_service_that_the_files_do_not_have_is_an_error_with_a_suggestion(topology: Path) -> None:
    done = rmqkit("permissions", topology, "--for", "biling")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no service 'biling' in the files\n  Did you mean billing?\n"


def test_what_a_user_had_is_shown_and_replaced_only_after_confirmation(
    live: Run, broker: Broker, user: User, topology: Path
) -> None:
    words = ["permissions", topology, "--for", "shop", "--user", user.name, "--apply"]
    early = live(*words, "--yes")
    assert early.returncode == (5 if version(broker) >= (4,) else 0)
    assert ("must exist: declare it first" in early.stderr) is (version(broker) >= (4,))
    assert live("apply", topology).returncode == 0
    old = {"configure": "^a", "write": r"^b\.b", "read": "^c"}
    broker.api("PUT", f"permissions/{user.place}", json.dumps(old).encode())
    for exchange in ("orders", "amq.topic"):
        body = {"exchange": exchange, "write": "w", "read": "r"}
        broker.api("PUT", f"topic-permissions/{user.place}", json.dumps(body).encode())
    done = live(*words)
    assert (done.returncode, "Add --yes" in done.stderr) == (2, True)
    assert user.permissions() == old
    env = {"RMQKIT_URL": user.url, "RMQKIT_API_URL": broker.api_url}
    with terminal(*words, env=env) as shown:
        shown.read(lambda text: "[y/N]" in text)
        shown.type("n\n")
        code, text = shown.end()
    assert (code, "canceled; nothing was changed" in text) == (2, True)
    assert user.permissions() == old
    done = live(*words, "--yes")
    assert done.returncode == 0
    assert "Before:\n  configure '^a', write '^b\\.b', read '^c'\n" in done.stderr
    assert "topics of 'orders': write 'w', read 'r'" in done.stderr
    assert f"clear_topic_permissions -p {urlsplit(user.url).path[1:]} {user.name} amq.topic` removes it" in done.stderr
    assert user.permissions() == {"configure": "^$", "write": "^orders$", "read": "^$"}
    report = json.loads(live(*words, "--yes", "--json").stdout)
    assert (report["before"]["write"], len(report["before"]["topics"])) == ("^orders$", 2)
    assert [each["exchange"] for each in report["kept_topics"]] == ["amq.topic"]


def test_a_user_who_does_not_exist_is_named_with_the_command_that_creates_it(live: Run, topology: Path) -> None:
    done = live("permissions", topology, "--for", "shop", "--user", "nobody", "--apply", "--yes")
    assert done.returncode == 5
    assert "user 'nobody' does not exist\n  Create it: `rabbitmqctl add_user nobody`." in done.stderr
