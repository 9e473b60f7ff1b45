"""pika's errors and the broker's reply codes, in rmqkit's words: the one place where they are turned."""

from __future__ import annotations

import re
import shlex
import socket
import ssl
from collections.abc import Iterator, Sequence

from pika import exceptions, spec
from pika.adapters.utils import connection_workflow

from rmqkit.address import Address
from rmqkit.amqp.decoder import ProtocolError
from rmqkit.errors import REFUSALS, AuthenticationFailed, BrokerError, ConnectionLost, Refused, Unreachable

PUBLISH = (60, 40)  # class and method of AMQP 0-9-1
_DECLARES = {(40, 10), (50, 10)}
_READS = {(50, 30), (60, 20), (60, 70)}  # queue.purge, basic.consume, basic.get
_QUEUE_BINDINGS = {(50, 20), (50, 50)}
_EXCHANGE_BINDINGS = {(40, 30), (40, 40)}
_WORDS = re.compile(
    r"ACCESS_REFUSED - (?:(?P<permission>configure|write|read) )?access to (?:topic '(?P<topic>.*)' in (?:exchange )?)?"
    r"(?P<kind>exchange|queue) '(?P<name>.*)' in vhost '(?P<vhost>.*)' refused for user '(?P<user>.*?)'"
)

_RANDOM = re.compile(r"[0-9a-f]{32}$")  # how the names of our own temporary queues end


def permission_advice(reply_text: str, method: tuple[int, int], subject: str) -> str:
    """Say which permission is missing and what grants it; empty if it is no permission that is missing.

    `subject` is what the method was about, like `queue 'orders'` or `binding a -> b`.
    """
    found = _WORDS.match(reply_text)
    if found is None:
        return ""
    kind, name, topic = found["kind"], found["name"], found["topic"]
    permission = found["permission"] or _permission(kind, name, topic, method, subject)
    vhost = f"-p {shlex.quote(found['vhost'])}"
    who = f"{vhost} {shlex.quote(found['user'])}"
    if topic is not None:
        what = f"the topic permission {permission} for {topic!r} in exchange {name!r}"
        line = f"set_topic_permissions {who} {shlex.quote(name)} {_patterns(permission, topic, 'write', 'read')}"
    else:
        what = f"the permission {permission} on {kind} {name!r}"
        line = f"set_permissions {who} {_patterns(permission, name, 'configure', 'write', 'read')}"
        if permission == "configure" and not found["permission"] and method in _DECLARES:
            what += ", or read, which a dead-letter or alternate exchange takes too"
    there = f"list_{'topic_' if topic is not None else ''}permissions {vhost}"
    return f"The user lacks {what}:\n`rabbitmqctl {line}`\nIt sets all at once; `rabbitmqctl {there}` shows the others."


def _permission(kind: str, name: str, topic: str | None, method: tuple[int, int], subject: str) -> str:
    if method == PUBLISH:
        return "write"
    if method in _READS:
        return "read"
    if method in _QUEUE_BINDINGS:
        return "read" if kind == "exchange" else "write"
    if method in _EXCHANGE_BINDINGS:
        return "read" if topic is not None or f"binding {name} -> " in subject else "write"
    if method in _DECLARES and not subject.endswith(f"{kind} {name!r}"):
        return "write"  # on another exchange: its dead-letter or alternate exchange
    return "configure"


def _patterns(wanted: str, name: str, *permissions: str) -> str:
    """Write the patterns in the order of the command; those that are to be kept in capitals."""
    stem = _RANDOM.sub("", name)
    pattern = shlex.quote(f"^{re.escape(stem)}{'$' if stem == name else ''}")
    return " ".join(pattern if each == wanted else each.upper() for each in permissions)


FORCED = 320  # AMQP 0-9-1 section 1.8: an operator closes it, or the broker is being stopped
REFUSED = 403
NOT_ALLOWED = 530  # AMQP 0-9-1 section 1.8: among others, a virtual host that is not there
_NO_BROKER = (
    "Start one with `rmqkit broker start`, or in a container with `docker run -d -p 5672:5672 rabbitmq:4`; "
    "or name yours with --url or RMQKIT_URL."
)
_VHOST = "Create it with `rabbitmqctl add_vhost`, grant its permissions, or name another one with --vhost."
_NO_AMQP = "Is it a TLS port (amqps://), an HTTP port, or another server?"
_NO_ANSWER_IN_TLS = "Does it want a certificate of ours (--tls-cert-file), or is it another server?"
HUNG_UP = "it spoke TLS, and then hung up", _NO_ANSWER_IN_TLS
_BROKEN = "Try again later. A token of more than 4,000 bytes may be too long for RabbitMQ: initial_frame_max."
_MECHANISM = "For EXTERNAL enable rabbitmq_auth_mechanism_ssl, and put it under auth_mechanisms in rabbitmq.conf."
_NO_USER = (
    "RabbitMQ takes the user from the certificate's subject (ssl_cert_login_from in rabbitmq.conf), "
    "and wants ssl_options.verify = verify_peer; its log says which it was."
)
GUEST = (
    "RabbitMQ lets the user guest log in from its own machine only (loopback_users in rabbitmq.conf): "
    "log in as another user; `rabbitmqctl add_user` makes one."
)
INTERNAL_ERROR = 541  # AMQP 0-9-1 section 1.8; RabbitMQ's word for a queue that cannot answer, among others
NO_MAJORITY = "A quorum queue does not answer while most of its nodes are away: `rabbitmq-queues quorum_status QUEUE`."
_ADVICE = {
    403: "Grant the permission with `rabbitmqctl set_permissions`, or log in as another user.",
    404: "Apply the topology that declares it, or check the name and the virtual host.",
    405: "Another connection holds it exclusively: close that one, or use another queue.",
}


