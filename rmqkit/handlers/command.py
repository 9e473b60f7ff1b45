"""Run a command for each delivery: the body is its standard input, its exit code the verdict.

There is no shell, and no part of a message becomes part of the command. A command is started by posix_spawn, which
copies none of this process's memory, as the leader of its own process group: Ctrl-C does not reach it, and a timeout
also ends the processes it started.
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import partial
from itertools import starmap
from queue import Empty, SimpleQueue

from rmqkit.errors import HandlerError, OutputError, RmqkitError, SettingsError
from rmqkit.handlers.handler import OUTPUT_CLOSED, HandledBatch, Source, is_output_closed
from rmqkit.message import Delivery, Origin, Properties, Verdict
from rmqkit.payload import amqp_json
from rmqkit.settings import API_URL_VARIABLE, PASSWORD_VARIABLE, URL_VARIABLES
from rmqkit.stop import Stop
from rmqkit.thread_queue import ThreadQueue

GRACE_S = 30.0  # how long commands may keep running after a stop
KILL_AFTER_S = 5.0  # from SIGTERM to SIGKILL
ACK_WITHIN_S = 0.02  # a command that has ended waits at most this long to be acknowledged together with others
LOW_BACKLOG = 8  # with fewer deliveries waiting, results are acknowledged immediately, so that the broker sends more
_WAIT_S = 0.5  # a long wait, in slices: a signal that arrives just before a wait does not end it
VERDICTS = {0: Verdict.ACK, 3: Verdict.REJECT, 4: Verdict.REQUEUE}  # by exit code; any other is a failure
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores them; a command should not
# Unquoted words by which a shell connects and redirects commands; here they would be arguments.
_SHELL_WORD = re.compile(r"\|\|?|&&?|;|&?\d*(>[>|&]?|<)(&?\d+|[^>=].*)?")
_PREFIX = "RMQKIT_"
_PROPERTIES = tuple(field.name for field in fields(Properties))
_DELIVERY_FIELDS = ("queue", "exchange", "routing_key", "redelivered", "delivery_tag")
_NOT_INHERITED = {
    *(name.encode() for name in (*URL_VARIABLES, API_URL_VARIABLE, PASSWORD_VARIABLE)),  # they contain passwords
    *((_PREFIX + name.upper()).encode() for name in (*_PROPERTIES, *_DELIVERY_FIELDS)),  # of an enclosing command
}


class DeliveryEnvironment:
    """Makes the environment of a command from a delivery; the part that deliveries of one origin share is cached."""

    def __init__(self, queue: str, inherited: Mapping[bytes, bytes]) -> None:
        self._common = {name: value for name, value in inherited.items() if name not in _NOT_INHERITED}
        self._common[b"RMQKIT_QUEUE"] = _value(queue)
        self._last: tuple[Origin, dict[bytes, bytes]] | None = None

    def make(self, delivery: Delivery) -> dict[bytes, bytes]:
        """Return the complete environment for a delivery; any thread may call this."""
        last = self._last
        if last is None or last[0] is not delivery.origin:
            self._last = last = (delivery.origin, self._common | _describe(delivery.origin))
        return last[1] | {
            b"RMQKIT_REDELIVERED": b"true" if delivery.redelivered else b"false",
            b"RMQKIT_DELIVERY_TAG": b"%d" % delivery.delivery_tag,
        }


def _describe(origin: Origin) -> dict[bytes, bytes]:
    fields_by_name = {"exchange": origin.exchange, "routing_key": origin.routing_key}
    for name in _PROPERTIES:
        value = getattr(origin.properties, name)
        if value is not None:
            fields_by_name[name] = _text(name, value)
    return {(_PREFIX + name.upper()).encode(): _value(value) for name, value in fields_by_name.items()}


def _text(name: str, value: object) -> str:
    if name == "headers":
        return json.dumps(amqp_json.to_json(value))
    return amqp_json.format_timestamp(value) if name == "timestamp" else str(value)  # type: ignore[arg-type]


def _value(text: str) -> bytes:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "surrogateescape")


def _shell_word(command: str) -> str | None:
    with suppress(ValueError):  # a quote inside a word
        return next(filter(_SHELL_WORD.fullmatch, shlex.split(command, posix=False)), None)
    return None


def parse(command: str) -> tuple[str, ...]:
    """Split a command line as a shell would; put its program's path first.

    Raises SettingsError if it is not found, or if the command needs a shell.
    """
    try:
        words = shlex.split(command)
    except ValueError as exc:
        raise SettingsError(f"{exc}: {command}") from exc
    if not words:
        raise SettingsError("the command is empty")
    if word := _shell_word(command):
        plain = not set(command) & set("'\"\\$`")
        script = f"\"sh -c '{command}'\"" if plain else "sh -c '...' around the command"
        raise SettingsError(
            f"{word!r} requires a shell, and none is run",
            advice=f"Write {script}, or quote {word} again to pass it as an argument.",
        )
    program = shutil.which(words[0])
    if program is None:
        raise SettingsError(
            f"program {words[0]!r} not found, or not executable", advice="To use a shell, write sh -c '...'."
        )
    return (program, *words)


class CommandHandler:
    """Runs a command for each delivery, `concurrency` at a time for each source.

    `command` is the path of a program, then its arguments, starting with its name. A command that runs for longer than
    `timeout_s` (None: no limit) has failed and is ended, with all processes it started. After a stop, commands may keep
    running for `grace_s`; then they are ended, and their messages requeued.
    """

    def __init__(
        self,
        command: Sequence[str],
        queue: str,
        *,
        concurrency: int = 1,
        timeout_s: float | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        try:
            os.close(os.pidfd_open(os.getpid()))
        except (AttributeError, OSError) as exc:
            raise HandlerError("running commands requires Linux 5.3 or later") from exc
        self._program, *self._arguments = command
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._grace_s = grace_s
        self._environments = DeliveryEnvironment(queue, os.environb)
        self._lock = threading.Lock()
        self._running: list[int] = []  # process groups; their leaders are not reaped yet, so the ids are not reused
        self._ending = False  # a command that fails now was ended by rmqkit

    def handle(self, source: Source, stop: Stop) -> Iterator[HandledBatch]:
        """Run the commands. Raises HandlerError if none can be started, OutputError if their output was closed."""
        pool = _CommandPool(self, source, self._concurrency)
        try:
            for batch in source.batches(busy=pool.is_busy):
                pool.submit(batch)
                yield from pool.results()
            with stop.waking(pool.wake):
                while pool.is_busy() and not stop.requested:
                    yield from pool.results(_WAIT_S)
            yield from self._finish(pool)
        except RmqkitError:
            yield from self._finish(pool)
            raise
        finally:
            pool.shut_down()

    def close(self) -> None:
        """Kill all commands, and the processes they started."""
        self.signal_all(signal.SIGKILL)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to all commands; no more are started, and messages whose command fails are requeued."""
        with self._lock:
            self._ending = True
            for group in self._running:
                _signal(group, number)

    def run(self, delivery: Delivery, output: int = 1, *, on_slow: Callable[[], None] = lambda: None) -> HandledBatch:
        """Run the command for one delivery, with a descriptor for its standard output, and wait for it.

        `on_slow` is called if it does not end soon. Raises HandlerError when it cannot be started, OutputError when it
        failed and the reader of its output has closed it.
        """
        try:
            group = self._start(delivery, output)
        except OSError as exc:
            if exc.errno == errno.E2BIG:  # one variable of more than 128 KiB, or 2 MiB of them
                failure = "the properties are too large for environment variables"
                return HandledBatch((delivery,), Verdict.REJECT, failure)
            raise HandlerError(f"cannot start the command: {exc.strerror}") from exc
        if not group:
            return HandledBatch((delivery,), Verdict.REQUEUE)
        in_time = self._wait(group, on_slow)
        with self._lock:
            self._running.remove(group)
            _, status = os.waitpid(group, 0)
        code = os.waitstatus_to_exitcode(status)
        if in_time and code in VERDICTS:
            return HandledBatch((delivery,), VERDICTS[code])
        if self._ending:
            return HandledBatch((delivery,), Verdict.REQUEUE)
        if in_time and is_output_closed(output, 2):
            raise OutputError(OUTPUT_CLOSED)
        if not in_time:
            failure = f"timed out after {self._timeout_s:g} s"
        else:
            failure = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return HandledBatch((delivery,), Verdict.REJECT, f"the command {failure}")

    def answer(self, request: Delivery) -> bytes:
        """Run the command for a request, and return its standard output; any thread may call this.

        Raises HandlerError when the command does not exit with 0, or not in time.
        """
        output = os.memfd_create("rmqkit-reply")
        try:
            handled = self.run(request, output)
            if handled.verdict is not Verdict.ACK:
                raise HandlerError(handled.failure or "the command refused the request")
            return os.pread(output, os.fstat(output).st_size, 0)
        finally:
            os.close(output)

    def _start(self, delivery: Delivery, output: int) -> int:
        """Start the command and return its process group; return 0 if no more commands are to be started."""
        environment = self._environments.make(delivery)
        body = os.memfd_create("rmqkit-body")  # a file and not a pipe: the command need not read it
        try:
            os.pwrite(body, delivery.body, 0)
            with self._lock:
                if self._ending:
                    return 0
                spawn = partial(
                    os.posix_spawn,
                    self._program,
                    self._arguments,
                    environment,
                    file_actions=[(os.POSIX_SPAWN_DUP2, body, 0), (os.POSIX_SPAWN_DUP2, output, 1)],
                    setpgroup=0,
                    setsigdef=_DEFAULT_SIGNALS,
                )
                # In one step: a signal handler may raise between two, and nothing would end the command.
                self._running.extend(starmap(spawn, ((),)))
                return self._running[-1]
        finally:
            os.close(body)

    def _wait(self, group: int, on_slow: Callable[[], None]) -> bool:
        """Wait until a command has ended; after the timeout, end it and return False."""
        ended = select.poll()
        process = os.pidfd_open(group)
        try:
            ended.register(process, select.POLLIN)
            if ended.poll(ACK_WITHIN_S * 1000):
                return True
            on_slow()
            if ended.poll(None if self._timeout_s is None else self._timeout_s * 1000):
                return True
            _signal(group, signal.SIGTERM)
            ended.poll(KILL_AFTER_S * 1000)
            _signal(group, signal.SIGKILL)  # the rest of the group
            ended.poll()
            return False
        finally:
            os.close(process)

    def _finish(self, pool: _CommandPool) -> Iterator[HandledBatch]:
        """Drop the deliveries that were not started, and wait for running commands; end those that take too long."""
        pool.drop_waiting()
        for wait_s, number in (
            (self._grace_s, signal.SIGTERM),
            (KILL_AFTER_S, signal.SIGKILL),
            (KILL_AFTER_S, signal.SIGKILL),
        ):
            due_s = time.monotonic() + wait_s
            while pool.is_busy() and (left_s := due_s - time.monotonic()) > 0:
                yield from pool.results(min(left_s, _WAIT_S))
            if pool.is_busy():
                self.signal_all(number)


