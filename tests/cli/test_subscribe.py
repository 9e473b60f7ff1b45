"""`rmqkit subscribe`: consume from an exchange, through a temporary queue or a durable one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from rmqkit import Message
from tests.conftest import Broker, Namespace
from tests.support.cli import Run
from tests.support.proxy import Proxy
from tests.support.versions import untyped
from tests.support.wait import wait_until


@contextmanager
def subscriber(environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run `rmqkit subscribe` while the block runs, from when it is subscribed."""
    command = [sys.executable, "-m", "rmqkit", "subscribe", *arguments]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stderr
            line = process.stderr.readline()
            assert line.startswith("Subscribed to exchange"), line + process.stderr.read()
            yield process
        finally:
            process.kill()


@pytest.fixture
def exchange(channel: BlockingChannel, namespace: Namespace) -> Callable[[str], str]:
    """Declare an exchange of a type."""

    def declare(kind: str) -> str:
        name = namespace.exchange(kind)
        channel.exchange_declare(name, kind, durable=True)
        return name

    return declare


def await_unbound(broker: Broker, exchange: str) -> None:
    wait_until(
        lambda: not json.loads(broker.api("GET", f"exchanges/%2F/{exchange}/bindings/source")),
        "the queue still exists",
    )


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        ("topic", ["-r", "*.eu", "-r", "order.#"], "order.eu order.us "),
        ("topic", [], "order.eu order.us letter.us "),
        ("direct", ["-r", "letter.us"], "letter.us "),
        ("fanout", [], "order.eu order.us letter.us "),
        ("headers", [], "order.eu order.us letter.us "),
        ("headers", ["-H", "n:=1", "-H", "n2:=2"], "order.us "),
        ("headers", ["-H", "n:=1", "-H", "n2:=2", "--match", "any"], "order.us letter.us "),
        ("fanout", ["--filter", "routing_key == 'letter.us'", "-n", "1"], "letter.us "),
    ],
)
def test_a_subscriber_prints_new_messages_and_leaves_nothing_behind(
    *,
    kind: str,
    arguments: list[str],
    expected: str,
    exchange: Callable[[str], str],
    channel: BlockingChannel,
    environment: dict[str, str],
    broker: Broker,
) -> None:
    name = exchange(kind)
    channel.basic_publish(name, "order.eu", b"too early")
    with subscriber(environment, name, *arguments, "--idle-timeout", "0.5") as process:
        headers = [{}, {"n": 1, "n2": 2}, {"n": 3, "n2": 2}]
        for key, table in zip(("order.eu", "order.us", "letter.us"), headers, strict=True):
            channel.basic_publish(name, key, key.encode(), pika.BasicProperties(headers=table))
        out, err = process.communicate(timeout=90)
    assert (process.returncode, out) == (0, expected.replace(" ", "\n")), err
    await_unbound(broker, name)


def test_the_queue_is_exclusive_and_bounded_and_deleted_after_kill_9(
    exchange: Callable[[str], str], environment: dict[str, str], broker: Broker
) -> None:
    name = exchange("topic")
    with subscriber(environment, name, "-r", "#") as process:
        (binding,) = json.loads(broker.api("GET", f"exchanges/%2F/{name}/bindings/source"))
        queue = json.loads(broker.api("GET", f"queues/%2F/{binding['destination']}"))
        process.kill()
    assert (queue["durable"], queue["auto_delete"], queue["exclusive"]) == (False, True, True)
    assert untyped(queue["arguments"]) == {"x-max-length": 10_000, "x-overflow": "drop-head"}
    await_unbound(broker, name)


