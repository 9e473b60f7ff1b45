"""Deliveries to commands: a process each, the body on its standard input, its exit code the verdict.

There is no shell, and no part of a message becomes part of the command. A command is started by posix_spawn, which
copies nothing of our memory, as the leader of a process group of its own: Ctrl-C does not reach it, and a timeout ends
whatever it started too.
"""

from __future__ import annotations

import errno
import json
import os
import select
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from queue import Empty, SimpleQueue

from rmqkit.errors import HandlerError, OutputError, RmqkitError, SettingsError
from rmqkit.handlers.handler import HandledBatch, Source, readers_are_gone
from rmqkit.message import Delivery, Origin, Properties, Verdict
from rmqkit.payload import amqp_json
from rmqkit.settings import API_URL_VARIABLE, PASSWORD_VARIABLE, URL_VARIABLES
from rmqkit.stop import Stop

_PREFIX = "RMQKIT_"
_PROPERTIES = tuple(field.name for field in fields(Properties))
_OF_A_DELIVERY = ("queue", "exchange", "routing_key", "redelivered", "delivery_tag")
_NOT_INHERITED = {
    *(name.encode() for name in (*URL_VARIABLES, API_URL_VARIABLE, PASSWORD_VARIABLE)),  # they hold passwords
    *((_PREFIX + name.upper()).encode() for name in (*_PROPERTIES, *_OF_A_DELIVERY)),  # of a message around us
}


class DeliveryEnvironment:
    """Deliveries of one queue to environments; what deliveries of one origin share is made once."""

    def __init__(self, queue: str, inherited: Mapping[bytes, bytes]) -> None:
        self._common = {name: value for name, value in inherited.items() if name not in _NOT_INHERITED}
        self._common[b"RMQKIT_QUEUE"] = _value(queue)
        self._last: tuple[Origin, dict[bytes, bytes]] | None = None

    def make(self, delivery: Delivery) -> dict[bytes, bytes]:
        """Return the whole environment of the command for a delivery; any thread may call this."""
        last = self._last
        if last is None or last[0] is not delivery.origin:
            self._last = last = (delivery.origin, self._common | _describe(delivery.origin))
        return last[1] | {
            b"RMQKIT_REDELIVERED": b"true" if delivery.redelivered else b"false",
            b"RMQKIT_DELIVERY_TAG": b"%d" % delivery.delivery_tag,
        }


def _describe(origin: Origin) -> dict[bytes, bytes]:
    told = {"exchange": origin.exchange, "routing_key": origin.routing_key}
    for name in _PROPERTIES:
        value = getattr(origin.properties, name)
        if value is not None:
            told[name] = _text(name, value)
    return {(_PREFIX + name.upper()).encode(): _value(value) for name, value in told.items()}


def _text(name: str, value: object) -> str:
    if name == "headers":
        return json.dumps(amqp_json.to_json(value))
    return amqp_json.format_timestamp(value) if name == "timestamp" else str(value)  # type: ignore[arg-type]


def _value(text: str) -> bytes:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "surrogateescape")


GRACE_S = 30.0  # how long commands may run on after a stop
KILL_AFTER_S = 5.0  # from SIGTERM to SIGKILL
TELL_WITHIN_S = 0.02  # a command that has ended waits this long at most for others, to be acknowledged with them
PLENTY = 8  # commands to be begun; with fewer, what has ended is acknowledged at once, so that the broker sends more
_WAIT_S = 0.5  # a long wait, in slices: a signal that comes just before a wait does not end it
VERDICTS = {0: Verdict.ACK, 3: Verdict.REJECT, 4: Verdict.REQUEUE}  # by exit code; all others are failures
_RESTORED = (signal.SIGPIPE, signal.SIGXFSZ)  # what Python ignores, a command should not


