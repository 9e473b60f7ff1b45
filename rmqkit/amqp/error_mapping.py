"""The mapping from pika's errors and the broker's reply codes to rmqkit's errors, each with advice."""

from __future__ import annotations

import re
import shlex
import socket
import ssl
from collections.abc import Iterator, Sequence

from pika import exceptions, spec
from pika.adapters.utils import connection_workflow

from rmqkit.address import Address, is_loopback
from rmqkit.amqp.frame_decoder import ProtocolError
from rmqkit.errors import (
    REFUSALS,
    AccessRefused,
    AuthenticationFailed,
    BrokerError,
    ConnectionLost,
    MissingPermission,
    NotConfirmed,
    NotFound,
    Refused,
    Unreachable,
)

PUBLISH = (60, 40)  # class and method of AMQP 0-9-1
_DECLARES = {(40, 10), (50, 10)}
_READS = {(50, 30), (60, 20), (60, 70)}  # queue.purge, basic.consume, basic.get
_QUEUE_BINDINGS = {(50, 20), (50, 50)}
_EXCHANGE_BINDINGS = {(40, 30), (40, 40)}
_MISSING_PERMISSION = re.compile(
    r"ACCESS_REFUSED - (?:(?P<permission>configure|write|read) )?access to (?:topic '(?P<topic>.*)' in (?:exchange )?)?"
    r"(?P<kind>exchange|queue) '(?P<name>.*)' in vhost '(?P<vhost>.*)' refused for user '(?P<user>.*?)'"
)
_MISSING_VHOST = re.compile(r"NOT_ALLOWED - vhost .* not found", re.DOTALL)
_RANDOM = re.compile(r"[0-9a-f]{32}$")  # the end of the names of rmqkit's temporary queues

# Reply codes of AMQP 0-9-1 section 1.8.
FORCED = 320  # an operator closes the connection, or the broker is being stopped
REFUSED = 403
NOT_IMPLEMENTED = 540
INTERNAL_ERROR = 541  # among others, a queue that cannot answer
_NO_BROKER = (
    "Start one with `rmqkit broker start`, or in a container with `docker run -d -p 5672:5672 rabbitmq:4`; "
    "or name an existing one with `url=` or RMQKIT_URL."
)
_VHOST = "Create it with `rabbitmqctl add_vhost {}`, or name another one with `vhost=`."
_NO_ACCESS = "Grant permissions with `rabbitmqctl set_permissions`, or name another virtual host with `vhost=`."
_NO_AMQP = "It may be a TLS port (amqps://), an HTTP port, or another kind of server."
_NO_ANSWER_IN_TLS = "It may require a client certificate (`cert_file=`), or be another kind of server."
HUNG_UP = "the server closed the connection after the TLS handshake", _NO_ANSWER_IN_TLS
LEAST_FRAME_MAX = 8192  # since RabbitMQ 4.1
_SMALL_FRAMES = "RabbitMQ 4.1 and later require a frame_max of 8192 or more: change it in the URL."
_CLOSING_REFUSALS = {  # AMQP 0-9-1 section 1.8: the reply codes of connection exceptions that a method causes
    503: "",
    530: "",
    NOT_IMPLEMENTED: "This broker, or this type of queue, does not support it.",
}
_UNKNOWN_TYPE = re.compile(r"(?:unknown|invalid) exchange type '(.*)'")  # 503, and 406 from RabbitMQ 4 on
_PLUGINS = {  # by the types that they provide
    "x-consistent-hash": "rabbitmq_consistent_hash_exchange",
    "x-delayed-message": "rabbitmq_delayed_message_exchange",
    "x-jms-topic": "rabbitmq_jms_topic_exchange",
    "x-modulus-hash": "rabbitmq_sharding",
    "x-random": "rabbitmq_random_exchange",
    "x-recent-history": "rabbitmq_recent_history_exchange",
}
_DEPRECATED = "Remove it, or permit it in rabbitmq.conf: https://www.rabbitmq.com/docs/deprecated-features."
_BROKEN = "Try again later. RabbitMQ may reject a token of more than 4,000 bytes: see initial_frame_max."
_MECHANISM = "For EXTERNAL, enable rabbitmq_auth_mechanism_ssl and add it to auth_mechanisms in rabbitmq.conf."
_NO_USER = (
    "RabbitMQ takes the user from the certificate's subject (ssl_cert_login_from in rabbitmq.conf) "
    "and requires ssl_options.verify = verify_peer; its log names the user it looked up."
)
GUEST = (
    "RabbitMQ lets the user guest log in from its own machine only (loopback_users in rabbitmq.conf). "
    "Log in as another user; `rabbitmqctl add_user` creates one."
)
NO_MAJORITY = (
    "A quorum queue does not answer while a majority of its nodes is down: `rabbitmq-queues quorum_status QUEUE`."
)
_ADVICE = {
    403: "Grant the permission, or log in as another user: `rabbitmqctl list_permissions` shows what is granted.",
    404: "Apply the topology that declares it, or check the name and the virtual host.",
    405: "Another connection holds it exclusively. Close that connection, or use another queue.",
}

