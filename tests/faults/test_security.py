"""Secrets that change, permissions that are missing, and who may see what (25): all against a real RabbitMQ."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pika
import pytest

import rmqkit
from rmqkit import AccessRefused, AuthenticationFailed, Binding, Exchange, Fate, Message, Policy, Queue, Retry, Topology
from rmqkit.settings import load_settings
from tests.conftest import Broker
from tests.faults.ledger import FaultLedger, identity
from tests.support.cli import COMMAND
from tests.support.cli import rmqkit as command
from tests.support.queues import declare, ready
from tests.support.terminal import prompted
from tests.support.versions import version


@dataclass
class Account:
    """A user of the broker, on a virtual host, with the permissions to configure, write and read what is `mine`."""

    broker: Broker
    url: str
    name: str
    password: str = "first-secret"
    permissions: list[str] = field(default_factory=lambda: ["^mine"] * 3)

    @property
    def login(self) -> str:
        """Its URL, with user and password."""
        return self.url.replace("://", f"://{self.name}:{self.password}@")

    @property
    def vhost(self) -> str:
        """The name of the virtual host."""
        return urlsplit(self.url).path[1:]

    def put(self, path: str, **body: Any) -> None:
        """Create something by RabbitMQ's HTTP API, or change it."""
        self.broker.api("PUT", path, json.dumps(body).encode())

    def change_password(self, password: str) -> None:
        """Change the password."""
        self.password = password
        self.put(f"users/{self.name}", password=password, tags="")

    def permit(self) -> None:
        """Set its permissions."""
        names = ("configure", "write", "read")
        self.put(f"permissions/{self.vhost}/{self.name}", **dict(zip(names, self.permissions, strict=True)))

    def close_connections(self) -> None:
        """Close its connections, as an operator does."""
        self.broker.api("DELETE", f"connections/username/{self.name}")


@pytest.fixture
def user(broker: Broker, vhost_url: str) -> Iterator[Account]:
    """A user on a virtual host of its own."""
    parts = urlsplit(vhost_url)
    name = f"test-{uuid.uuid4().hex[:12]}"
    found = Account(broker, parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), name)
    found.change_password(found.password)
    found.permit()
    yield found
    broker.api("DELETE", f"users/{name}")


@pytest.fixture
def ledger(vhost_url: str, user: Account) -> FaultLedger:
    """The ledger of a queue that is the user's, who may publish to it."""
    declare(vhost_url, "mine")
    user.permissions[1] = "^mine|^amq.default$"
    user.permit()
    return FaultLedger("mine")


def by_file(user: Account, tmp_path: Path) -> tuple[Path, Any]:
    """Write the password to a file; return that, and settings which name it."""
    secret = tmp_path / "secret"
    secret.write_text(user.password)
    secret.chmod(0o600)
    return secret, load_settings([user.url.replace("://", f"://{user.name}@")], password_file=secret, environ={})


@pytest.mark.fault(25)
def test_publishing_and_consuming_resume_with_a_changed_password(
    user: Account, ledger: FaultLedger, vhost_url: str, tmp_path: Path
) -> None:
    secret, settings = by_file(user, tmp_path)

    def stream() -> Iterator[Message | None]:
        for change in range(4):
            yield from ledger.messages(range(change * 2000, change * 2000 + 1000))
            yield None
            user.change_password(f"secret-{change}")
            secret.write_text(user.password)
            user.close_connections()
            yield from ledger.messages(range(change * 2000 + 1000, change * 2000 + 2000))

    with rmqkit.connect(settings=settings) as connection:
        report = connection.publish(stream(), on_settled=ledger.settled)
        ledger.drain(vhost_url)
        assert report.complete
        assert ledger.violations(report) == []
        consumed, missing = FaultLedger("mine"), set(range(3000))
        connection.publish(consumed.messages(range(3000)), on_settled=consumed.settled)
        with connection.consume("mine", prefetch=100, idle_timeout_s=20) as consumer:
            for delivery in consumer:
                consumed.handle(delivery)
                consumer.acknowledge(delivery)
                if len(consumed.handled) in (1000, 2000):
                    user.change_password("secret-" + str(len(consumed.handled)))
                    secret.write_text(user.password)
                    user.close_connections()
                missing.discard(identity(delivery.body) or 0)
                if not missing:
                    break
    assert consumed.consumer_violations(ready(vhost_url, "mine"), 0) == []


