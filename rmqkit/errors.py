"""Everything that can go wrong, named after what happened.

    RmqkitError
    ├── InputError                 the caller's input: nothing was sent or declared (exit 2)
    │   ├── DocumentError          a file that is not the YAML it should be
    │   ├── TopologyError          a topology that contradicts itself or the broker's rules
    │   ├── SettingsError          a URL, flag or environment variable
    │   └── PayloadError           a message that AMQP cannot carry, or a source that cannot be read
    ├── OutputError                where the bodies go cannot take more: reader gone, disk full (exit 3)
    ├── NodeError                  the private RabbitMQ node cannot be installed, started or stopped (exit 4)
    ├── BrokerError                the broker, or the way to it
    │   ├── Unreachable            nobody answers, or not as a RabbitMQ (exit 4)
    │   ├── AuthenticationFailed   the login or the virtual host was refused (exit 4)
    │   ├── ConnectionLost         the connection broke and could not be recovered in time (exit 4)
    │   ├── ConsumerCancelled      the broker ended the consumer: its queue was deleted (exit 7)
    │   ├── NotConfirmed           the broker did not take responsibility in time (exit 6)
    │   ├── Unroutable             no queue was bound for a mandatory message (exit 6)
    │   ├── ReplyTimeout           a request was not answered in time (exit 6)
    │   └── Refused                the broker said no (exit 5)
    │       ├── AccessRefused      403
    │       ├── NotFound           404
    │       ├── ResourceLocked     405
    │       └── PropertyMismatch   406
    └── HandlerError               what was to handle a delivery failed (exit 8)
        └── RemoteError            ... at the other end: the reply to a request says so

A `Problem` is one finding in an input, with its place and advice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Location:
    """Where something stands in a file; `line` and `column` count from 1, and 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an input: where, what, and what to write instead (empty: nothing to suggest)."""

    where: Location
    message: str
    advice: str = ""

    def __str__(self) -> str:
        return "\n  ".join([f"{self.where}: {self.message}", *self.advice.splitlines()])


class RmqkitError(Exception):
    """The base of every error rmqkit raises on purpose.

    `message` says what happened to which entity, `advice` what to do next (empty: nothing to suggest), and
    `problems` holds every finding, in the order of the input. None of them ever holds a password or a body. `report`
    has what was done until then, where there is such a report.
    """

    report: Any = None

    def __init__(self, message: str, *, advice: str = "", problems: Iterable[Problem] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join([self.message, *map(str, self.problems), *([self.advice] if self.advice else [])])

    def again(self) -> Self:
        """Return a copy, to raise an error that is kept: the one raised keeps alive what was seen on its way."""
        copy = type(self).__new__(type(self), *self.args)
        copy.__dict__.update(self.__dict__)
        return copy


class InputError(RmqkitError):
    """The caller's input is wrong; nothing was sent or declared."""


class DocumentError(InputError):
    """A file is not the YAML it should be."""


class TopologyError(InputError):
    """A topology contradicts itself or the broker's rules; `problems` lists everything found."""


class SettingsError(InputError):
    """A URL, a flag or an environment variable cannot be used."""


class PayloadError(InputError):
    """A message that AMQP cannot carry, or a source that cannot be read."""


class OutputError(RmqkitError):
    """What takes the output took no more; of a batch the first `written` deliveries are wholly out, and no others."""

    written: int = 0


class NodeError(RmqkitError):
    """The private RabbitMQ node could not be installed, started or stopped."""


class BrokerError(RmqkitError):
    """The broker, or the way to it, failed."""


class Unreachable(BrokerError):
    """Nobody answers at the address, or not as a RabbitMQ would."""


class AuthenticationFailed(BrokerError):
    """The login was refused, or the virtual host."""


class ConnectionLost(BrokerError):
    """The connection broke, and could not be recovered within the time allowed.

    `reply_code` and `reply_text` are the broker's own words, if it closed the connection; 0 if it said nothing.
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
    """A request was not answered in time: it may have been handled, or may still be."""


class Refused(BrokerError):
    """The broker refused an operation and closed its channel.

    `reply_code` and `reply_text` are the broker's own words (AMQP 0-9-1 section 1.8), `subject` names the entity
    the operation was about, like `queue 'orders'`.
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


class AccessRefused(Refused):
    """403: the user may not do this."""


class NotFound(Refused):
    """404: there is no such exchange, queue or virtual host."""


class ResourceLocked(Refused):
    """405: another connection holds the queue exclusively."""


class PropertyMismatch(Refused):
    """406: it exists with other properties, or the operation breaks a rule."""


REFUSALS: dict[int, type[Refused]] = {403: AccessRefused, 404: NotFound, 405: ResourceLocked, 406: PropertyMismatch}


class HandlerError(RmqkitError):
    """What was to handle a delivery failed.

    Raised by a function that serves requests, its message is told to who asked.
    """


class RemoteError(HandlerError):
    """What was to handle a request failed at the other end, and the reply says so."""