TLS_ALERT = b"\x15\x03"  # the answer of a TLS port to anything but TLS (RFC 8446 section 5.1)
_AUTHORITY = "Name the CA certificate with `ca_file=`, or cacertfile in the URL."
_NAME_MISMATCH = (62, 64)  # of a host's name, of an IP address
_OTHER_NAME = (
    "does not match the host name",
    "Use a host name in its certificate, or set the expected one in the URL: server_name_indication=NAME.",
)
# OpenSSL's X509_V_ERR codes: the fault of the server's certificate, and advice.
_DISTRUST = {
    9: ("is not valid yet", "Check this machine's clock."),
    10: ("has expired", "Renew it on the broker; check this machine's clock, too."),
    18: ("is self-signed and not trusted", _AUTHORITY),
    19: ("is signed by an authority that is not trusted", _AUTHORITY),
    20: ("is signed by an authority that is not trusted", _AUTHORITY),
    **dict.fromkeys(_NAME_MISMATCH, _OTHER_NAME),
}
_NO_CERTIFICATE = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE")  # with TLS 1.3, and before
_BAD_CERTIFICATE = ("UNKNOWN_CA", "CERTIFICATE", "DECRYPT_ERROR")

_NOT_A_REFUSAL = (exceptions.StreamLostError.__name__, f"({FORCED})")


class NotOffered(exceptions.AuthenticationError):
    """The broker offers none of the wanted login mechanisms, but those in `offered`."""

    def __init__(self, wanted: Sequence[str], offered: Sequence[str]) -> None:
        super().__init__(" or ".join(wanted))
        self.offered = offered


class TlsAnswered(ProtocolError):
    """The server answers plain AMQP with TLS."""


def blocked(reason: str, waited_s: float) -> NotConfirmed:
    """Return the error of waiting too long for an alarm to clear (https://www.rabbitmq.com/docs/alarms)."""
    return NotConfirmed(
        f"the broker has been blocking publishers for {waited_s:.0f} s: {reason}",
        advice="Free memory or disk space on the broker: `rabbitmqctl status` shows the alarm.",
    )


def add_permission_advice(error: Refused, method: tuple[int, int], sufficient: str = "") -> None:
    """Name the missing permission in a refusal, and how to add it to the others, unless it has another cause.

    `method` is class and method of the refused call; `sufficient` a permission that suffices in place of the one that
    the broker names.
    """
    found = _MISSING_PERMISSION.match(error.reply_text)
    if found is None or not isinstance(error, AccessRefused):
        return
    kind, name, topic = found["kind"], found["name"], found["topic"]
    permission = sufficient or found["permission"] or _permission(kind, name, topic, method, error.subject)
    topics = "topic_" if topic is not None else ""
    if topic is not None:
        lacks, patterns = f"topic {permission} permission for {topic!r} in exchange {name!r}", "both patterns"
    else:
        lacks, patterns = f"{permission} permission on {kind} {name!r}", "all three patterns"
        if permission == "configure" and not found["permission"] and method in _DECLARES:
            lacks += ", or read permission, which a dead-letter or alternate exchange also requires"
    text, pattern = f"User {found['user']!r} lacks {lacks}.", _pattern(name if topic is None else topic)
    exchange = name if topic is not None else None
    error.missing = MissingPermission(text, found["user"], found["vhost"], permission, pattern, exchange)
    listing = f"list_{topics}permissions -p {shlex.quote(found['vhost'])}"
    error.advice = (
        f"{text} `rabbitmqctl {listing}` shows the patterns: extend the {permission} pattern to OLD|{pattern}, or"
        f" replace it by {pattern} if it is empty. `rabbitmqctl set_{topics}permissions` replaces {patterns}, so repeat"
        " the others."
    )


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


