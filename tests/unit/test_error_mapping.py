"""Each of pika's errors has one of ours; a new one in pika fails here until it is mapped."""

from __future__ import annotations

import inspect
import re
import socket
import ssl

import pytest
from pika import exceptions, spec
from pika.adapters.utils import connection_workflow

from rmqkit.address import Address
from rmqkit.amqp import error_mapping, reconnecting_connection
from rmqkit.amqp.frame_decoder import ProtocolError
from rmqkit.errors import (
    AccessRefused,
    AuthenticationFailed,
    BrokerError,
    ConnectionLost,
    NotFound,
    PropertyMismatch,
    Refused,
    ResourceLocked,
    Unreachable,
)

ADDRESS = Address(password="canary")
# What may end the opening of a connection, and what we call it.
OPENING: dict[BaseException, type[BrokerError]] = {
    exceptions.AMQPConnectionError(ConnectionRefusedError(111, "refused")): Unreachable,
    exceptions.ConnectionOpenAborted("x"): Unreachable,
    exceptions.StreamLostError("x"): Unreachable,
    exceptions.IncompatibleProtocolError("x"): Unreachable,
    exceptions.AuthenticationError("PLAIN"): AuthenticationFailed,
    exceptions.ProbableAuthenticationError("x"): AuthenticationFailed,
    exceptions.ProbableAccessDeniedError("x"): AuthenticationFailed,
    exceptions.ConnectionClosedByBroker(403, "ACCESS_REFUSED"): AuthenticationFailed,
    exceptions.ConnectionClosedByBroker(530, "NOT_ALLOWED - vhost x not found"): NotFound,
    exceptions.ConnectionClosedByBroker(541, "INTERNAL_ERROR"): Unreachable,
    exceptions.ConnectionClosedByClient(200, "aborted"): Unreachable,
    exceptions.ConnectionBlockedTimeout("x"): Unreachable,
    exceptions.AMQPHeartbeatTimeout("x"): Unreachable,
    exceptions.ProtocolVersionMismatch("a", "b"): Unreachable,
    ProtocolError("nonsense"): Unreachable,
    socket.gaierror(-2, "unknown"): Unreachable,
    TimeoutError("x"): Unreachable,
    ssl.SSLError(1, "WRONG_VERSION_NUMBER"): Unreachable,
    OSError(113, "No route to host"): Unreachable,
    connection_workflow.AMQPConnectorStackTimeout("x"): Unreachable,
    connection_workflow.AMQPConnectionWorkflowFailed(
        [connection_workflow.AMQPConnectorSocketConnectError(ConnectionRefusedError(111, "refused"))]
    ): Unreachable,
}
# Raised by parts of pika that rmqkit does not use: its Channel, and calls in the wrong state.
UNUSED = {"NoFreeChannels", "ConnectionWrongStateError"}
BASES = {"AMQPConnectionError", "ConnectionClosed"}


@pytest.mark.parametrize(
    ("error", "expected"), OPENING.items(), ids=lambda value: getattr(value, "__name__", repr(value))
)
def test_each_error_while_connecting_is_mapped(error: BaseException, expected: type[BrokerError]) -> None:
    translated = error_mapping.not_opened(error, ADDRESS)
    assert type(translated) is expected
    assert str(ADDRESS) in translated.message
    assert "canary" not in str(translated)


def test_a_handshake_that_pika_aborts_is_reported_as_a_timeout() -> None:
    error = exceptions.AMQPConnectionError(exceptions.ConnectionOpenAborted("x"))
    assert "did not answer in time" in str(error_mapping.not_opened(error, ADDRESS))


def test_every_connection_error_of_pika_is_mapped() -> None:
    in_pika = {
        name
        for name, each in inspect.getmembers(exceptions, inspect.isclass)
        if issubclass(each, exceptions.AMQPConnectionError)
    }
    assert in_pika - UNUSED - BASES <= {type(error).__name__ for error in OPENING}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (exceptions.ConnectionClosedByBroker(320, "CONNECTION_FORCED - shutdown"), "320 CONNECTION_FORCED"),
        (exceptions.AMQPHeartbeatTimeout("x"), "heartbeat"),
        (exceptions.StreamLostError("x"), "network"),
        (ProtocolError("a frame without its end octet"), "end octet"),
        (None, "rmqkit closed it"),
    ],
)
def test_the_error_for_a_lost_connection_states_the_reason(error: BaseException | None, words: str) -> None:
    translated = error_mapping.lost(error, ADDRESS)
    assert isinstance(translated, ConnectionLost)
    assert words in str(translated)