class _CommandPool:
    """The threads that each run one command at a time, for one source."""

    def __init__(self, handler: CommandHandler, source: Source, size: int) -> None:
        self._handler = handler
        self._source = source
        self._waiting: SimpleQueue[Delivery | None] = SimpleQueue()  # of all threads; never got with a timeout
        self._done: ThreadQueue[HandledBatch | BaseException | None] = ThreadQueue()
        self._woken_s = 0.0  # when the source was last woken
        self._unfinished = 0  # submitted, and neither returned as results nor dropped
        self._threads = [threading.Thread(target=self._work, name="rmqkit-exec", daemon=True) for _ in range(size)]
        for thread in self._threads:
            thread.start()

    def is_busy(self) -> bool:
        """Return whether any results are outstanding."""
        return self._unfinished > 0

    def submit(self, deliveries: Sequence[Delivery]) -> None:
        """Queue deliveries for the commands, in this order."""
        self._unfinished += len(deliveries)
        for delivery in deliveries:
            self._waiting.put(delivery)

    def drop_waiting(self) -> None:
        """Drop the deliveries that were not started."""
        with suppress(Empty):
            while True:
                self._waiting.get_nowait()
                self._unfinished -= 1

    def results(self, timeout_s: float = 0.0) -> Iterator[HandledBatch]:
        """Yield the results, waiting up to `timeout_s` for the first; raise the error that ended a thread."""
        with suppress(Empty):
            while True:
                done = self._done.get(timeout_s)
                timeout_s = 0.0
                if done is None:
                    continue
                self._unfinished -= 1
                if isinstance(done, BaseException):
                    raise done
                yield done

    def wake(self) -> None:
        """End a wait in `results`; a signal handler may call this."""
        self._done.put(None)

    def shut_down(self) -> None:
        """Start nothing more, and let the threads end."""
        self.drop_waiting()
        for _ in self._threads:
            self._waiting.put(None)

    def _work(self) -> None:
        while (delivery := self._waiting.get()) is not None:
            try:
                if self._source.is_lost(delivery):
                    self._done.put(HandledBatch((delivery,), Verdict.REQUEUE))
                else:
                    with self._source.handling((delivery,)):
                        handled = self._handler.run(delivery, on_slow=self._wake_source)
                    self._done.put(handled)
            except BaseException as exc:  # noqa: BLE001 - raised again by `results`
                self._done.put(exc)
            if self._waiting.qsize() < LOW_BACKLOG or time.monotonic() - self._woken_s >= ACK_WITHIN_S:
                self._wake_source()  # else the next command does, when it ends or turns out to be slow

    def _wake_source(self) -> None:
        """Have the results fetched; doing so after each command would cost more than a short command does."""
        self._woken_s = time.monotonic()
        self._source.wake()


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
