"""Every error that rmqkit raises, named after its cause.

    RmqkitError
    ├── InputError                 the caller's input is wrong: nothing was sent or declared (exit 2)
    │   ├── DocumentError          a file is not the YAML it should be
    │   ├── TopologyError          a topology contradicts itself or the broker's rules
    │   ├── SettingsError          a URL, flag or environment variable cannot be used
    │   └── PayloadError           AMQP cannot carry a message, or a source cannot be read
    ├── OutputError                the output cannot be written: its reader is gone, the disk is full (exit 3)
    ├── NodeError                  the private RabbitMQ node cannot be installed, started or stopped (exit 4)
    ├── BrokerError                the broker or the connection to it failed
    │   ├── Unreachable            no answer, or not the answer of a RabbitMQ (exit 4)
    │   ├── AuthenticationFailed   the broker refused the login, or access to the virtual host (exit 4)
    │   ├── ConnectionLost         the connection broke and could not be recovered in time (exit 4)
    │   ├── ConsumerCancelled      the broker ended the consumer: its queue was deleted (exit 7)
    │   ├── NotConfirmed           the broker did not take responsibility in time (exit 6)
    │   ├── Unroutable             no queue was bound for a mandatory message (exit 6)
    │   ├── ReplyTimeout           a request was not answered in time (exit 6)
    │   └── Refused                the broker refused an operation (exit 5)
    │       ├── AccessRefused      403
    │       ├── NotFound           404
    │       ├── ResourceLocked     405
    │       └── PropertyMismatch   406
    └── HandlerError               the handler of a delivery failed (exit 8)
        └── RemoteError            the handler of a request failed, and the reply says so

A `Problem` is one finding in an input, with its place and advice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a file; `line` and `column` count from 1, and 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def after(self, text: str) -> Location:
        """Return the place after a text that begins on this line, or at the beginning of the file."""
        return Location(self.file, (self.line or 1) + text.count("\n"), len(text) - text.rfind("\n"))


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of an input: its place, the fault, and advice on what to write instead (may be empty)."""

    where: Location
    message: str
    advice: str = ""

    def __str__(self) -> str:
        return "\n  ".join([f"{self.where}: {self.message}", *self.advice.splitlines()])


class RmqkitError(Exception):
    """The base of every error rmqkit raises on purpose.

    `message` says what happened to which entity, `advice` what to do next (may be empty), and `problems` lists every
    finding in the order of the input. None of them ever holds a password or a body. `report` holds the numbers of the
    operation up to the error, where it has a report.
    """

    report: Any = None

    def __init__(self, message: str, *, advice: str = "", problems: Iterable[Problem] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join([self.message, *map(str, self.problems), *([self.advice] if self.advice else [])])

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with `args`, which lacks the keyword arguments and those of Refused.
        return _restore, (type(self), self.args), self.__dict__


def _restore(error: type[RmqkitError], args: tuple[Any, ...]) -> RmqkitError:
    return error.__new__(error, *args)


class InputError(RmqkitError):
    """The caller's input is wrong; nothing was sent or declared."""


class DocumentError(InputError):
    """A file is not the YAML it should be."""


class TopologyError(InputError):
    """A topology contradicts itself or the broker's rules; `problems` lists every finding."""


class SettingsError(InputError):
    """A URL, a flag or an environment variable cannot be used."""


class PayloadError(InputError):
    """AMQP cannot carry a message, or a source of messages cannot be read."""


class OutputError(RmqkitError):
    """The output cannot be written; the first `written` deliveries of the batch are complete, the others absent."""

    written: int = 0


class NodeError(RmqkitError):
    """The private RabbitMQ node could not be installed, started or stopped."""


class BrokerError(RmqkitError):
    """The broker or the connection to it failed."""


class Unreachable(BrokerError):
    """The address did not answer, or not as a RabbitMQ would."""


class AuthenticationFailed(BrokerError):
    """The broker refused the login, or access to the virtual host."""


class ConnectionLost(BrokerError):
    """The connection broke and could not be recovered within the time allowed.

    `reply_code` and `reply_text` are the broker's own words if it closed the connection, else 0 and empty.
    """

    reply_code: int = 0
    reply_text: str = ""


class ConsumerCancelled(BrokerError):
    """The broker ended the consumer, as it does when the queue is deleted."""


class NotConfirmed(BrokerError):
    """The broker did not confirm in time, or refused responsibility (basic.nack)."""


class Unroutable(BrokerError):
    """A mandatory message reached no queue (basic.return)."""


class ReplyTimeout(BrokerError):
    """A request was not answered in time; it may have been handled, or may still be."""


class Refused(BrokerError):
    """The broker refused an operation and closed its channel.

    `reply_code` and `reply_text` are the broker's own words (AMQP 0-9-1 section 1.8); `subject` names the entity, like
    `queue 'orders'`.
    """

    def __init__(
        self,
        reply_code: int,
        reply_text: str,
        subject: str,
        *,
        message: str = "",
        advice: str = "",
        problems: Iterable[Problem] = (),
    ) -> None:
        message = message or f"{subject}: refused by the broker: {reply_code} {reply_text}"
        super().__init__(message, advice=advice, problems=problems)
        self.reply_code = reply_code
        self.reply_text = reply_text
        self.subject = subject


class MissingPermission(NamedTuple):
    """A permission that a user lacks, as a sentence, and a pattern that grants it.

    `kind` is configure, write or read; `exchange` is that of a topic permission, else None.
    """

    text: str
    user: str
    vhost: str
    kind: str
    pattern: str
    exchange: str | None = None


class AccessRefused(Refused):
    """403: the user lacks a permission, which is `missing` if the broker names it."""

    missing: MissingPermission | None = None


class NotFound(Refused):
    """404: the exchange or queue does not exist; 530: the virtual host does not."""


class ResourceLocked(Refused):
    """405: another connection holds the queue exclusively."""


class PropertyMismatch(Refused):
    """406: the entity exists with different properties, or the operation breaks a rule."""


REFUSALS: dict[int, type[Refused]] = {403: AccessRefused, 404: NotFound, 405: ResourceLocked, 406: PropertyMismatch}
HTTP_API_UNAVAILABLE = (Unreachable, AuthenticationFailed, AccessRefused)  # why RabbitMQ's HTTP API shows nothing


class HandlerError(RmqkitError):
    """The handler of a delivery failed.

    When a function that serves requests raises it, the reply carries its message to the requester.
    """


class RemoteError(HandlerError):
    """The handler of a request failed on the server, and the reply says so."""