def test_an_internal_error_advises_checking_the_quorum() -> None:
    error = error_mapping.lost(exceptions.ConnectionClosedByBroker(541, "INTERNAL_ERROR"), ADDRESS)
    assert "quorum_status" in error.advice


def test_a_connection_closed_for_a_deprecated_feature_is_a_refusal_of_the_method() -> None:
    text = "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.\nBy default, it is not permitted."
    lost = error_mapping.lost(exceptions.ConnectionClosedByBroker(541, text), ADDRESS)
    assert isinstance(lost, ConnectionLost)
    error = error_mapping.refused_by_closing(lost, "queue 'q'", (50, 10))
    assert isinstance(error, Refused)
    assert (error.reply_code, error.subject) == (541, "queue 'q'")
    other = error_mapping.lost(exceptions.ConnectionClosedByBroker(541, "INTERNAL_ERROR"), ADDRESS)
    assert isinstance(other, ConnectionLost)
    assert error_mapping.refused_by_closing(other, "queue 'q'", (50, 10)) is other


@pytest.mark.parametrize(
    ("code", "expected"),
    [(403, AccessRefused), (404, NotFound), (405, ResourceLocked), (406, PropertyMismatch), (504, Refused)],
)
def test_a_closed_channel_is_named_by_its_reply_code(code: int, expected: type[Refused]) -> None:
    error = error_mapping.refused(code, "WORDS - of the broker", "queue 'q'")
    assert type(error) is expected
    assert "queue 'q'" in error.message
    assert "WORDS" in error.message


@pytest.mark.parametrize(("host", "explained"), [("broker.example", True), ("localhost", False), ("127.0.0.9", False)])
def test_a_refused_guest_is_advised_about_loopback_users(host: str, explained: bool) -> None:
    error = error_mapping.not_opened(exceptions.ConnectionClosedByBroker(403, "ACCESS_REFUSED"), Address(host))
    assert ("loopback_users" in error.advice) == explained
    other = error_mapping.not_opened(exceptions.ConnectionClosedByBroker(403, ""), Address(host, username="other"))
    assert "loopback_users" not in other.advice


def test_offered_login_mechanisms_are_tried_in_order() -> None:
    def answer(offered: str, *wanted: str) -> object:
        address = Address(username="u", auth_mechanisms=wanted)
        return reconnecting_connection._Credentials(address, "p").response_for(
            spec.Connection.Start(mechanisms=offered)
        )

    assert answer("PLAIN AMQPLAIN") == ("PLAIN", b"\0u\0p")
    assert answer("PLAIN EXTERNAL", "EXTERNAL", "PLAIN") == ("EXTERNAL", b"")
    assert answer("PLAIN EXTERNAL", "PLAIN", "EXTERNAL") == ("PLAIN", b"\0u\0p")
    assert answer("PLAIN AMQPLAIN", "EXTERNAL", "PLAIN") == ("PLAIN", b"\0u\0p")
    with pytest.raises(error_mapping.NotOffered) as caught:
        answer("PLAIN AMQPLAIN", "EXTERNAL")
    error = error_mapping.not_opened(caught.value, ADDRESS)
    assert isinstance(error, AuthenticationFailed)
    assert "does not offer the login mechanism EXTERNAL, only PLAIN, AMQPLAIN" in error.message
    assert "rabbitmq_auth_mechanism_ssl" in error.advice


@pytest.mark.parametrize(
    ("words", "says"),
    [  # as RabbitMQ 3.13 and 4 have it; those of 3.10 come from the broker of the tests
        ("read access to queue 'it''s' in vhost 'a b' refused for user 'u'", "read permission on queue \"it''s\""),
        (
            "configure access to exchange 'e' in vhost '/' refused for user 'u' by backend x",
            "extend the configure pattern to OLD|^e$, or replace it by ^e$ if it is empty.",
        ),
        (
            "write access to topic 'a.b' in exchange exchange 'e' in vhost '/' refused for user 'u'",
            r"extend the write pattern to OLD|^a\.b$, or replace it by ^a\.b$ if it is empty.",
        ),
        ("cannot publish to internal exchange 'e' in vhost '/'", "Grant the permission, or log in as another user"),
    ],
)
def test_a_permission_named_by_the_broker_takes_precedence_over_a_guess(words: str, says: str) -> None:
    advice = error_mapping.refused(403, f"ACCESS_REFUSED - {words}", "queue 'x'", (50, 10)).advice
    assert says in advice
    assert not re.search("set_[a-z_]*permissions [^`]", advice)  # pasted, it would replace the other patterns