@pytest.mark.parametrize(
    ("kind", "arguments", "code", "message"),
    [
        (
            "",
            ["no.such.exchange"],
            5,
            "404 NOT_FOUND - no exchange 'no.such.exchange' in vhost '/'\n  Apply the topology",
        ),
        ("", [""], 2, "the default exchange takes no bindings"),
        (
            "direct",
            [],
            2,
            "is of type direct: it cannot be subscribed to without routing keys\n  Name the routing keys",
        ),
        ("topic", ["-H", "a=b"], 2, "is of type topic, which ignores headers"),
        ("topic", ["-H", "a"], 2, "Header 'a' has no value"),
    ],
)
def test_an_impossible_subscription_is_an_error_and_leaves_no_queue(
    *,
    kind: str,
    arguments: list[str],
    code: int,
    message: str,
    exchange: Callable[[str], str],
    namespace: Namespace,
    channel: BlockingChannel,
    environment: dict[str, str],
) -> None:
    from tests.support.cli import rmqkit as run  # noqa: PLC0415 - the name is the library's here

    names = [exchange(kind)] if kind else []
    kept = namespace.queue("kept")
    done = run("subscribe", *names, *arguments, "--durable", kept, env=environment)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="no queue"):
        channel.queue_declare(kept, passive=True)


def test_a_durable_subscription_collects_messages_until_it_is_removed(live: Run) -> None:
    assert live("apply", "topologies/topics.yaml").returncode == 0
    subscribe = ("subscribe", "orders", "--durable", "ada")
    first = live(*subscribe, "-r", "order.eu.#", "--idle-timeout", "0")
    assert (first.returncode, "warning" in first.stderr) == (0, False), first.stderr
    live("publish", "-e", "orders", "-r", "order.eu.paid", "one", "two")
    live("publish", "-e", "orders", "-r", "order.us.paid", "elsewhere")
    again = live(*subscribe, "-n", "1", stdin="\n")
    assert (again.stdout, "warning" in again.stderr) == ("one\n", False), again.stderr
    more = live(*subscribe, "-r", "order.us.#", "-r", "order.eu.#", "--idle-timeout", "0")
    assert "queue 'ada' keeps its bindings; added: orders -> ada [order.us.#]\n" in more.stderr
    live("publish", "-e", "orders", "-r", "order.us.paid", "three")

    refused = live("unsubscribe", "ada")
    assert (refused.returncode, "queue 'ada' has 2 messages" in refused.stderr) == (5, True), refused.stderr
    assert live(*subscribe, "-n", "2", stdin="\n").stdout == "two\nthree\n"
    live("publish", "-e", "orders", "-r", "order.us.paid", "four")
    removed = live("unsubscribe", "ada", "--force")
    assert (removed.returncode, removed.stderr) == (0, "Removed queue 'ada', with 1 message.\n")
    assert live("unsubscribe", "ada").returncode == 5


@pytest.mark.unguessed_api
def test_only_the_queue_of_a_subscription_is_removed_without_force(live: Run, vhost_url: str) -> None:
    assert live("apply", "topologies/topics.yaml").returncode == 0
    assert live("subscribe", "orders", "-r", "x", "--durable", "orders_audit", "--idle-timeout", "0").returncode == 0
    refused = live("unsubscribe", "orders_audit")  # which got one binding more, and is the topology's still
    assert (refused.returncode, "queue 'orders_audit' is not a subscription" in refused.stderr) == (5, True)
    with rmqkit.connect(vhost_url) as blind:
        blind.subscribe("orders", ["x"], durable="ada")
        with pytest.raises(rmqkit.PropertyMismatch, match="cannot tell whether queue 'ada' is a subscription"):
            blind.unsubscribe("ada")
        blind.unsubscribe(blind.subscribe("orders"))  # its own it knows
    assert live("unsubscribe", "ada").returncode == 0
    assert live("unsubscribe", "orders_audit", "--force").returncode == 0


