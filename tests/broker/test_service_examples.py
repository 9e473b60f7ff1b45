"""The promises of the programs in docs/services, with SQLite and PostgreSQL, and with processes that are killed."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from psycopg import connect

import rmqkit
from rmqkit import Binding, Message
from tests.support import postgresql
from tests.support.queues import open_channel, ready
from tests.support.wait import catches, wait_for_queue, wait_until

PROGRAMS = Path(__file__).parents[2] / "docs/services"
TOPOLOGY = rmqkit.load(str(PROGRAMS / "orders.yaml"))
ORDERS = 100
KILLED = """
import os, signal, sys
import outbox, rmqkit

connection = rmqkit.connect()
publish = connection.publish

def publish_and_die(*arguments, **options):
    publish(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)

connection.publish = publish_and_die
outbox.relay(outbox.connect(sys.argv[1]), connection)
"""
DJANGO = """
import django_app
from django.db import connection
from django.test import Client

with connection.schema_editor() as editor:
    editor.create_model(django_app.Order)
    editor.create_model(django_app.OutboxRow)
client = Client(raise_request_exception=False)
print([client.post(f"/orders/{number}").status_code for number in (7, 8, 8)])
print([row.body for row in django_app.OutboxRow.objects.order_by("id")])
"""


@pytest.fixture(scope="module")
def postgresql_server() -> Iterator[dict[str, str]]:
    with postgresql.server() as variables:
        yield variables


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a new database; the variables by which programs find it are in the environment."""
    if request.param == "sqlite":
        return str(tmp_path / "shop.db")
    for name, value in request.getfixturevalue("postgresql_server").items():
        monkeypatch.setenv(name, value)
    with connect("dbname=postgres", autocommit=True) as server:
        name = f"shop_{server.info.backend_pid}"
        server.execute(f"CREATE DATABASE {name}".encode())
    return f"postgresql:///{name}"


@pytest.fixture
def shop(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL that the programs connect to, where their topology has been applied."""
    monkeypatch.setenv("RMQKIT_URL", vhost_url)
    monkeypatch.syspath_prepend(PROGRAMS)
    with rmqkit.connect(vhost_url) as connection:
        connection.apply(TOPOLOGY)
    return vhost_url


def program(name: str) -> Any:
    return importlib.import_module(name)


def run(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    environment = os.environ | variables
    return subprocess.run(command, cwd=PROGRAMS, env=environment, capture_output=True, text=True, check=False)


@contextmanager
def running(name: str, *arguments: str, log: int | None = None) -> Iterator[None]:
    """Run a program during a block, and end it as a service manager does."""
    process = subprocess.Popen([sys.executable, name, *arguments], cwd=PROGRAMS, stderr=log)
    try:
        yield
    finally:
        wait_until(lambda: catches(process, signal.SIGTERM) or process.poll() is not None)  # it may have just started
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def invoices(outbox: Any, db: Any) -> list[int]:
    rows = outbox.execute(db, "SELECT order_number FROM invoices ORDER BY order_number").fetchall()
    return [number for (number,) in rows]


def unbind(url: str) -> None:
    binding = Binding("orders", "billing", routing_key="order.placed")
    with open_channel(url) as channel:
        channel.queue_unbind(binding.destination, binding.source, binding.routing_key)


def test_fastapi_answers_202_after_the_confirm_and_503_without_it_and_its_worker_bills(shop: str) -> None:
    with TestClient(program("fastapi_app").app) as client:
        assert [client.post(f"/orders/{number}").status_code for number in range(20)] == [202] * 20
        wait_until(lambda: client.get("/billed").json() == list(range(20)))
        unbind(shop)
        assert client.post("/orders/20").status_code == 503


def test_flask_publishes_from_eight_threads_over_one_connection(shop: str) -> None:
    flask_app = program("flask_app")

    def post(number: int) -> int:
        return int(flask_app.app.test_client().post(f"/orders/{number}").status_code)

    try:
        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(post, range(50))) == [202] * 50
        assert ready(shop, "billing") == 50
        assert flask_app.connect.cache_info().misses == 1
        unbind(shop)
        assert post(50) == 503
    finally:
        flask_app.rabbitmq().close()


def test_an_outbox_whose_relay_is_killed_publishes_twice_and_takes_effect_once(shop: str, database: str) -> None:
    outbox, worker = program("outbox"), program("worker")
    with closing(outbox.connect(database)) as db, open_channel(shop) as channel:
        for table in worker.TABLES:
            outbox.execute(db, table)
        for number in range(ORDERS):
            outbox.add(db, "orders", "order.placed", f'{{"order": {number}}}')
        db.commit()
        outbox.add(db, "orders", "order.placed", '{"order": "of a transaction that failed"}')
        db.rollback()

        killed = run(KILLED, database)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        wait_for_queue(channel, "billing", ready=ORDERS)
        with running("outbox.py", database):
            wait_for_queue(channel, "billing", ready=2 * ORDERS)
        assert outbox.execute(db, "SELECT count(*) FROM outbox").fetchone() == (0,)
        with running("worker.py", database), running("worker.py", database):
            wait_until(lambda: invoices(outbox, db))
        with rmqkit.connect(shop) as connection:

            def work_off() -> bool:
                """Handle the rest, in which messages are that the workers requeued when they ended."""
                while count := ready(channel, "billing"):
                    connection.handle("billing", lambda order: worker.bill(db, order), topology=TOPOLOGY, count=count)
                return len(invoices(outbox, db)) >= ORDERS

            wait_until(work_off)
        assert invoices(outbox, db) == list(range(ORDERS))


def test_a_worker_app_bills_each_order_answers_requests_and_ends_with_sigterm(shop: str, tmp_path: Path) -> None:
    def sent() -> list[int]:
        return sorted(map(int, re.findall(r"sent invoice (\d+)", (tmp_path / "log").read_text())))

    with (
        (tmp_path / "log").open("w") as log,
        running("worker_app.py", log=log.fileno()),
        rmqkit.connect(shop) as client,
    ):
        client.publish(Message.json({"order": number}, "order.placed", "orders") for number in range(ORDERS))
        wait_until(lambda: sent() == list(range(ORDERS)))
        assert client.call(Message(b"tea", "prices"), timeout_s=60).body == b"7"
        with pytest.raises(rmqkit.RemoteError, match="no such article: milk"):
            client.call(Message(b"milk", "prices"), timeout_s=60)
    assert [ready(shop, queue) for queue in ("billing", "invoices", "billing_parked")] == [0, 0, 0]


def test_django_stores_an_order_and_its_message_together_or_neither(shop: str, database: str) -> None:
    done = run(DJANGO, DATABASE=database.removeprefix("postgresql:///"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[202, 202, 500]", """['{"order": 7}', '{"order": 8}']"""]

    outbox = program("outbox")
    with closing(outbox.connect(database)) as db, rmqkit.connect(shop) as connection:
        assert outbox.relay(db, connection) == 2
        assert outbox.relay(db, connection) == 0
        assert ready(shop, "billing") == 2
