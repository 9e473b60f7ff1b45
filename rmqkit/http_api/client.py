"""A client of RabbitMQ's HTTP API, for one virtual host: its entities, its policies and the status of its queues.

AMQP cannot list entities or show bindings and policies; the management plugin can
(https://www.rabbitmq.com/docs/http-api-reference).
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import re
import shlex
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from rmqkit.address import Address
from rmqkit.amqp import error_mapping
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.errors import (
    AccessRefused,
    AuthenticationFailed,
    BrokerError,
    NotFound,
    Refused,
    SettingsError,
    Unreachable,
)
from rmqkit.http_api.mapping import (
    ALARMS,
    LiveTopology,
    QueueTotal,
    binding_of,
    queue_of,
    read,
    status_of,
    total_of,
)
from rmqkit.model import QUEUE_TYPES, Exchange, Policy, Topology
from rmqkit.report import QueueStatus
from rmqkit.settings import Settings

TIMEOUT_S = 30.0  # without a byte
RESPONSE_S = 300.0  # for a complete response
MAX_BYTES = 500_000_000  # of a response; one with a hundred thousand queues has a tenth of it
QUEUE_FIELDS = "name,vhost,type,state,consumers,messages,messages_ready,messages_unacknowledged,message_stats"
_RETRIES_S = (0.2, 1.0)  # pauses before a request is repeated
_PART_BYTES = 1 << 20
_OWN_USER = "whoami"
_log = logging.getLogger("rmqkit.http_api")
T = TypeVar("T")
_ENABLE = "Enable RabbitMQ's management plugin with `rabbitmq-plugins enable rabbitmq_management`, or set `api_url=`."


def connect(connection: ReconnectingConnection, timeout_s: float = TIMEOUT_S) -> HttpApiClient:
    """Return a client for the HTTP API of the broker of an AMQP connection, verified to belong to it.

    Raises SettingsError, Unreachable, AuthenticationFailed, AccessRefused.
    """
    address, cluster_name = connection.server()
    api = HttpApiClient(connection.settings, address, timeout_s)
    api.verify(cluster_name)
    return api


class HttpApiClient:
    """The HTTP API of the broker at an AMQP address, for one virtual host."""

    def __init__(self, settings: Settings, address: Address, timeout_s: float = TIMEOUT_S) -> None:
        self.exchange_types: frozenset[str] = frozenset()  # supported by the broker; read by `verify`
        self._timeout_s = timeout_s
        self._settings = settings
        self._address = address
        self.vhost = address.vhost
        self._vhost = path_part(address.vhost)
        try:
            parts = urlsplit(settings.http_api_url(address))
            self._tls, self._host = parts.scheme == "https", parts.hostname or ""
            self._port = parts.port or (http.client.HTTPS_PORT if self._tls else http.client.HTTP_PORT)
            self._host.encode("idna")  # as a lookup does
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not re.fullmatch(r"[^\s\x00-\x1f\x7f]+", self._host):
            raise SettingsError("`api_url=`: not an http:// or https:// URL", advice="Write http://localhost:15672.")
        self._username = unquote(parts.username) if parts.username else address.username
        self._password = unquote(parts.password) if parts.password else None
        self._path = quote(parts.path.rstrip("/").removesuffix("/api"), safe="/%")

    def __str__(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{self._port}{self._path}"

    @property
    def address(self) -> Address:
        """Return the AMQP address of the broker and virtual host."""
        return self._address

    def for_vhost(self, name: str) -> HttpApiClient:
        """Return a client for another virtual host of the broker."""
        return HttpApiClient(self._settings, replace(self._address, vhost=name), self._timeout_s)

    def verify(self, cluster_name: str) -> None:
        """Check by the name of the cluster that the HTTP API belongs to the broker of the AMQP connection.

        Without an explicit URL, the broker must also listen on the AMQP port. Raises Unreachable, AuthenticationFailed.
        """
        with self._checking_format():
            overview = self._call("GET", "overview")
            self.exchange_types = frozenset(each["name"] for each in overview.get("exchange_types", ()))
            listeners = overview.get("listeners", ())
            ports = {each.get("port") for each in listeners}
        guessed_wrong = not self._settings.api_url and listeners and self._address.port not in ports
        if overview.get("cluster_name") != cluster_name or guessed_wrong:
            raise Unreachable(
                f"the HTTP API at {self} belongs to a different broker than {self._address}",
                advice=f"Set `api_url=` or RMQKIT_API_URL to the management URL of {self._address.host}.",
            )

    def live(self) -> LiveTopology:
        """Return all entities of the virtual host except the default exchange and its bindings.

        Raises Unreachable, AuthenticationFailed, AccessRefused, NotFound.
        """
        with self._checking_format():
            columns = "columns=name,type,durable,auto_delete,arguments"
            exchanges = self._call("GET", f"exchanges/{self._vhost}?{columns},internal")
            queues = self._call("GET", f"queues/{self._vhost}?{columns},exclusive")
            bindings = self._call("GET", f"bindings/{self._vhost}")
            policies, unseen = self._policies()
            default = self._default_queue_type()
            topology = Topology(
                exchanges=tuple(read(Exchange, each) for each in exchanges if each["name"]),
                queues=tuple(queue_of(each, default) for each in queues),
                bindings=tuple(binding_of(each) for each in bindings if each["source"]),
                policies=policies,
            )
            return LiveTopology(topology, default, unseen, self._parameters())

    def queues(self, *, all_vhosts: bool = False) -> tuple[QueueStatus, ...]:
        """Return the status of all queues, sorted by name; RabbitMQ updates the numbers every five seconds.

        With `all_vhosts` those of all virtual hosts that the user may see. Raises the errors of `live`.
        """
        with self._checking_format():
            found = self._call("GET", f"queues{'' if all_vhosts else f'/{self._vhost}'}?columns={QUEUE_FIELDS}")
            return tuple(sorted(map(status_of, found), key=lambda each: (each.name, each.vhost or "")))

    def alarms(self) -> tuple[str, ...]:
        """Return the alarms that block publishers, such as `memory on rabbit@one`; none if the user may not see them.

        Raises Unreachable.
        """
        try:
            nodes = self._call("GET", "nodes?columns=name,mem_alarm,disk_free_alarm")
        except (AccessRefused, AuthenticationFailed):
            return ()
        with self._checking_format():
            return tuple(f"{kind} on {each['name']}" for each in nodes for key, kind in ALARMS.items() if each.get(key))

    def queue_totals(self) -> tuple[QueueTotal, ...]:
        """Return the numbers of messages of all queues, from classic queues themselves, not from the statistics.

        Raises the errors of `live`.
        """
        with self._checking_format():
            found = self._call("GET", f"queues/{self._vhost}?disable_stats=true&enable_queue_totals=true")
            return tuple(map(total_of, found))

    def policies(self) -> tuple[Policy, ...]:
        """Return the policies, or none if the user has no permission to see them. Raises Unreachable."""
        return self._policies()[0]

    def operator_policies(self) -> tuple[Policy, ...]:
        """Return the operator policies, or none if the user has no permission to see them. Raises Unreachable."""
        return self._policies("operator-policies")[0]

    def fetch(self, path: str, convert: Callable[[Any], T]) -> T:
        """Return what `convert` makes of the JSON at a path below `/api/`; `{vhost}` in it is the virtual host.

        `path_part` quotes a name in the path. Raises the errors of `live`, and Unreachable if `convert` raises
        AttributeError, KeyError, TypeError or ValueError.
        """
        with self._checking_format():
            return convert(self._call("GET", path.format(vhost=self._vhost)))

    def user_tags(self) -> frozenset[str]:
        """Return the tags of the user (https://www.rabbitmq.com/docs/management#permissions). Raises Unreachable."""
        tags: Any = self.fetch(_OWN_USER, lambda found: found["tags"])
        return frozenset(tags.split(",") if isinstance(tags, str) else tags)  # text before RabbitMQ 3.9

    def put(self, path: str, body: Mapping[str, Any]) -> None:
        """Create or change what is at a path below `/api/`. Raises the errors of `live`, and Refused."""
        self._call("PUT", path, body)

    def close_connection(self, name: str, reason: str) -> None:
        """Close a connection of a client, which sees the reason. Raises NotFound, AccessRefused, Unreachable."""
        self._call("DELETE", f"connections/{path_part(name)}", reason=reason)

    def put_policy(self, policy: Policy) -> None:
        """Create or change a policy. Raises Refused, Unreachable."""
        body = {"pattern": policy.pattern, "definition": dict(policy.definition), "priority": policy.priority}
        self.put(self._policy(policy.name), body | {"apply-to": policy.apply_to})

    def delete_policy(self, name: str) -> None:
        """Delete a policy if it exists. Raises Refused, Unreachable."""
        with suppress(NotFound):
            self._call("DELETE", self._policy(name))

    def put_virtual_host(self, name: str, settings: Mapping[str, Any] | None = None) -> None:
        """Create a virtual host, with all permissions in it for the user, or change it. Raises Refused, Unreachable."""
        self._call("PUT", f"vhosts/{path_part(name)}", settings)

    def delete_virtual_host(self, name: str) -> None:
        """Delete a virtual host with everything in it. Raises Refused, Unreachable."""
        self._call("DELETE", f"vhosts/{path_part(name)}")

    def _policy(self, name: str) -> str:
        return f"policies/{self._vhost}/{path_part(name)}"

    def _policies(self, kind: str = "policies") -> tuple[tuple[Policy, ...], tuple[str, ...]]:
        try:
            found = self._call("GET", f"{kind}/{self._vhost}")
        except (AccessRefused, AuthenticationFailed):
            return (), (f"Policies are not shown: user {self._username!r} lacks the tag policymaker",)
        with self._checking_format():
            return tuple(read(Policy, each) for each in found), ()

    def _parameters(self) -> tuple[Mapping[str, str], ...] | None:
        """Return the parameters without their values: those of federation and shovels contain passwords."""
        try:
            found = self._call("GET", "parameters")
        except (AccessRefused, AuthenticationFailed):
            return None
        own = (each for each in found if each["vhost"] == self._address.vhost)
        return tuple({"component": each["component"], "name": each["name"]} for each in own)

    def _default_queue_type(self) -> str:
        """Read it from the list: only administrators may read a single virtual host."""
        found = self._call("GET", "vhosts?columns=name,default_queue_type")
        kinds = (each.get("default_queue_type") for each in found if each["name"] == self._address.vhost)
        return next((kind for kind in kinds if kind in QUEUE_TYPES), "classic")

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, reason: str = "") -> Any:
        """Return the content of a response; a GET that RabbitMQ fails to answer, as on a busy node, is repeated."""
        status, answer = self._request(method, path, body, reason)
        for pause_s in _RETRIES_S if method == "GET" else ():
            if _failed(status, answer):
                time.sleep(pause_s)
                status, answer = self._request(method, path, body, reason)
        if status >= http.client.BAD_REQUEST:
            raise self._refusal(status, answer, path)
        with self._checking_format():
            found = json.loads(answer) if answer else None
            return _listed(found, named="columns=name" in path) if isinstance(found, list) else found

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None, reason: str) -> tuple[int, bytes]:
        """Return the status and the content of the response."""
        password = self._password if self._password is not None else self._settings.password(self._address)
        login = base64.b64encode(f"{self._username}:{password}".encode()).decode()
        content = None if body is None else json.dumps(body)
        headers = {"authorization": f"Basic {login}", "content-type": "application/json"}
        if reason:
            headers["x-reason"] = reason
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        started_s = time.monotonic()
        try:
            if self._tls:
                self._encrypt(connection)
            connection.request(method, f"{self._path}/api/{path}", content, headers)
            with connection.getresponse() as response:
                answer = self._read(response)
        except (OSError, http.client.HTTPException) as error:
            raise self._no_response(error) from error
        finally:
            connection.close()
        elapsed_ms = (time.monotonic() - started_s) * 1000
        _log.debug("%s %s/api/%s: %d after %.0f ms", method, self, path, response.status, elapsed_ms)
        return response.status, answer

    def _encrypt(self, connection: http.client.HTTPConnection) -> None:
        """Connect with TLS; with a default address the certificate must match the server name of the AMQP URL."""
        name = self._host if self._settings.api_url else self._address.server_name
        context = self._settings.tls_context(self._address)
        connection.connect()
        connection.sock = context.wrap_socket(connection.sock, server_hostname=name)

    def _no_response(self, error: OSError | http.client.HTTPException) -> Unreachable:
        """Return the error for a failed request."""
        if isinstance(error, ssl.SSLError):
            reason, advice = error_mapping.untrusted(error)
        elif self._tls and isinstance(error, ConnectionResetError | BrokenPipeError):
            reason, advice = error_mapping.HUNG_UP
        elif not isinstance(error, http.client.BadStatusLine):
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            return Unreachable(f"RabbitMQ's HTTP API does not answer at {self}: {reason}", advice=_ENABLE)
        elif str(error).encode("latin-1", "replace").startswith(error_mapping.TLS_ALERT):
            reason, advice = "the server speaks TLS", "Write https:// in `api_url=`."
        else:
            return self._not_the_api()
        return Unreachable(f"RabbitMQ's HTTP API at {self}: {reason}", advice=advice)

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        """Read a response of bounded size in bounded time."""
        parts, size = [], 0
        deadline = time.monotonic() + RESPONSE_S
        while part := response.read1(_PART_BYTES):
            parts.append(part)
            size += len(part)
            if size > MAX_BYTES:
                raise self._not_the_api()
            if time.monotonic() > deadline:
                raise TimeoutError(0, f"the response was incomplete after {RESPONSE_S:g} s")
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return b"".join(parts)

    @contextmanager
    def _checking_format(self) -> Iterator[None]:
        """Report a response of unexpected format as one of another server."""
        try:
            yield
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise self._not_the_api() from error

    def _not_the_api(self) -> Unreachable:
        return Unreachable(f"the server at {self} is not RabbitMQ's HTTP API", advice=_ENABLE)

    def _tag_advice(self, reason: str, path: str) -> str:
        """Return advice on the tag that the user lacks (https://www.rabbitmq.com/docs/management#permissions)."""
        tag = "management"
        if "administrator" in reason:
            tag = "administrator"
        elif "monitor" in reason:
            tag = "monitoring"
        elif tag not in reason and path.startswith("policies"):
            tag = "policymaker"
        lacks = f"User {self._username!r} lacks the tag {tag}."
        try:
            if path == _OWN_USER:
                return lacks
            tags = self._call("GET", _OWN_USER)["tags"]
        except BrokerError:  # without any tag for the HTTP API
            return f"{lacks} `rabbitmqctl list_users` shows its tags; `rabbitmqctl set_user_tags` replaces all of them."
        with self._checking_format():
            tags = tags.split(",") if isinstance(tags, str) else tags  # before RabbitMQ 3.9
            kept = shlex.join([self._username, *filter(None, tags), tag])
            return f"{lacks} Grant it along with the others: `rabbitmqctl set_user_tags {kept}`."

    def _refusal(self, status: int, content: bytes, path: str) -> BrokerError:
        if _failed(status, content):
            phrase = http.client.responses.get(status, "")
            reason = (
                f"RabbitMQ's HTTP API at {self} failed: {status} {phrase}".rstrip()
                + f" for /api/{path.partition('?')[0]}"
            )
            return Unreachable(reason, advice="Try again. If it fails again, see the log of RabbitMQ or of the proxy.")
        with self._checking_format():
            answer = json.loads(content)
            reason = str(answer.get("reason") or answer.get("error"))
        subject = f"{self}/api/{path.partition('?')[0]}"
        match status:
            # "Login failed", "User can only log in via localhost"; RabbitMQ 4 says "Not_Authorized" for the first.
            case 401 if "log" in reason.lower() or reason == "Not_Authorized":
                message = f"{self}: login refused for user {self._username!r}: {reason}"
                advice = "Set another login in `api_url=`: http://USER:PASSWORD@HOST:15672"
                return AuthenticationFailed(message, advice=error_mapping.GUEST if "localhost" in reason else advice)
            case 401 | 403:
                return AccessRefused(403, reason, subject, advice=self._tag_advice(reason, path))
            case 404 if found := re.fullmatch(r"queues/[^/?]+/([^/?]+)(?:\?.*)?", path):
                queue = unquote(found[1])
                text = f"NOT_FOUND - no queue '{queue}' in vhost '{self._address.vhost}'"  # as over AMQP
                return error_mapping.refused(404, text, f"queue {queue!r}")
            case 404:
                return NotFound(404, reason, subject)
            case _:
                return Refused(status, reason, subject)


def _failed(status: int, content: bytes) -> bool:
    """Tell whether RabbitMQ, or a proxy in front of it, could not answer: it gives no reason."""
    return status >= http.client.INTERNAL_SERVER_ERROR and not content.startswith(b"{")


def _listed(found: list[Any], *, named: bool) -> list[Any]:
    """Leave out what is being deleted: RabbitMQ lists it without its name, or as `{}`, or before 4.0 as `[]`."""
    return [each for each in found if each not in ({}, []) and (not named or "name" in each)]


def path_part(name: str) -> str:
    """Return a name as one part of a path. Raises Unreachable for those that paths resolve, percent-encoded or not."""
    if name in (".", ".."):
        raise Unreachable(f"RabbitMQ's HTTP API cannot address the name {name!r}", advice="Use another name.")
    return quote(name, safe="")