@pytest.mark.fault(25)
def test_a_password_file_that_is_empty_while_it_is_replaced_is_waited_for(
    user: Account, ledger: FaultLedger, vhost_url: str, tmp_path: Path
) -> None:
    secret, settings = by_file(user, tmp_path)
    later = threading.Timer(1.0, lambda: secret.write_text(user.password))

    def stream() -> Iterator[Message | None]:
        yield from ledger.messages(range(1000))
        yield None
        user.change_password("another one")
        secret.write_text("")
        later.start()
        user.close_connections()
        yield from ledger.messages(range(1000, 2000))

    with rmqkit.connect(settings=settings) as connection:
        report = connection.publish(stream(), on_settled=ledger.settled)
    later.join()
    ledger.drain(vhost_url)
    assert report.complete
    assert ledger.violations(report) == []


@pytest.mark.fault(25)
def test_a_password_that_is_refused_ends_the_run_and_the_report_adds_up(
    user: Account, ledger: FaultLedger, vhost_url: str, tmp_path: Path
) -> None:
    _, settings = by_file(user, tmp_path)

    def stream() -> Iterator[Message | None]:
        yield from ledger.messages(range(1000))
        yield None
        user.change_password("another one")
        user.close_connections()
        yield from ledger.messages(range(1000, 50_000))

    with rmqkit.connect(settings=settings) as connection, pytest.raises(AuthenticationFailed) as caught:
        connection.publish(stream(), on_settled=ledger.settled)
    assert f"login refused for user {user.name!r}" in caught.value.message
    ledger.drain(vhost_url)
    assert ledger.violations(caught.value.report) == []
    assert ledger.ids(Fate.CONFIRMED) >= set(range(1000))
    assert caught.value.report.unknown > 0


@pytest.mark.fault(25)
@pytest.mark.usefixtures("ledger")
def test_the_commands_end_with_exit_4_and_show_neither_password(user: Account, tmp_path: Path) -> None:
    secret, _ = by_file(user, tmp_path)
    options = ["--url", user.url.replace("://", f"://{user.name}@"), "--password-file", str(secret)]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    publisher = subprocess.Popen([*COMMAND, "publish", "-q", "mine", "--lines", "-", *options], **pipes)
    consumer = subprocess.Popen([*COMMAND, "consume", "mine", *options], **(pipes | {"stdin": subprocess.DEVNULL}))
    try:
        publisher.stdin.write(b"body\n" * 1000)
        publisher.stdin.flush()
        assert b"".join(consumer.stdout.readline() for _ in range(1000)) == b"body\n" * 1000
        user.change_password("another one")
        user.close_connections()
        publisher.stdin.write(b"body\n" * 1000)
        publisher.stdin.close()
        for process in (publisher, consumer):
            said = process.stderr.read().decode()
            assert process.wait(timeout=90) == 4
            assert f"login refused for user {user.name!r}" in said
            assert "Traceback" not in said
            assert "secret" not in said.replace(str(secret), "")
            assert "another one" not in said
    finally:
        for process in (publisher, consumer):
            process.kill()
            process.communicate() if process is consumer else process.wait()
            process.stdout.close()
            process.stderr.close()


@pytest.mark.usefixtures("ledger")
def test_a_password_is_asked_for_on_the_terminal_and_not_echoed(user: Account) -> None:
    url = user.url.replace("://", f"://{user.name}@")
    line = ["publish", "-q", "mine", "x", "--url", url, "--password-prompt"]
    code, out, shown = prompted(line, user.password)
    assert (code, out[:9]) == (0, "Published")
    assert f"Password for amqp://{user.name}:***@" in shown
    code, out, more = prompted(line, "mistyped")
    assert (code, "login refused" in out) == (4, True)
    assert user.password not in out + shown
    assert "mistyped" not in out + more


def test_without_a_terminal_no_password_is_asked_for(user: Account) -> None:
    line = [*COMMAND, "status", "--url", user.url, "--password-prompt"]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True, check=False)
    assert done.returncode == 2
    assert b"--password-prompt needs a terminal" in done.stderr
    assert command("status", "--password-prompt", "--password-file", "x").returncode == 2


@pytest.mark.usefixtures("ledger")
def test_a_password_file_that_others_may_read_is_warned_about_once(user: Account, tmp_path: Path) -> None:
    secret, _ = by_file(user, tmp_path)
    line = ["diff", user.login, user.login.replace(f":{user.password}", ""), "--password-file", str(secret)]
    line += ["--api-url", user.broker.api_url]
    assert "warning" not in command(*line).stderr
    secret.chmod(0o644)
    said = command(*line).stderr.splitlines()  # the broker is looked at twice
    assert said.count(f"warning: {secret}: other users can read this file. Run `chmod 600 {secret}`.") == 1