TLS_ALERT = b"\x15\x03"  # how a TLS port answers what is not TLS (RFC 8446 section 5.1)
_AUTHORITY = "Name the certificate of its authority with --tls-ca-file, or cacertfile in the URL."
_NAME_MISMATCH = (62, 64)  # of a host's name, of an IP address
_OTHER_NAME = (
    "is not that of this host",
    "Call the broker by a name in its certificate, or say which to expect: server_name_indication=NAME in the URL.",
)
# OpenSSL's X509_V_ERR codes: what is wrong with the peer's certificate, and what to do.
_DISTRUST = {
    9: ("is not valid yet", "Check this machine's clock."),
    10: ("has expired", "Renew it on the broker; check this machine's clock, too."),
    18: ("is signed by itself, and not known here", _AUTHORITY),
    19: ("is signed by an authority that is not trusted here", _AUTHORITY),
    20: ("is signed by an authority that is not trusted here", _AUTHORITY),
    **dict.fromkeys(_NAME_MISMATCH, _OTHER_NAME),
}
_NO_CERTIFICATE = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE")  # with TLS 1.3, and before
_BAD_CERTIFICATE = ("UNKNOWN_CA", "CERTIFICATE", "DECRYPT_ERROR")

_NOT_ABOUT_US = (exceptions.StreamLostError.__name__, f"({FORCED})")


class NotOffered(exceptions.AuthenticationError):
    """The broker offers none of the login mechanisms that were asked for: `wanted`, and what it `offered` instead."""

    def __init__(self, wanted: Sequence[str], offered: Sequence[str]) -> None:
        super().__init__(" or ".join(wanted))
        self.offered = offered


class TlsAnswered(ProtocolError):
    """What answers in plain AMQP's place speaks TLS."""


def untrusted(error: ssl.SSLError) -> tuple[str, str]:
    """Say what a TLS handshake failed at, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        what, advice = _DISTRUST.get(error.verify_code, (f"is not trusted: {error.verify_message}", _AUTHORITY))
        named = f": {error.verify_message}" if error.verify_code in _NAME_MISMATCH else ""
        return f"its certificate {what}{named}", advice
    if isinstance(error, ssl.SSLEOFError):
        return HUNG_UP
    reason = str(getattr(error, "reason", "") or error)
    if any(name in reason for name in _NO_CERTIFICATE):
        return "it wants a certificate of ours", "Give one with --tls-cert-file and --tls-key-file."
    if "ALERT" in reason and any(name in reason for name in _BAD_CERTIFICATE):
        advice = "What --tls-cert-file names must be valid, and signed by an authority in RabbitMQ's own cacertfile."
        return f"our certificate was refused ({reason})", advice
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER" in reason:
        return (
            "it speaks no TLS",
            "amqps:// and https:// are for TLS ports (5671, 15671), amqp:// and http:// for others.",
        )
    return f"the TLS handshake failed: {reason}", "Both sides must know a TLS version and a cipher in common."


def refused(reply_code: int, reply_text: str, subject: str, method: tuple[int, int] = (0, 0)) -> Refused:
    """Return the error for a channel that the broker closed with a reply code (AMQP 0-9-1 section 1.8).

    `method` is class and method of what it refused.
    """
    error = REFUSALS.get(reply_code, Refused)
    advice = permission_advice(reply_text, method, subject) or _ADVICE.get(reply_code, "")
    return error(reply_code, reply_text, subject, advice=advice)


def login_expired(close: spec.Channel.Close) -> bool:
    """Tell whether the broker refused an operation because the OAuth2 token of the login is too old."""
    return close.reply_code == REFUSED and "token has expired" in close.reply_text


def lost(error: BaseException | None, address: Address) -> BrokerError:
    """Return why a connection that was open is no longer."""
    code, text = 0, ""
    match error:
        case exceptions.ConnectionClosedByBroker():
            code, text = error.reply_code, error.reply_text
            what = f"the broker closed it: {code} {text}"
        case exceptions.AMQPHeartbeatTimeout():
            what = "the broker fell silent for longer than the heartbeat"
        case ProtocolError():
            what = f"the broker broke the protocol: {error}"
        case exceptions.ConnectionClosedByClient() | None:
            what = "it was closed on this side"
        case _:
            what = "the peer closed it, or the network failed"
    advice = NO_MAJORITY if code == INTERNAL_ERROR else ""
    found = ConnectionLost(f"{address}: the connection was lost: {what}", advice=advice)
    found.reply_code, found.reply_text = code, text
    return found


def not_opened(error: BaseException, address: Address) -> BrokerError:
    """Return why a connection could not be opened."""
    causes = tuple(_causes(error))
    for cause in causes:
        translated = _not_opened(cause, address)
        if translated is not None:
            return translated
    return Unreachable(f"{address}: cannot connect: {type(causes[-1]).__name__}", advice=_NO_BROKER)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Unwrap pika's workflow errors, from the outside in; the last attempt stands for all."""
    yield error
    match error:
        case connection_workflow.AMQPConnectionWorkflowFailed() if error.exceptions:
            yield from _causes(error.exceptions[-1])
        case connection_workflow.AMQPConnectorPhaseErrorBase():
            yield from _causes(error.exception)
        case exceptions.AMQPConnectionError() if error.args and isinstance(error.args[0], BaseException):
            yield from _causes(error.args[0])
        case _:
            pass