def parse(command: str) -> tuple[str, ...]:
    """Split a command line as a shell would, and find its program, whose path comes first.

    Raises SettingsError if it is not there.
    """
    try:
        words = shlex.split(command)
    except ValueError as exc:
        raise SettingsError(f"--exec: {exc}: {command}") from exc
    if not words:
        raise SettingsError("--exec: there is no command")
    program = shutil.which(words[0])
    if program is None:
        raise SettingsError(
            f"--exec: there is no program {words[0]!r} that can be run", advice="For a shell write: sh -c '...'"
        )
    return (program, *words)


class CommandHandler:
    """Runs a command for each delivery, `concurrency` at a time for each source.

    `command` is a program's path and its arguments, the name it is called by first. One that runs for longer than
    `timeout_s` is ended, with all it started, and counts as failed; None means no end. After a stop commands may run on
    for `grace_s`; then they are ended, and their messages given back.
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
            raise HandlerError("commands are run on Linux only, from version 5.3 on") from exc
        self._program, *self._arguments = command
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._grace_s = grace_s
        self._environments = DeliveryEnvironment(queue, os.environb)
        self._lock = threading.Lock()
        self._running: set[int] = set()  # process groups whose leader was not reaped, so that no other has its number
        self._ending = False  # what does not end well now was ended by us

    def handle(self, source: Source, stop: Stop) -> Iterator[HandledBatch]:
        """Run commands for what comes.

        Raises HandlerError when none can be started, OutputError when nobody reads any more what they print.
        """
        crew = _CommandPool(self, source, self._concurrency)
        try:
            for batch in source.batches(busy=crew.is_busy):
                crew.give(batch)
                yield from crew.take()
            with stop.waking(crew.wake):
                while crew.is_busy() and not stop.requested:
                    yield from crew.take(_WAIT_S)
            yield from self._wind_up(crew)
        except RmqkitError:
            yield from self._wind_up(crew)
            raise
        finally:
            crew.dismiss()

    def close(self) -> None:
        """Kill all commands, and what they started."""
        self.end(signal.SIGKILL)

    def end(self, number: signal.Signals) -> None:
        """Send all commands a signal; no others are started, and what fails now is given back."""
        with self._lock:
            self._ending = True
            for group in self._running:
                _signal(group, number)

    def run(self, delivery: Delivery, output: int = 1, *, on_slow: Callable[[], None] = lambda: None) -> HandledBatch:
        """Run the command for one delivery, with a descriptor for its standard output, and wait for it.

        `on_slow` is called if it does not end soon. Raises HandlerError when it cannot be started, OutputError when it
        failed and nobody reads its output.
        """
        try:
            group = self._start(delivery, output)
        except OSError as exc:
            if exc.errno == errno.E2BIG:  # one variable of more than 128 KiB, or 2 MiB of them
                return HandledBatch(
                    (delivery,), Verdict.REJECT, "the properties are too large for environment variables"
                )
            raise HandlerError(f"the command cannot be started: {exc.strerror}") from exc
        if not group:
            return HandledBatch((delivery,), Verdict.REQUEUE)
        in_time = self._wait(group, on_slow)
        with self._lock:
            self._running.discard(group)
            _, status = os.waitpid(group, 0)
        code = os.waitstatus_to_exitcode(status)
        if in_time and code in VERDICTS:
            return HandledBatch((delivery,), VERDICTS[code])
        if self._ending:
            return HandledBatch((delivery,), Verdict.REQUEUE)
        if in_time and readers_are_gone(output, 2):
            raise OutputError("the output of commands takes no more: its reader is gone")
        return HandledBatch((delivery,), Verdict.REJECT, f"the command {self._fault(code, in_time=in_time)}")

    def _start(self, delivery: Delivery, output: int) -> int:
        """Start the command; return its process group, 0 if none is to be started any more."""
        environment = self._environments.make(delivery)
        body = os.memfd_create("rmqkit-body")  # a file, and no pipe: nobody has to read it
        try:
            os.pwrite(body, delivery.body, 0)
            with self._lock:
                if self._ending:
                    return 0
                group = os.posix_spawn(
                    self._program,
                    self._arguments,
                    environment,
                    file_actions=[(os.POSIX_SPAWN_DUP2, body, 0), (os.POSIX_SPAWN_DUP2, output, 1)],
                    setpgroup=0,
                    setsigdef=_RESTORED,
                )
                self._running.add(group)
                return group
        finally:
            os.close(body)

    def _wait(self, group: int, on_slow: Callable[[], None]) -> bool:
        """Wait until a command has ended; end it after its time, and return False then."""
        ended = select.poll()
        process = os.pidfd_open(group)
        try:
            ended.register(process, select.POLLIN)
            if ended.poll(TELL_WITHIN_S * 1000):
                return True
            on_slow()
            if ended.poll(None if self._timeout_s is None else self._timeout_s * 1000):
                return True
            _signal(group, signal.SIGTERM)
            ended.poll(KILL_AFTER_S * 1000)
            _signal(group, signal.SIGKILL)  # whatever is left of the group
            ended.poll()
            return False
        finally:
            os.close(process)

    def _fault(self, code: int, *, in_time: bool) -> str:
        if not in_time:
            return f"was ended, for it took more than {self._timeout_s:g} s"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _wind_up(self, crew: _CommandPool) -> Iterator[HandledBatch]:
        """Give back what was not begun, and wait for what runs, with bounded patience."""
        crew.give_back()
        for patience_s, number in (
            (self._grace_s, signal.SIGTERM),
            (KILL_AFTER_S, signal.SIGKILL),
            (KILL_AFTER_S, signal.SIGKILL),
        ):
            due_s = time.monotonic() + patience_s
            while crew.is_busy() and (left_s := due_s - time.monotonic()) > 0:
                yield from crew.take(min(left_s, _WAIT_S))
            if crew.is_busy():
                self.end(number)


class _CommandPool:
    """The threads that each run one command at a time, for one source."""

    def __init__(self, executor: CommandHandler, source: Source, size: int) -> None:
        self._executor = executor
        self._source = source
        self._waiting: SimpleQueue[Delivery | None] = SimpleQueue()
        self._done: SimpleQueue[HandledBatch | BaseException | None] = SimpleQueue()
        self._told_s = 0.0  # when verdicts were last said to be there
        self._under_way = 0  # given, and not taken or given back
        self._threads = [threading.Thread(target=self._work, name="rmqkit-exec", daemon=True) for _ in range(size)]
        for thread in self._threads:
            thread.start()

    def is_busy(self) -> bool:
        """Tell whether something is to be waited for."""
        return self._under_way > 0

    def give(self, deliveries: Sequence[Delivery]) -> None:
        """Have commands run for deliveries, in this order."""
        self._under_way += len(deliveries)
        for delivery in deliveries:
            self._waiting.put(delivery)

    def give_back(self) -> None:
        """Forget what was not begun."""
        with suppress(Empty):
            while True:
                self._waiting.get_nowait()
                self._under_way -= 1

    def take(self, timeout_s: float = 0.0) -> Iterator[HandledBatch]:
        """Yield what is done, waiting so long for the first; raise what ended a thread."""
        with suppress(Empty):
            while True:
                done = self._done.get(timeout_s > 0, timeout_s)
                timeout_s = 0.0
                if done is None:
                    continue
                self._under_way -= 1
                if isinstance(done, BaseException):
                    raise done
                yield done

    def wake(self) -> None:
        """End a wait in `take`; a signal handler may call this."""
        self._done.put(None)

    def dismiss(self) -> None:
        """Let the threads end, and begin nothing more."""
        self.give_back()
        for _ in self._threads:
            self._waiting.put(None)

    def _work(self) -> None:
        while (delivery := self._waiting.get()) is not None:
            try:
                self._done.put(self._executor.run(delivery, on_slow=self._tell))
            except BaseException as exc:  # noqa: BLE001 - raised again where the verdicts are taken
                self._done.put(exc)
            if self._waiting.qsize() < PLENTY or time.monotonic() - self._told_s >= TELL_WITHIN_S:
                self._tell()  # else the next command does, when it ends or turns out to be slow

    def _tell(self) -> None:
        """Have verdicts taken; to do so for each would cost more than a short command does."""
        self._told_s = time.monotonic()
        self._source.wake()


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
