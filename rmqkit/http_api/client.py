"""RabbitMQ's HTTP API: what a virtual host holds, its policies, and how its queues do.

AMQP cannot show bindings, policies and what else is there; the management plugin can
(https://www.rabbitmq.com/docs/http-api-reference).
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import shlex
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from rmqkit.address import Address
from rmqkit.amqp import error_mapping
from rmqkit.amqp.reconnect import ReconnectingConnection
from rmqkit.errors import (
    AccessRefused,
    AuthenticationFailed,
    BrokerError,
    NotFound,
    Refused,
    SettingsError,
    Unreachable,
)
from rmqkit.http_api.mapping import QUEUE_TYPES, fields_of, queue_of, status_of
from rmqkit.model import Binding, Exchange, Policy, Topology
from rmqkit.report import QueueStatus
from rmqkit.settings import Settings

TIMEOUT_S = 30.0  # without a byte
ANSWER_S = 300.0  # for all of them
MAX_BYTES = 500_000_000  # of an answer; a hundred thousand queues take a tenth
_PART_BYTES = 1 << 20
PORT, TLS_PORT = 15672, 15671
_ENABLE = (
    "It is RabbitMQ's management plugin: `rabbitmq-plugins enable rabbitmq_management`; --api-url says where it is."
)


@dataclass(frozen=True, slots=True)
class LiveTopology:
    """What a virtual host holds; `unseen` says in sentences what its user may not look at.

    `parameters` are its runtime parameters (https://www.rabbitmq.com/docs/parameters), each with its component and
    name; None if its user may not look at them.
    """

    topology: Topology
    default_queue_type: str = "classic"
    unseen: tuple[str, ...] = ()
    parameters: tuple[Mapping[str, str], ...] | None = ()


def connect(connection: ReconnectingConnection) -> HttpApiClient:
    """Return the HTTP API of the broker that an AMQP connection leads to.

    Raises SettingsError, Unreachable, AuthenticationFailed, AccessRefused if it does not answer, or not to this user.
    """
    address, cluster_name = connection.server()
    api = HttpApiClient(connection.settings, address)
    api.verify(cluster_name)
    return api


class HttpApiClient:
    """The HTTP API of the broker that an AMQP connection leads to, for one virtual host."""

    def __init__(self, settings: Settings, address: Address) -> None:
        self._settings = settings
        self._address = address
        self._vhost = quote(address.vhost, safe="")
        scheme = "https" if address.tls else "http"
        host = f"[{address.host}]" if ":" in address.host else address.host
        url = settings.api_url or f"{scheme}://{host}:{TLS_PORT if address.tls else PORT}"
        try:
            parts = urlsplit(url)
            self._tls, self._host = parts.scheme == "https", parts.hostname or ""
            self._port = parts.port or (http.client.HTTPS_PORT if self._tls else http.client.HTTP_PORT)
            self._host.encode("idna")  # as it is when it is looked up
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not re.fullmatch(r"[^\s\x00-\x1f\x7f]+", self._host):
            raise SettingsError("--api-url: not an http:// or https:// URL", advice="write http://localhost:15672")
        self._username = unquote(parts.username) if parts.username else address.username
        self._password = unquote(parts.password) if parts.password else None
        self._path = quote(parts.path.rstrip("/").removesuffix("/api"), safe="/%")

    def __str__(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{self._port}{self._path}"

    def verify(self, cluster_name: str) -> None:
        """Make sure that it is the broker that AMQP leads to, as far as the names of clusters tell.

        A guessed address must also listen at the port that AMQP goes to. Raises Unreachable, AuthenticationFailed.
        """
        with self._recognised():
            overview = self._call("GET", "overview")
            listeners = overview.get("listeners", ())
            ports = {each.get("port") for each in listeners}
        guessed_wrong = not self._settings.api_url and listeners and self._address.port not in ports
        if overview.get("cluster_name") != cluster_name or guessed_wrong:
            raise Unreachable(
                f"{self}: this HTTP API belongs to another broker than {self._address}", advice="Give --api-url."
            )

    def live(self) -> LiveTopology:
        """Return all that the virtual host holds but the default exchange and its bindings.

        Raises Unreachable, AuthenticationFailed, AccessRefused, NotFound.
        """
        with self._recognised():
            exchanges = self._call(
                "GET", f"exchanges/{self._vhost}?columns=name,type,durable,auto_delete,internal,arguments"
            )
            queues = self._call(
                "GET", f"queues/{self._vhost}?columns=name,type,durable,auto_delete,exclusive,arguments"
            )
            bindings = self._call("GET", f"bindings/{self._vhost}")
            policies, unseen = self._policies()
            default = self._default_queue_type()
            topology = Topology(
                exchanges=tuple(Exchange(**fields_of(each, Exchange)) for each in exchanges if each["name"]),
                queues=tuple(queue_of(each, default) for each in queues),
                bindings=tuple(Binding(**fields_of(each, Binding)) for each in bindings if each["source"]),
                policies=policies,
            )
            return LiveTopology(topology, default, unseen, self._parameters())

    def queues(self) -> tuple[QueueStatus, ...]:
        """Return how the queues do, sorted by name; RabbitMQ brings its numbers up to date every five seconds.

        Raises what `live` raises.
        """
        columns = "name,type,state,consumers,messages_ready,messages_unacknowledged,message_stats"
        with self._recognised():
            found = self._call("GET", f"queues/{self._vhost}?columns={columns}")
            return tuple(sorted(map(status_of, found), key=lambda each: each.name))

    def put_policy(self, policy: Policy) -> None:
        """Create a policy, or change it. Raises Refused, Unreachable."""
        body = {"pattern": policy.pattern, "definition": dict(policy.definition), "priority": policy.priority}
        self._call("PUT", self._policy(policy.name), body | {"apply-to": policy.apply_to})

    def delete_policy(self, name: str) -> None:
        """Delete a policy, if it is there. Raises Refused, Unreachable."""
        try:
            self._call("DELETE", self._policy(name))
        except NotFound:
            return

    def create_virtual_host(self, name: str) -> None:
        """Create a virtual host, with all permissions in it for the user. Raises Refused, Unreachable."""
        self._call("PUT", f"vhosts/{quote(name, safe='')}")

    def delete_virtual_host(self, name: str) -> None:
        """Delete a virtual host and all that is in it. Raises Refused, Unreachable."""
        self._call("DELETE", f"vhosts/{quote(name, safe='')}")

    def _policy(self, name: str) -> str:
        return f"policies/{self._vhost}/{quote(name, safe='')}"

    def _policies(self) -> tuple[tuple[Policy, ...], tuple[str, ...]]:
        try:
            found = self._call("GET", f"policies/{self._vhost}")
        except (AccessRefused, AuthenticationFailed):
            return (), (f"Policies cannot be seen: the user {self._username!r} lacks the tag policymaker",)
        return tuple(Policy(**fields_of(each, Policy)) for each in found), ()

    def _parameters(self) -> tuple[Mapping[str, str], ...] | None:
        """Return no values: those of federation and shovels hold passwords."""
        try:
            found = self._call("GET", "parameters")
        except (AccessRefused, AuthenticationFailed):
            return None
        mine = (each for each in found if each["vhost"] == self._address.vhost)
        return tuple({"component": each["component"], "name": each["name"]} for each in mine)

    def _default_queue_type(self) -> str:
        """Look into the list: an entry of its own is for administrators."""
        found = self._call("GET", "vhosts?columns=name,default_queue_type")
        kinds = (each.get("default_queue_type") for each in found if each["name"] == self._address.vhost)
        return next((kind for kind in kinds if kind in QUEUE_TYPES), "classic")

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        password = self._password if self._password is not None else self._settings.password(self._address)
        login = base64.b64encode(f"{self._username}:{password}".encode()).decode()
        content = None if body is None else json.dumps(body)
        headers = {"authorization": f"Basic {login}", "content-type": "application/json"}
        connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        try:
            if self._tls:
                self._encrypt(connection)
            connection.request(method, f"{self._path}/api/{path}", content, headers)
            with connection.getresponse() as response:
                answer = self._read(response)
        except (OSError, http.client.HTTPException) as error:
            raise self._silence(error) from error
        finally:
            connection.close()
        if response.status >= http.client.BAD_REQUEST:
            raise self._refusal(response.status, answer, path)
        return self._parsed(answer) if answer else None

    def _encrypt(self, connection: http.client.HTTPConnection) -> None:
        """Connect, and speak TLS; the name to expect may be that of the URL, where the API is only guessed."""
        name = self._host if self._settings.api_url else self._address.server_name
        context = self._settings.tls_context(self._address)
        connection.connect()
        connection.sock = context.wrap_socket(connection.sock, server_hostname=name)

    def _silence(self, error: OSError | http.client.HTTPException) -> Unreachable:
        """Say why there was no answer."""
        if isinstance(error, ssl.SSLError):
            what, advice = error_mapping.untrusted(error)
        elif self._tls and isinstance(error, ConnectionResetError | BrokenPipeError):
            what, advice = error_mapping.HUNG_UP
        elif not isinstance(error, http.client.BadStatusLine):
            what = getattr(error, "strerror", None) or str(error) or type(error).__name__
            return Unreachable(f"RabbitMQ's HTTP API does not answer at {self}: {what}", advice=_ENABLE)
        elif str(error).encode("latin-1", "replace").startswith(error_mapping.TLS_ALERT):
            what, advice = "it speaks TLS", "Write https:// in --api-url."
        else:
            return self._stranger()
        return Unreachable(f"RabbitMQ's HTTP API at {self}: {what}", advice=advice)

    def _parsed(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise self._stranger() from error

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        """Read an answer, unless it has no end, or comes so slowly that it is as good as none."""
        parts, size = [], 0
        until_s = time.monotonic() + ANSWER_S
        while part := response.read1(_PART_BYTES):
            parts.append(part)
            size += len(part)
            if size > MAX_BYTES:
                raise self._stranger()
            if time.monotonic() > until_s:
                raise TimeoutError(0, f"the answer was not whole after {ANSWER_S:g} s")
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return b"".join(parts)

    @contextmanager
    def _recognised(self) -> Iterator[None]:
        """Call an answer that is not made as RabbitMQ's are that of a stranger."""
        try:
            yield
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._stranger() from error

    def _stranger(self) -> Unreachable:
        return Unreachable(f"what answers at {self} is not RabbitMQ's HTTP API", advice=_ENABLE)

    def _tag(self, reason: str, path: str) -> str:
        """Say which tag the user lacks (https://www.rabbitmq.com/docs/management#permissions)."""
        tag = "management"
        if "administrator" in reason:
            tag = "administrator"
        elif tag not in reason and path.startswith("policies"):
            tag = "policymaker"
        user = shlex.quote(self._username)
        return f"The user lacks the tag {tag}: `rabbitmqctl set_user_tags {user} {tag}` gives it, and takes all others."

    def _refusal(self, status: int, content: bytes, path: str) -> BrokerError:
        try:
            answer = json.loads(content)
            reason = str(answer.get("reason") or answer.get("error"))
        except (ValueError, RecursionError, AttributeError):
            return self._stranger()
        subject = f"{self}/api/{path.partition('?')[0]}"
        match status:
            # "Login failed", "User can only log in via localhost"; RabbitMQ 4 says "Not_Authorized" for the first.
            case 401 if "log" in reason.lower() or reason == "Not_Authorized":
                what = f"{self}: the login of the user {self._username!r} was refused: {reason}"
                advice = "--api-url may name another: http://USER:PASSWORD@HOST:15672"
                return AuthenticationFailed(what, advice=error_mapping.GUEST if "localhost" in reason else advice)
            case 401 | 403:
                return AccessRefused(403, reason, subject, advice=self._tag(reason, path))
            case 404:
                return NotFound(404, reason, subject)
            case _:
                return Refused(status, reason, subject)