def _not_opened(error: BaseException, address: Address) -> BrokerError | None:
    match error:
        case exceptions.ProbableAuthenticationError() | exceptions.ProbableAccessDeniedError() if any(
            mark in str(error) for mark in _NOT_ABOUT_US
        ):
            # pika guesses; but a RabbitMQ that refuses says so, and one that ends in mid-handshake cannot.
            return Unreachable(f"{address}: the connection broke during the handshake", advice=_BROKEN)
        case exceptions.ConnectionClosedByBroker() if error.reply_code == NOT_ALLOWED:
            what = f"the virtual host {address.vhost!r} was refused: {error.reply_text}"
            return AuthenticationFailed(f"{address}: {what}", advice=_VHOST)
        case exceptions.ProbableAccessDeniedError():
            return AuthenticationFailed(f"{address}: the virtual host {address.vhost!r} was refused", advice=_VHOST)
        case NotOffered():
            what = f"the broker offers no login by {error.args[0]}, but by {', '.join(error.offered)}"
            return AuthenticationFailed(f"{address}: {what}", advice=_MECHANISM)
        case (
            exceptions.ProbableAuthenticationError()
            | exceptions.AuthenticationError()
            | exceptions.ConnectionClosedByBroker(reply_code=403)
        ):
            who = "with our certificate" if address.by_certificate else f"of {address.username!r}"
            return AuthenticationFailed(f"{address}: the login {who} was refused", advice=_login(address))
        case _:
            reached = _unreachable(error, address)
            return Unreachable(f"{address}: {reached[0]}", advice=reached[1]) if reached else None


def _unreachable(error: BaseException, address: Address) -> tuple[str, str] | None:
    """Return what happened, and advice."""
    where = f"{address.host}:{address.port}"
    match error:
        case exceptions.ConnectionClosedByBroker():
            found = f"the broker refused: {error.reply_code} {error.reply_text}", "Try again later."
        case socket.gaierror():
            found = f"the host name {address.host!r} is not known", "Check the URL."
        case ConnectionRefusedError():
            found = f"nobody listens at {where}", _NO_BROKER
        case ssl.SSLError():
            found = untrusted(error)
        case TlsAnswered():
            found = f"{where} speaks TLS", "Write amqps:// in the URL."
        case (
            TimeoutError()
            | connection_workflow.AMQPConnectorStackTimeout()
            | exceptions.ConnectionOpenAborted()  # by pika, when the handshakes take too long
        ):
            found = f"{where} did not answer in time", _NO_BROKER
        case (
            exceptions.IncompatibleProtocolError() | exceptions.ProtocolSyntaxError() | ProtocolError() | ValueError()
        ):  # a ValueError of pika's: what was proposed is beyond AMQP's limits
            advice = _NO_ANSWER_IN_TLS if address.tls else _NO_AMQP
            found = f"what answers at {where} does not speak AMQP 0-9-1", advice
        case OSError():
            found = f"cannot connect to {where}: {error.strerror or error}", _NO_BROKER
        case _:
            return None
    return found


def _login(address: Address) -> str:
    if address.by_certificate:
        return _NO_USER
    if address.username == "guest" and not _is_loopback(address.host):
        return GUEST
    return "Check user and password."


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