def test_a_message_that_breaks_the_contract_of_the_exchange_is_skipped_or_goes_to_invalid_to(
    live: Run, vhost_url: str, vhost_channel: BlockingChannel, tmp_path: Path
) -> None:
    (tmp_path / "text.json").write_text('{"type": "string"}')
    (tmp_path / "news.yaml").write_text(
        "exchanges: {news: {type: fanout, contract: {format: json, schema: text.json}}}\nqueues: {odd: {}}\n"
    )
    assert live("apply", str(tmp_path / "news.yaml")).returncode == 0
    subscribe = ("subscribe", "news", "--durable", "ada", "--idle-timeout", "0.5")
    assert live(*subscribe).returncode == 0
    for more, parked in ((("--on-failure", "reject"), 0), (("--invalid-to", "odd", "--workers", "2"), 1)):
        with rmqkit.connect(vhost_url) as connection:
            connection.publish(Message(body, exchange="news") for body in (b'"good"', b"7"))
        done = live(*subscribe, *more, stdin="\n")
        assert (done.returncode, done.stdout) == (8, '"good"\n'), done.stderr
        assert "the value breaks the rule type" in done.stderr
        assert vhost_channel.queue_declare("odd", passive=True).method.message_count == parked


@pytest.mark.parametrize("more", [["--workers", "2"], ["--invalid-to", "odd"], ["--to-exchange", "amq.topic"]])
def test_contradictory_options_of_a_subscription_are_a_usage_error(more: list[str], live: Run) -> None:
    assert live("subscribe", "amq.topic", *more).returncode == 2


@pytest.mark.unguessed_api
def test_a_durable_subscription_works_without_the_http_api(vhost_url: str, vhost_channel: BlockingChannel) -> None:
    vhost_channel.exchange_declare("news", "topic")
    warnings: list[str] = []
    with rmqkit.connect(vhost_url) as connection:
        for keys in (["a"], [], ["b"]):
            assert connection.subscribe("news", keys, durable="ada", on_warning=warnings.append) == "ada"
        for key in "abc":
            connection.publish(Message(key.encode(), key, exchange="news"), check=False)
        bodies = [each.body for each in connection.consume("ada", count=2)]
    assert bodies == [b"a", b"b"]
    assert [("is unchanged" in warning, "other bindings" in warning) for warning in warnings] == [
        (True, False),
        (False, True),
    ]


def test_a_private_queue_keeps_the_newest_messages(broker_url: str, exchange: Callable[[str], str]) -> None:
    name = exchange("fanout")
    with rmqkit.connect(broker_url) as connection:
        queue = connection.subscribe(name, max_length=3)
        connection.publish(Message(b"%d" % number, exchange=name) for number in range(10))
        assert [each.body for each in connection.consume(queue, count=3)] == [b"7", b"8", b"9"]


def test_after_a_lost_connection_the_queue_is_declared_and_bound_again(
    broker_url: str, exchange: Callable[[str], str]
) -> None:
    name = exchange("topic")
    warnings: list[str] = []
    heard = threading.Event()

    def publish(connection: rmqkit.Connection) -> None:
        while not heard.wait(0.05):  # until a queue is bound again
            connection.publish(Message(b"after", "a", exchange=name), check=False)

    with Proxy(broker_url) as proxy, rmqkit.connect(proxy.url) as connection, rmqkit.connect(broker_url) as other:
        queue = connection.subscribe(name, ["a"])
        other.publish(Message(b"before", "a", exchange=name))
        consumer = connection.consume(queue, on_warning=warnings.append, idle_timeout_s=20)
        deliveries = iter(consumer)
        assert next(deliveries).body == b"before"
        proxy.reset()
        publisher = threading.Thread(target=publish, args=(other,))
        publisher.start()
        try:
            bodies = {delivery.body for delivery, _ in zip(deliveries, range(2), strict=False)}
        finally:
            heard.set()
            publisher.join()
    assert b"after" in bodies
    assert len(warnings) == 2
    assert warnings[1] == f"reconnected: consuming from queue {consumer.queue!r} again"
    assert warnings[0].endswith("subscribing again; messages that were waiting, or are published until then, are lost")
    assert consumer.queue != queue