# What is done, and what it takes in RabbitMQ's eyes; `theirs` are the entities that the user has no permission for.
LACKS: dict[str, tuple[Callable[[rmqkit.Connection], object], list[str]]] = {
    "declare a queue": (
        lambda connection: connection.apply(Topology(queues=(Queue("new's"),))),
        ["configure on queue"],
    ),
    "declare an exchange": (
        lambda connection: connection.apply(Topology(exchanges=(Exchange("new"),))),
        ["configure on exchange"],
    ),
    "name a dead-letter exchange": (
        lambda connection: connection.apply(
            Topology(queues=(Queue("mine.d", arguments={"x-dead-letter-exchange": "theirs"}),))
        ),
        ["write on exchange"],
    ),
    "name an alternate exchange": (
        lambda connection: connection.apply(
            Topology(exchanges=(Exchange("mine.a", arguments={"alternate-exchange": "theirs"}),))
        ),
        ["write on exchange"],
    ),
    "bind a queue": (
        lambda connection: connection.apply(Topology(bindings=(Binding("theirs", "theirs.q", routing_key="k"),))),
        ["write on queue", "read on exchange"],
    ),
    "bind to an exchange": (
        lambda connection: connection.apply(Topology(bindings=(Binding("mine", "theirs", "exchange", "k"),))),
        ["write on exchange"],
    ),
    "bind from an exchange": (
        lambda connection: connection.apply(Topology(bindings=(Binding("theirs", "mine", "exchange", "k"),))),
        ["read on exchange"],
    ),
    "bind with a topic": (
        lambda connection: connection.apply(Topology(bindings=(Binding("mine.t", "mine.q", routing_key="bad.1"),))),
        ["read for topic"],
    ),
    "consume": (lambda connection: next(iter(connection.consume("theirs.q"))), ["read on queue"]),
    "subscribe": (
        lambda connection: connection.subscribe("theirs"),
        ["configure on queue", "write on queue", "read on exchange"],
    ),
    "delete a queue": (
        lambda connection: connection.destroy(Topology(queues=(Queue("theirs.q"),)), force=True),
        ["configure on queue"],
    ),
    "look at a queue": (lambda connection: connection.queue_state("theirs.q"), ["read on queue"]),  # since 4.3
    "look at a queue of one's own": (lambda connection: connection.queue_state("mine.q"), []),
}
_ADVICE = re.compile(
    r"lacks (?:topic )?(\w+) permission (on exchange|on queue|for '[^']*' in exchange) (['\"])(.*?)\3[^`]*"
    r"`rabbitmqctl list_(topic_)?permissions -p (\S+)`[^`]* OLD\|(.*), or replace"
)


def grant(user: Account, error: str) -> str:
    """Do as an error says, by the HTTP API; return in short what it said."""
    found = _ADVICE.search(error)
    assert found, error
    permission, where, _, name, topic, vhost, pattern = found.groups()
    assert vhost == user.vhost
    assert f"User {user.name!r}" in error
    if topic:
        patterns = {"write": "^ok", "read": "^ok", permission: f"^ok|{pattern}"}
        user.put(f"topic-permissions/{quote(vhost)}/{user.name}", exchange=name, **patterns)
        return f"{permission} for topic"
    user.permissions[("configure", "write", "read").index(permission)] += f"|{pattern}"
    user.permit()
    return f"{permission} {where}"


@pytest.fixture
def entities(vhost_url: str, user: Account) -> None:
    """Declare what is the user's, and what is not."""
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        channel = connection.channel()
        for name in ("mine", "theirs"):
            channel.exchange_declare(name, "fanout", durable=True)
            channel.queue_declare(f"{name}.q", durable=True)
        channel.basic_publish("", "theirs.q", b"")
        channel.exchange_declare("mine.t", "topic", durable=True)
    user.put(f"topic-permissions/{user.vhost}/{user.name}", exchange="mine.t", write="^ok", read="^ok")


@pytest.mark.usefixtures("entities")
@pytest.mark.parametrize("deed", LACKS)
def test_a_permission_that_is_missing_is_named_and_the_pattern_shown_grants_it(user: Account, deed: str) -> None:
    do, lacks = LACKS[deed]
    if deed == "look at a queue" and version(user.broker) < (4, 3):
        lacks = []
    granted: list[str] = []
    with rmqkit.connect(user.login) as connection:
        while len(granted) <= len(lacks):
            try:
                do(connection)
            except AccessRefused as refusal:
                granted.append(grant(user, refusal.advice))
            else:
                break
    assert granted == lacks


@pytest.mark.usefixtures("entities")
@pytest.mark.parametrize("deed", LACKS)
def test_an_administrator_is_shown_a_complete_command_that_keeps_the_other_patterns(user: Account, deed: str) -> None:
    do, lacks = LACKS[deed]
    if deed == "look at a queue" and version(user.broker) < (4, 3):
        lacks = []
    settings = load_settings([user.login], api_url=user.broker.api_url, environ={})
    granted = 0
    while granted <= len(lacks):
        try:
            with rmqkit.connect(settings=settings) as connection:
                do(connection)
            break
        except AccessRefused as refusal:
            granted += 1
            enter(user, refusal.advice.split("`")[1])
    assert granted == len(lacks)