def _pattern(name: str) -> str:
    """Return a pattern that matches one name; of a temporary queue, those of its kind."""
    stem = _RANDOM.sub("", name)
    return f"^{re.escape(stem)}{'$' if stem == name else ''}"


def untrusted(error: ssl.SSLError) -> tuple[str, str]:
    """Return the reason why a TLS handshake failed, and advice."""
    if isinstance(error, ssl.SSLCertVerificationError):
        fault, advice = _DISTRUST.get(error.verify_code, (f"is not trusted: {error.verify_message}", _AUTHORITY))
        detail = f": {error.verify_message}" if error.verify_code in _NAME_MISMATCH else ""
        return f"the server's certificate {fault}{detail}", advice
    if isinstance(error, ssl.SSLEOFError):
        return HUNG_UP
    reason = str(getattr(error, "reason", "") or error)
    if any(name in reason for name in _NO_CERTIFICATE):
        return "the server requires a client certificate", "Set `cert_file=` and `key_file=`."
    if "ALERT" in reason and any(name in reason for name in _BAD_CERTIFICATE):
        advice = "The certificate in `cert_file=` must be valid and signed by an authority in RabbitMQ's cacertfile."
        return f"the server refused the client certificate ({reason})", advice
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER" in reason:
        advice = "Use amqps:// and https:// for TLS ports (5671, 15671), amqp:// and http:// for others."
        return "the server does not speak TLS", advice
    return f"the TLS handshake failed: {reason}", "Both sides must support a common TLS version and cipher."


def refused(reply_code: int, reply_text: str, subject: str, method: tuple[int, int] = (0, 0)) -> Refused:
    """Return the error for a channel that the broker closed with a reply code (AMQP 0-9-1 section 1.8).

    `method` is class and method of the refused call.
    """
    advice = _ADVICE.get(reply_code, "")
    if unknown_type := _UNKNOWN_TYPE.search(reply_text):
        advice = unknown_type_advice(unknown_type[1])
    error = REFUSALS.get(reply_code, Refused)(reply_code, reply_text, subject, advice=advice)
    add_permission_advice(error, method)
    return error


def is_unknown_type(error: Refused) -> bool:
    """Tell whether the broker refused an exchange because it does not know its type."""
    return bool(_UNKNOWN_TYPE.search(error.reply_text))


def unknown_type_advice(exchange_type: str) -> str:
    """Advise how to make an exchange type known to the broker."""
    if plugin := _PLUGINS.get(exchange_type):
        return f"Enable the plugin that provides it: `rabbitmq-plugins enable {plugin}`."
    return "Correct the type, or enable the plugin that provides it: `rabbitmq-plugins list` shows the plugins."


def refused_by_closing(error: ConnectionLost, subject: str, method: tuple[int, int]) -> BrokerError:
    """Return the refusal if the broker closed the connection because of a method, else the error itself.

    It does so for an unknown exchange type (503), and for a feature that it does not implement (540) or permit (541).
    """
    code, text = error.reply_code, error.reply_text
    deprecated = code == INTERNAL_ERROR and "is deprecated" in text
    if not (deprecated or code in _CLOSING_REFUSALS) or "is down" in text:
        return error
    found = refused(code, text, subject, method)
    found.advice = found.advice or (_DEPRECATED if deprecated else _CLOSING_REFUSALS[code])
    return found


def login_expired(close: spec.Channel.Close) -> bool:
    """Tell whether the broker refused an operation because the OAuth2 token of the login has expired."""
    return close.reply_code == REFUSED and "token has expired" in close.reply_text


def forked() -> ConnectionLost:
    """Return the error for using a connection in a forked process instead of the one that opened it."""
    return ConnectionLost(
        "the connection was opened before os.fork, and belongs to the parent process",
        advice="Open a separate connection in each process, after the fork: rmqkit.connect().",
    )


def lost(error: BaseException | None, address: Address) -> BrokerError:
    """Return the error for the loss of an open connection."""
    code, text = 0, ""
    match error:
        case exceptions.ConnectionClosedByBroker():
            code, text = error.reply_code, error.reply_text
            reason = f"the broker closed it: {code} {text}"
        case exceptions.AMQPHeartbeatTimeout():
            reason = "the broker sent nothing for longer than the heartbeat timeout"
        case ProtocolError():
            reason = f"the broker violated the protocol: {error}"
        case exceptions.ConnectionClosedByClient() | None:
            reason = "rmqkit closed it"
        case _:
            reason = "the peer closed it, or the network failed"
    advice = NO_MAJORITY if code == INTERNAL_ERROR else ""
    found = ConnectionLost(f"{address}: lost the connection: {reason}", advice=advice)
    found.reply_code, found.reply_text = code, text
    return found


