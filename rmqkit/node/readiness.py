"""Whether a RabbitMQ on this machine accepts logins."""

import socket
import struct


def _method(class_id: int, method_id: int, arguments: bytes) -> bytes:
    """Frame a method on channel 0 (AMQP 0-9-1 section 2.3.5)."""
    payload = struct.pack(">HH", class_id, method_id) + arguments
    return struct.pack(">BHL", 1, 0, len(payload)) + payload + b"\xce"


def _short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


_TIMEOUT_S = 5.0
_PLAIN = b"\0guest\0guest"
_START_OK = bytes(4) + _short(b"PLAIN") + struct.pack(">L", len(_PLAIN)) + _PLAIN + _short(b"en_US")
# The bytes to send, and the method of class 10 (connection) that the broker must answer with (section 1.4).
_CONVERSATION = (
    (b"AMQP\x00\x00\x09\x01", 10),  # start
    (_method(10, 11, _START_OK), 30),  # tune: the login was accepted
    (_method(10, 31, struct.pack(">HLH", 1, 8192, 0)) + _method(10, 40, _short(b"/") + bytes(2)), 41),  # open-ok
    (_method(10, 50, struct.pack(">H", 200) + _short(b"") + bytes(4)), 51),  # close-ok
)


def accepts_logins(port: int) -> bool:
    """Log in as guest, open the virtual host `/`, and close; return whether every step was answered."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), _TIMEOUT_S) as connection,
            connection.makefile("rb") as replies,
        ):
            for request, expected in _CONVERSATION:
                connection.sendall(request)
                _, _, size = struct.unpack(">BHL", replies.read(7))
                answer = struct.unpack_from(">HH", replies.read(size + 1))
                if answer != (10, expected):
                    return False
    except (OSError, struct.error):  # refused, cut off, or not AMQP
        return False
    return True
