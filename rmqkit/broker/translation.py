"""pika's errors and the broker's reply codes, in rmqkit's words: the one place where they are turned.

Comes in: an exception of pika's, or a reply code and text. Goes out: an error of `rmqkit.errors`. Room: broker.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

from pika import exceptions
from pika.adapters.utils import connection_workflow

from rmqkit.address import Address
from rmqkit.broker.decoder import ProtocolError
from rmqkit.errors import REFUSALS, AuthenticationFailed, BrokerError, ConnectionLost, Refused, Unreachable

NOT_ALLOWED = 530  # AMQP 0-9-1 section 1.8: among others, a virtual host that is not there
_NO_BROKER = (
    "Start one with `rmqkit broker start`, or in a container with `docker run -d -p 5672:5672 rabbitmq:4`; "
    "or name yours with --url or RMQKIT_URL."
)
_VHOST = "Create it with `rabbitmqctl add_vhost`, grant its permissions, or name another one with --vhost."
_NO_TLS = "A plain AMQP port speaks no TLS: use amqp:// there, and amqps:// on the TLS port (5671)."
_NO_AMQP = "Is it a TLS port (amqps://), an HTTP port, or another server?"
_ADVICE = {
    403: "Grant the permission with `rabbitmqctl set_permissions`, or log in as another user.",
    404: "Apply the topology that declares it, or check the name and the virtual host.",
    405: "Another connection holds it exclusively: close that one, or use another queue.",
}


def refused(reply_code: int, reply_text: str, subject: str) -> Refused:
    """Return the error for a channel that the broker closed with a reply code (AMQP 0-9-1 section 1.8)."""
    error = REFUSALS.get(reply_code, Refused)
    return error(reply_code, reply_text, subject, advice=_ADVICE.get(reply_code, ""))


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
    found = ConnectionLost(f"{address}: the connection was lost: {what}")
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
        case exceptions.ProbableAuthenticationError() | exceptions.ProbableAccessDeniedError() if (
            exceptions.StreamLostError.__name__ in str(error)
        ):
            # pika guesses; but a RabbitMQ that refuses says so, and one that is killed in mid-handshake cannot.
            return Unreachable(f"{address}: the connection broke during the handshake", advice="Try again later.")
        case exceptions.ConnectionClosedByBroker() if error.reply_code == NOT_ALLOWED:
            what = f"the virtual host {address.vhost!r} was refused: {error.reply_text}"
            return AuthenticationFailed(f"{address}: {what}", advice=_VHOST)
        case exceptions.ProbableAccessDeniedError():
            return AuthenticationFailed(f"{address}: the virtual host {address.vhost!r} was refused", advice=_VHOST)
        case (
            exceptions.ProbableAuthenticationError()
            | exceptions.AuthenticationError()
            | exceptions.ConnectionClosedByBroker(reply_code=403)
        ):
            what = f"the login of {address.username!r} was refused"
            return AuthenticationFailed(f"{address}: {what}", advice=_login(address))
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
        case ssl.SSLCertVerificationError():
            found = f"the certificate is not trusted: {error.verify_message}", "Name its authority with --tls-ca-file."
        case ssl.SSLError():
            found = f"the TLS handshake failed: {getattr(error, 'reason', '') or error}", _NO_TLS
        case (
            TimeoutError()
            | connection_workflow.AMQPConnectorStackTimeout()
            | exceptions.ConnectionOpenAborted()  # by pika, when the handshakes take too long
        ):
            found = f"{where} did not answer in time", _NO_BROKER
        case (
            exceptions.IncompatibleProtocolError() | exceptions.ProtocolSyntaxError() | ProtocolError() | ValueError()
        ):  # a ValueError of pika's: what was proposed is beyond AMQP's limits
            found = f"what answers at {where} does not speak AMQP 0-9-1", _NO_AMQP
        case OSError():
            found = f"cannot connect to {where}: {error.strerror or error}", _NO_BROKER
        case _:
            return None
    return found


def _login(address: Address) -> str:
    if address.username == "guest":
        return "RabbitMQ lets guest log in from its own machine only; otherwise check user and password."
    return "Check user and password."