def not_opened(error: BaseException, address: Address) -> BrokerError:
    """Return the error for a connection that could not be opened."""
    causes = tuple(_causes(error))
    for cause in causes:
        found = _login_error(cause, address) or _unreachable(cause, address)
        if found is not None:
            return found
    return Unreachable(f"{address}: cannot connect: {type(causes[-1]).__name__}", advice=_NO_BROKER)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Unwrap pika's workflow errors from the outside in; the last attempt represents all."""
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


def _login_error(error: BaseException, address: Address) -> BrokerError | None:
    user = f"user {address.username!r}" if address.username else "the user"
    match error:
        case exceptions.ProbableAuthenticationError() | exceptions.ProbableAccessDeniedError() if any(
            mark in str(error) for mark in _NOT_A_REFUSAL
        ):
            # pika guesses; but a RabbitMQ that refuses says so, and one that ends in mid-handshake cannot.
            small = address.frame_max is not None and address.frame_max < LEAST_FRAME_MAX
            return Unreachable(
                f"{address}: the connection broke during the handshake", advice=_SMALL_FRAMES if small else _BROKEN
            )
        case exceptions.ConnectionClosedByBroker(reply_code=530, reply_text=text) if (
            "limit" in text or "is down" in text
        ):
            message = f"the broker refused the connection: {text}"
            advice = "Try again later, or use another virtual host."
        case exceptions.ConnectionClosedByBroker(reply_code=530) | exceptions.ProbableAccessDeniedError() if (
            missing := _MISSING_VHOST.search(str(error))
        ):
            message = f"{address}: virtual host {address.vhost!r} does not exist"
            advice = _VHOST.format(shlex.quote(address.vhost))
            return NotFound(530, missing[0], f"virtual host {address.vhost!r}", message=message, advice=advice)
        case exceptions.ConnectionClosedByBroker(reply_code=530) | exceptions.ProbableAccessDeniedError():
            message, advice = (
                f"{user} has no access to virtual host {address.vhost!r}, or it does not exist",
                _NO_ACCESS,
            )
        case NotOffered():
            message = f"the broker does not offer the login mechanism {error.args[0]}, only {', '.join(error.offered)}"
            advice = _MECHANISM
        case (
            exceptions.ProbableAuthenticationError()
            | exceptions.AuthenticationError()
            | exceptions.ConnectionClosedByBroker(reply_code=403)
        ):
            remote_guest = address.username == "guest" and not is_loopback(address.host)
            message, advice = (
                f"login refused for {user}",
                GUEST if remote_guest else "Check the user name and the password.",
            )
            if address.by_certificate:
                message, advice = "login refused for the client certificate", _NO_USER
        case _:
            return None
    return AuthenticationFailed(f"{address}: {message}", advice=advice)


def _unreachable(error: BaseException, address: Address) -> Unreachable | None:
    server = f"{address.host}:{address.port}"
    match error:
        case exceptions.ConnectionClosedByBroker():
            reason = f"the broker refused the connection: {error.reply_code} {error.reply_text}"
            advice = "Try again later."
        case socket.gaierror():
            reason, advice = f"the host name {address.host!r} cannot be resolved", "Check the URL."
        case ConnectionRefusedError():
            reason, advice = f"connection refused: nothing is listening on {server}", _NO_BROKER
        case ssl.SSLError():
            reason, advice = untrusted(error)
        case TlsAnswered():
            reason, advice = f"the server at {server} speaks TLS", "Write amqps:// in the URL."
        # ConnectionOpenAborted: by pika, when the handshakes take too long.
        case TimeoutError() | connection_workflow.AMQPConnectorStackTimeout() | exceptions.ConnectionOpenAborted():
            reason, advice = f"{server} did not answer in time", _NO_BROKER
        # A ValueError of pika's: a proposed value is beyond AMQP's limits.
        case exceptions.IncompatibleProtocolError() | exceptions.ProtocolSyntaxError() | ProtocolError() | ValueError():
            reason = f"the server at {server} does not speak AMQP 0-9-1"
            advice = _NO_ANSWER_IN_TLS if address.tls else _NO_AMQP
        case OSError():
            reason, advice = f"cannot connect to {server}: {error.strerror or error}", _NO_BROKER
        case _:
            return None
    return Unreachable(f"{address}: {reason}", advice=advice)
