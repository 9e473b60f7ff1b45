"""`rmqkit top` against a real RabbitMQ: the printed views, and the screen, on which a pilot of textual presses keys."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from textual.pilot import Pilot
from textual.widgets import DataTable, Footer, Static

import rmqkit
from rmqkit.cli import output, top_views
from rmqkit.cli.top_screen import TopScreen
from rmqkit.cli.top_views import VIEWS, Query
from rmqkit.settings import load_settings
from tests.conftest import Broker
from tests.support.cli import Run
from tests.support.clients import client, holder
from tests.support.proxy import Proxy
from tests.support.queues import fill
from tests.support.terminal import terminal
from tests.support.wait import TIMEOUT_S, wait_until


@pytest.fixture
def orders(vhost_channel: BlockingChannel) -> BlockingChannel:
    """Leave five messages in `orders`, two in `billing`, and none in `Empty [1]`."""
    for name in ("billing", "orders", "Empty [1]"):
        vhost_channel.queue_declare(name, durable=True)
    fill(vhost_channel, "orders", 5)
    fill(vhost_channel, "billing", 2)
    return vhost_channel


@pytest.fixture
def worker(vhost_url: str, orders: BlockingChannel) -> Iterator[None]:
    assert orders
    with client(vhost_url, holder("billing", prefetch=1), "billing worker"):
        yield


def names(screen: TopScreen) -> list[str]:
    """Return the queues in the rows of the screen."""
    return [str(row[0]).strip() for row in table(screen)]


def table(screen: TopScreen) -> list[list[Any]]:
    rows: DataTable[Any] = screen.query_one(DataTable)
    return [rows.get_row_at(place) for place in range(rows.row_count)]


def text(screen: TopScreen, name: str) -> str:
    return str(screen.query_one(f"#{name}", Static).content)


def keys(screen: TopScreen) -> set[str]:
    """Return the keys that the footer shows."""
    assert screen.query_one(Footer).display
    return {each.binding.description for each in screen.screen.active_bindings.values() if each.binding.show}


async def until(pilot: Pilot[int], condition: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await pilot.pause(0.02)


def on_screen(
    url: str,
    api_url: str,
    play: Callable[[TopScreen, Pilot[int]], Awaitable[None]],
    query: Query = Query(),  # noqa: B008 - frozen
) -> int:
    """Run the screen of 80x24 characters, and return its exit code."""

    async def run(screen: TopScreen) -> None:
        async with screen.run_test(size=(80, 24)) as pilot:
            await play(screen, pilot)

    settings = load_settings([url], api_url=api_url)
    with rmqkit.connect(settings=settings) as connection:
        screen = TopScreen(connection, VIEWS["queues"], query, all_vhosts=False, interval_s=0.2, place="here")
        asyncio.run(run(screen))
    assert not screen.failure
    return screen.return_value or 0


@pytest.mark.usefixtures("worker")
def test_a_view_is_printed_once_as_text_or_as_json(live: Run) -> None:
    found: dict[str, Any] = {}

    def consumer_is_full() -> bool:
        found.update(json.loads(live("top", "consumers", "--json").stdout))
        return [each["unacknowledged"] for each in found["consumers"]] == [1]

    wait_until(consumer_is_full, lambda: str(found))
    assert (found["view"], found["matching"], found["consumers"][0]["queue"]) == ("consumers", 1, "billing")
    assert found["overview"]["queues"] >= 3
    shown = live("top", "consumers", "--once").stdout.splitlines()[1]
    assert shown.startswith("billing  billing worker  127.0.0.1:")
    assert shown.endswith("full")
    for view, mentioned in {"connections": "billing worker", "channels": "billing worker", "overview": "MiB"}.items():
        done = live("top", view, "--once")
        assert (done.returncode, mentioned in done.stdout) == (0, True), done
    listed = live("top", "--once", "--sort", "queue", "--reverse", "--filter", "[?]")
    assert [line.split("  ")[0] for line in listed.stdout.splitlines()] == ["queue", "Empty [1]"]
    assert "1 queue that match" in listed.stderr
    done = live("top", "--sort", "speed", "--once")
    assert (done.returncode, "ready, unacked" in done.stderr) == (2, True), done
    assert live("top", "--once", RMQKIT_API_URL="http://localhost:9").returncode == 4


def test_a_user_who_sees_only_own_clients_is_told_so(live: Run, broker: Broker, vhost_url: str) -> None:
    where = urlsplit(vhost_url)
    user = f"user-{where.path[1:]}"
    broker.api("PUT", f"users/{user}", b'{"password": "pw", "tags": "management"}')
    try:
        broker.api("PUT", f"permissions{where.path}/{user}", b'{"configure": "", "write": "", "read": ""}')
        url = where._replace(netloc=f"{user}:pw@{where.hostname}:{where.port}").geturl()
        own = {"RMQKIT_URL": url, "RMQKIT_API_URL": broker.api_url.replace("guest:guest@", "")}
        assert "only your own: your user lacks the tag monitoring" in live("top", "channels", "--once", **own).stderr
        assert "only your own" not in live("top", "--once", **own).stderr  # queues are everybody's
    finally:
        broker.api("DELETE", f"users/{user}")


@pytest.mark.usefixtures("worker")
def test_keys_sort_filter_turn_pages_and_open_rows(
    broker: Broker, vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_views, "PAGE_ROWS", 2)
    monkeypatch.setattr("rmqkit.cli.top_screen.PAGE_ROWS", 2)

    async def play(screen: TopScreen, pilot: Pilot[int]) -> None:
        await until(pilot, lambda: names(screen) == ["orders", "billing"])  # the busiest first
        assert text(screen, "news") == "1 to 2 of 3 queues"
        assert keys(screen) == {"View", "Open", "Filter", "Sort", "Reverse", "Next", "Quit"}
        await pilot.press("n")
        await until(pilot, lambda: names(screen) == ["Empty [1]"])
        await pilot.press("s")
        await until(pilot, lambda: names(screen) == ["Empty [1]", "billing"])
        await pilot.press("r")
        await until(pilot, lambda: names(screen) == ["orders", "billing"])
        await pilot.press("down", "enter")
        await until(pilot, lambda: "billing worker" in text(screen, "text"))
        assert text(screen, "text").startswith("classic queue 'billing': ")  # what `rmqkit why` says
        assert keys(screen) == {"View", "Back", "Quit"}
        await pilot.press("escape")
        await until(pilot, lambda: "Open" in keys(screen))
        assert screen.query_one(DataTable).cursor_row == 1
        await pilot.press("slash", *"[1]", "enter")
        await until(pilot, lambda: names(screen) == ["Empty [1]"])
        await pilot.press("escape")
        await until(pilot, lambda: len(names(screen)) == 2)
        await pilot.press("3")
        await until(pilot, lambda: any(name.startswith("billi") for name in names(screen)))
        assert all(len(row) == 9 and sum(map(len, row)) <= 81 for row in table(screen))  # a gap ends the last column
        await pilot.resize_terminal(120, 30)
        await until(pilot, lambda: "billing worker" in names(screen))
        await pilot.press("slash", *"LLING*RK", "enter")
        await until(pilot, lambda: names(screen) == ["billing worker"])
        await pilot.press("enter")
        await until(pilot, lambda: "client name     billing worker" in text(screen, "text"))
        await pilot.press("tab")
        await until(pilot, lambda: "Back" not in keys(screen) and "billing worker" in names(screen))
        await pilot.press("1")
        await until(pilot, lambda: "MiB" in str(table(screen)))
        assert "Open" not in keys(screen)
        await pilot.press("5")
        await until(pilot, lambda: names(screen) == ["billing"])
        await pilot.press("q")

    assert on_screen(vhost_url, broker.api_url, play) == 0


@pytest.mark.usefixtures("orders")
def test_a_broker_that_goes_away_is_reported_and_found_again(broker: Broker, vhost_url: str) -> None:
    with Proxy(vhost_url) as amqp, Proxy(broker.api_url) as api:

        async def play(screen: TopScreen, pilot: Pilot[int]) -> None:
            await until(pilot, lambda: len(names(screen)) == 3)
            for proxy in (amqp, api):
                proxy.refuse()
                proxy.reset()
            await until(pilot, lambda: "s ago; retrying: " in text(screen, "news"))
            assert len(names(screen)) == 3  # what was known stays
            for proxy in (amqp, api):
                proxy.heal()
            await until(pilot, lambda: text(screen, "news") == "The broker answers again.")
            await pilot.press("ctrl+c")

        assert on_screen(amqp.url, api.url, play) == 130


@pytest.mark.usefixtures("orders")
def test_the_screen_leaves_the_terminal_as_it_was(broker: Broker, vhost_url: str) -> None:
    env = {"RMQKIT_URL": vhost_url, "RMQKIT_API_URL": broker.api_url, "NO_COLOR": "1"}
    with terminal("top", "--interval", "0.2", env=env) as shown:
        shown.read(until=lambda text: "orders" in text)
        shown.process.send_signal(signal.SIGTERM)
        code, text = shown.end()
    assert code == 143
    assert text.rindex("\x1b[?1049l") > text.rindex("\x1b[?1049h")  # xterm: back to the normal screen
    assert "\x1b[31m" not in text


def test_a_screen_needs_a_terminal_and_the_extra(live: Run) -> None:
    done = live("top")
    assert (done.returncode, "--once or --json" in done.stderr) == (2, True), done
    with (
        mock.patch.object(output, "is_terminal", lambda stream: stream is not sys.stderr),
        mock.patch.dict(sys.modules, {"textual": None}),
    ):
        done = live("top")
    assert (done.returncode, "pip install 'rmqkit[top]'" in done.stderr) == (2, True), done
