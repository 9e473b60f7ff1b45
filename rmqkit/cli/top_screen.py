"""The screen of `rmqkit top`, drawn with textual; a thread fetches the data, and changes nothing on the broker."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.css.query import NoMatches
from textual.message import Message
from textual.widgets import DataTable, Footer, Input, Static

from rmqkit import exit_codes
from rmqkit.administration import Administration
from rmqkit.cli import output, top_views
from rmqkit.cli.top_views import PAGE_ROWS, VIEWS, Query, Snapshot, View
from rmqkit.errors import AuthenticationFailed, ConnectionLost, RmqkitError, Unreachable
from rmqkit.http_api.client import HttpApiClient

SHARE = 4  # a pause between requests is at least this many times as long as the broker took to answer
_GONE = (AuthenticationFailed, ConnectionLost, Unreachable)
_NEWS_S = 10.0  # how long the screen says that the broker answers again
Job = Callable[[HttpApiClient], Any]


class Polled(Message):
    """The result of a job: what it returned, or the exception it raised."""

    def __init__(self, job: Job, result: Any) -> None:
        super().__init__()
        self.job, self.result = job, result


class _Poller(threading.Thread):
    """Repeats the current job and posts its results; reconnects if the broker goes away."""

    def __init__(self, connection: Administration, post: Callable[[Polled], object], interval_s: float) -> None:
        super().__init__(name="rmqkit-top", daemon=True)
        self._connection, self._post, self._interval_s = connection, post, interval_s
        self._api: HttpApiClient | None = None
        self._job: Job | None = None
        self._new = threading.Event()
        self._closed = False

    def do(self, job: Job) -> None:
        """Do another job from now on, the first time at once."""
        self._job = job
        self._new.set()

    def close(self) -> None:
        """Stop after the current request."""
        self._closed = True
        self._new.set()

    def run(self) -> None:
        """Do the jobs."""
        while not self._closed:
            self._new.clear()
            pause_s = self._interval_s
            if job := self._job:
                started_s = time.monotonic()
                result = self._result(job)
                pause_s = max(pause_s, SHARE * (time.monotonic() - started_s))
                self._post(Polled(job, result))
            self._new.wait(pause_s)

    def _result(self, job: Job) -> Any:
        try:
            self._api = self._api or self._connection.http_api()
            return job(self._api)
        except _GONE as error:
            self._api = None
            return error
        except Exception as error:  # noqa: BLE001 - the screen shows it, or ends with it
            return error


class TopScreen(App[int]):
    """The full screen: tabs, totals of the broker, rows of a view or the details of one, and the keys."""

    TITLE = "rmqkit top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Static { height: auto; }
    #news { height: 1; }
    #news.bad { text-style: bold; color: ansi_red; }
    #news.good { color: ansi_green; }
    DataTable { height: 1fr; scrollbar-size: 1 1; }
    VerticalScroll { height: 1fr; display: none; scrollbar-size: 1 1; }
    Input { display: none; height: 1; border: none; padding: 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "turn(1)", "View", key_display="Tab", priority=True),
        Binding("shift+tab", "turn(-1)", show=False, priority=True),
        *(Binding(str(place), f"view({name!r})", show=False) for place, name in enumerate(VIEWS, 1)),
        Binding("enter", "open", "Open", key_display="Enter", priority=True),
        Binding("escape", "back", "Back", key_display="Esc"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("s", "sort", "Sort"),
        Binding("r", "reverse", "Reverse"),
        Binding("n", "page(1)", "Next"),
        Binding("p", "page(-1)", "Prev"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
    ]

    def __init__(
        self, connection: Administration, view: View, query: Query, *, all_vhosts: bool, interval_s: float, place: str
    ) -> None:
        super().__init__()
        self.theme = "ansi-dark"  # the colors of the terminal
        self._connection, self._all_vhosts, self._place = connection, all_vhosts, place
        self.view, self.query_of = view, {name: Query(text=query.text) for name in VIEWS} | {view.name: query}
        self.shown: Snapshot | None = None
        self.failure: Exception | None = None  # a bug, raised once the terminal is restored
        self._opened: Any = None
        self._job: Job | None = None
        self._trouble = ""
        self._asked_s = self._answered_s = self._recovered_s = time.monotonic()
        self._interval_s = interval_s
        self._poller = _Poller(connection, self.post_message, interval_s)

    @property
    def query_now(self) -> Query:
        """Return which rows of the current view are shown."""
        return self.query_of[self.view.name]

    def compose(self) -> ComposeResult:
        """Make the widgets, from top to bottom."""
        yield Static(id="tabs", markup=False)
        yield Static(id="totals", markup=False)
        yield Static(id="news", markup=False)
        yield Input(id="filter", placeholder="part of a name; * and ? are wildcards", compact=True)
        yield DataTable(id="rows", cursor_type="row", cell_padding=0)
        with VerticalScroll(id="details"):
            yield Static(id="text", markup=False)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Start polling; on SIGTERM and SIGHUP, restore the terminal and end the command."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            with suppress(ValueError, NotImplementedError, RuntimeError):
                loop = asyncio.get_running_loop()
                loop.add_signal_handler(number, partial(self.exit, exit_codes.SIGNALLED + number))
        self.query_one(DataTable).focus()
        self.set_interval(1.0, self._draw_news)
        self._ask()
        self._poller.start()

    def on_unmount(self) -> None:
        """Stop polling."""
        self._poller.close()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only keys that have an effect now."""
        filtering = isinstance(self.focused, Input)
        if action in ("interrupt", "back"):
            return action == "interrupt" or filtering or self._opened is not None or bool(self.query_now.text)
        if filtering:
            return False
        if action in ("sort", "reverse", "filter", "page", "open"):
            pages = -(-self.shown.matching // PAGE_ROWS) if self.shown else 1
            has_page = action != "page" or 1 <= self.query_now.page + int(str(parameters[0])) <= pages
            return self._opened is None and has_page and not (action == "open" and self.view.name == "overview")
        return True

    # Keys.

    def action_view(self, name: str) -> None:
        """Show another view."""
        self.view, self._opened, self.shown = VIEWS[name], None, None
        self._ask()

    def action_turn(self, by: int) -> None:
        """Show the next view, or the previous one."""
        names = list(VIEWS)
        self.action_view(names[(names.index(self.view.name) + by) % len(names)])

    def action_sort(self) -> None:
        """Sort by the next column, and after the last one in the view's own order."""
        titles = ["", *(each.title for each in self._columns()[:-1])]
        self._change(sort=titles[(titles.index(self.query_now.sort) + 1) % len(titles)], reverse=False)

    def action_reverse(self) -> None:
        """Reverse the order."""
        self._change(reverse=not self.query_now.reverse)

    def action_page(self, by: int) -> None:
        """Show the next page, or the previous one."""
        self._change(page=self.query_now.page + by)

    def action_filter(self) -> None:
        """Ask for a filter."""
        field = self.query_one(Input)
        field.value, field.display = self.query_now.text, True
        field.focus()
        self.refresh_bindings()

    async def action_back(self) -> None:
        """Close the filter or the details; else remove the filter."""
        if isinstance(self.focused, Input):
            self._close_filter()
        elif self._opened is not None:
            self._opened = None
            self._ask()
        else:
            self._change(text="")

    def action_open(self) -> None:
        """Open the selected row."""
        items, row = self.shown.items if self.shown else (), self.query_one(DataTable).cursor_row
        if self._opened is None and self.view.name != "overview" and row < len(items):
            self._opened = items[row]
            self.query_one("#text", Static).update("Fetching the details.")
            self._ask()

    def action_interrupt(self) -> None:
        """End as after SIGINT."""
        self.exit(exit_codes.SIGNALLED + signal.SIGINT)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Filter."""
        self._close_filter()
        self._change(text=event.value.strip())

    def on_data_table_row_selected(self) -> None:
        """Open the row that was clicked twice."""
        self.action_open()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by a column whose title was clicked; on a second click in reverse."""
        if title := self._columns()[event.column_index].title:
            same = title == self.query_now.sort
            self._change(sort=title, reverse=same and not self.query_now.reverse)

    # Fetching.

    def _change(self, **fields: Any) -> None:
        now = self.query_now
        values = {name: getattr(now, name) for name in ("sort", "reverse", "text")} | fields
        self.query_of[self.view.name] = Query(**values)
        self._ask()

    def _close_filter(self) -> None:
        self.query_one(Input).display = False
        self.query_one(DataTable).focus()

    def _columns(self) -> Any:
        return self.view.table.columns(vhosts=self._all_vhosts)

    def _ask(self) -> None:
        """Fetch the data for the screen, now and at each refresh."""
        if self._opened is None:
            job: Job = partial(top_views.snapshot, view=self.view, query=self.query_now, all_vhosts=self._all_vhosts)
        else:
            job = partial(
                top_views.details,
                view=self.view,
                connection=self._connection,
                item=self._opened,
                columns=self.size.width - 2,
            )
        self._job, self._asked_s = job, time.monotonic()
        self._poller.do(job)
        self._draw()

    def on_polled(self, event: Polled) -> None:
        """Show the broker's answer, or the error."""
        if event.job is not self._job:
            return
        result, now_s = event.result, time.monotonic()
        if isinstance(result, RmqkitError):
            self._trouble = result.message
        elif isinstance(result, Exception):
            self.failure = result
            self.exit(exit_codes.BUG)
            return
        else:
            if self._trouble or self._is_silent(now_s):
                self._recovered_s = now_s
            self._trouble, self._answered_s = "", now_s
            if isinstance(result, Snapshot):
                self.shown = result
            else:
                self.query_one("#text", Static).update(result)
        self._draw()

    # Drawing.

    def on_resize(self) -> None:
        """Draw for the new size."""
        with suppress(NoMatches):  # before the widgets exist
            self._draw() if self._opened is None else self._ask()

    def _draw(self) -> None:
        tabs = Text("rmqkit top ", "bold")
        for place, name in enumerate(VIEWS, 1):
            tabs.append(f" {place} {name} ", "reverse" if name == self.view.name else "")
        self.query_one("#tabs", Static).update(tabs)
        if self.shown:
            found = self.shown.overview
            head = f"{self._place}, RabbitMQ {found.version}"
            lines = [output.shorten(output.safe(head), self.size.width), *top_views.totals(found)]
            text = Text("\n".join(lines), no_wrap=True, overflow="ellipsis")
            if self.shown.alarms:
                text.append(f"\nALARM: publishers are blocked: {', '.join(self.shown.alarms)}", "bold red")
            self.query_one("#totals", Static).update(text)
        self.query_one(DataTable).display = self._opened is None
        self.query_one("#details").display = self._opened is not None
        self._draw_rows()
        self._draw_news()
        self.refresh_bindings()

    def _draw_rows(self) -> None:
        table: DataTable[Text] = self.query_one(DataTable)
        selected = table.cursor_row
        key = None
        if table.row_count:
            key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        top = table.scroll_y
        table.clear(columns=True)
        if not self.shown:
            return
        columns, items = self._columns(), self.shown.items
        gap = "  "
        room = self.size.width - len(gap) * (len(columns) - 1) - 1  # for the scroll bar
        titles, *rows = self.view.table.aligned(items, vhosts=self._all_vhosts, columns=room)
        query = self.query_now
        for column, title in zip(columns, titles, strict=True):
            sorted_by = bool(column.title) and column.title == query.sort
            table.add_column(Text(title, "bold underline" if sorted_by else "bold").append(gap, "not underline"))
        keys = [self.view.identity(item) for item in items]
        for item, row, name in zip(items, rows, keys, strict=True):
            style = self.view.table.remark(item)[1] or ""
            table.add_row(*(Text(cell + gap, style) for cell in row), key=name)
        table.move_cursor(row=keys.index(key) if key in keys else min(selected, len(keys) - 1), scroll=False)
        table.scroll_to(y=top, animate=False, immediate=True)

    def _is_silent(self, now_s: float) -> bool:
        """Tell whether the broker has not answered for longer than a busy broker takes."""
        return now_s - max(self._asked_s, self._answered_s) > 2 * self._interval_s + 3

    def _draw_news(self) -> None:
        """Draw the line about the broker or, if it answers, about the rows shown."""
        now_s, view = time.monotonic(), self.view
        line, kind = "", ""
        age = f"Last update {now_s - self._answered_s:.0f} s ago"  # first: a narrow screen cuts the line off
        if self._trouble:
            line, kind = f"{age}; retrying: {self._trouble}", "bad"
        elif self._is_silent(now_s):
            line, kind = f"{age}: the broker does not answer", "bad"
        elif now_s - self._recovered_s < _NEWS_S and self._recovered_s > self._asked_s:
            line, kind = "The broker answers again.", "good"
        elif self._opened is None and self.shown:
            query = self.query_now
            order = f"; sorted by {query.sort}" if query.sort else ""
            line = top_views.shown(view, self.shown, query) + order + (", reversed" if query.reverse else "")
        news = self.query_one("#news", Static)
        news.set_classes(kind)
        news.update(Text(output.safe(line), no_wrap=True, overflow="ellipsis"))