def enter(user: Account, command: str) -> None:
    """Do by the HTTP API what a command of rabbitmqctl would; it may only add to the patterns."""
    program, what, option, vhost, name, *exchange, write, read = shlex.split(command)
    assert (program, option, vhost, name) == ("rabbitmqctl", "-p", user.vhost, user.name)
    if what == "set_topic_permissions":
        assert (write.startswith("^ok"), read.startswith("^ok")) == (True, True)
        user.put(f"topic-permissions/{quote(vhost)}/{name}", exchange=exchange[0], write=write, read=read)
        return
    assert what == "set_permissions"
    new = [*exchange, write, read]
    assert all(each.startswith(old) for each, old in zip(new, user.permissions, strict=True))
    assert sum(each != old for each, old in zip(new, user.permissions, strict=True)) == 1
    user.permissions = new
    user.permit()


def test_the_command_replaces_a_pattern_that_grants_nothing(user: Account) -> None:
    user.permissions = ["", "^$", "^mine"]
    user.permit()
    settings = load_settings([user.login], api_url=user.broker.api_url, environ={})
    with pytest.raises(AccessRefused) as caught, rmqkit.connect(settings=settings) as connection:
        connection.apply(Topology(queues=(Queue("mine.q"),)))
    assert f"set_permissions -p {user.vhost} {user.name} '^mine\\.q$' '^$' '^mine'`" in caught.value.advice


def test_a_retry_takes_the_rights_to_read_its_queue_and_to_publish(user: Account, vhost_url: str) -> None:
    retry = Retry((60_000,), "parked")
    topology = Topology(queues=(Queue("job", retry=retry), Queue("parked")))
    with rmqkit.connect(vhost_url) as administrator:
        administrator.apply(topology)
        administrator.publish([Message(b"x", "job")])
    user.permissions = ["^$", "^amq.default$", "^job$"]
    user.permit()

    def fail(_: rmqkit.Delivery) -> None:
        raise ValueError

    with rmqkit.connect(user.login) as connection:
        assert rmqkit.handle(connection, "job", fail, topology=topology, count=1).retried == 1


def test_http_api_errors_name_the_missing_tag_or_the_refused_login(user: Account) -> None:
    def look(login: str, *, apply: bool = False) -> str:
        api_url = user.broker.api_url.rpartition("@")[2]
        settings = load_settings([user.login], api_url=f"http://{login}@{api_url}", environ={})
        policy = Policy("p", "^mine", {"max-length": 5})
        with rmqkit.connect(settings=settings) as connection, pytest.raises(rmqkit.BrokerError) as caught:
            connection.apply(Topology(policies=(policy,))) if apply else connection.live()
        assert user.password not in str(caught.value)
        return f"{type(caught.value).__name__}: {caught.value}"

    assert re.match("AuthenticationFailed: .*login refused for user", look(f"{user.name}:wrong"))
    mine = f"{user.name}:{user.password}"
    without = look(mine)
    assert f"User {user.name!r} lacks the tag management." in without
    assert f"set_user_tags {user.name}" not in without  # it would remove those that cannot be seen
    for tags in ("management", "management,auditor"):
        user.put(f"users/{user.name}", password=user.password, tags=tags)
        line = re.search(rf"`rabbitmqctl set_user_tags {user.name} (.*)`", look(mine, apply=True))
        assert line
        assert sorted(line[1].split()) == sorted([*tags.split(","), "policymaker"])


PUBLISHES = {
    "an exchange": (["-e", "theirs", "-r", "k"], "write on exchange"),
    "a queue": (["-q", "theirs.q"], "write on exchange"),  # through the default exchange, which takes a permission too
    "a topic": (["-e", "mine.t", "-r", "bad.1"], "write for topic"),
}


@pytest.mark.usefixtures("entities")
@pytest.mark.parametrize("to", PUBLISHES)
@pytest.mark.parametrize("seen", [True, False], ids=["with the HTTP API", "without it"])
def test_a_permission_to_publish_that_is_missing_is_named_too(user: Account, to: str, *, seen: bool) -> None:
    target, lacks = PUBLISHES[to]
    api_url = user.broker.api_url if seen else "http://127.0.0.1:1"
    done = command("publish", "hello", *target, env={"RMQKIT_URL": user.login, "RMQKIT_API_URL": api_url})
    assert done.returncode == 5
    if seen:
        enter(user, done.stderr.split("`")[1])
    else:
        assert grant(user, done.stderr) == lacks
    assert command("publish", "hello", *target, env={"RMQKIT_URL": user.login}).returncode in (0, 6)
