"""A RabbitMQ that speaks TLS, and the certificates it needs, right and wrong ones."""

from __future__ import annotations

import fcntl
import hmac
import json
import socket
import time
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from rmqkit.node.node import Node

KEY_PASSWORD = "of the key"
TOKEN_KEY = b"of the tests, and nobody else's!"
PLUGINS = "rabbitmq_management, rabbitmq_auth_mechanism_ssl, rabbitmq_auth_backend_oauth2"
# What each TLS port answers with: a certificate, and how it asks for the client's.
PORTS = {
    "right": ("server", "{verify, verify_none}"),
    "mutual": ("server", "{verify, verify_peer}, {fail_if_no_peer_cert, true}"),
    "expired": ("expired", "{verify, verify_none}"),
    "self_signed": ("self_signed", "{verify, verify_none}"),
}


class Certificates:
    """Files in a folder: `NAME.pem` is a certificate, `NAME.key` its key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "certificates"

    def make(self) -> None:
        """Make them all."""
        self._folder.mkdir()
        authority, stranger = trustme.CA(), trustme.CA()
        self._write("ca.pem", authority.cert_pem)
        self._write("other_ca.pem", stranger.cert_pem)
        past = datetime.now(UTC) - timedelta(days=2)
        for name, issued in {
            "server": authority.issue_cert("localhost"),
            "expired": authority.issue_cert("localhost", not_before=past, not_after=past + timedelta(days=1)),
            "client": authority.issue_cert("client@example.com", common_name="ada"),
            "unknown_user": authority.issue_cert("client@example.com", common_name="nobody"),
            "stranger": stranger.issue_cert("client@example.com", common_name="ada"),
        }.items():
            self._write(f"{name}.pem", issued.cert_chain_pems[0])
            self._write(f"{name}.key", issued.private_key_pem)
        own = trustme.CA()  # its certificate is signed by itself
        self._write("self_signed.pem", own.cert_pem)
        self._write("self_signed.key", own.private_key_pem)
        key = load_pem_private_key(Path(self["client.key"]).read_bytes(), None)
        locked = BestAvailableEncryption(KEY_PASSWORD.encode())
        encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)
        (self._folder / "encrypted.key").write_bytes(encrypted)
        (self._folder / "encrypted.key").chmod(0o600)

    def __getitem__(self, name: str) -> str:
        return str(self._folder / name)

    def _write(self, name: str, content: trustme.Blob) -> None:
        content.write_to_path(self[name])
        Path(self[name]).chmod(0o600)


@dataclass(frozen=True)
class TlsNode:
    """A node, its ports by the names of PORTS, `https` that of its HTTP API, and the certificates."""

    node: Node
    ports: dict[str, int]
    files: Certificates

    def url(self, port: str, login: str = "guest:guest@", host: str = "localhost", **query: str) -> str:
        """Return the URL of one of its TLS ports."""
        return f"amqps://{login}{host}:{self.ports[port]}/?" + "&".join(f"{k}={v}" for k, v in query.items())


def tls_node(folder: Path) -> TlsNode:
    """Start a node with all of PORTS, logins by certificate and token, and a user `ada` without password.

    It may run already, or be started by another process at this moment: then it is that one.
    """
    folder.mkdir(exist_ok=True)
    with (folder / "tls.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known, files = folder / "tls.json", Certificates(folder)
        if not known.exists():
            files.make()
            known.write_text(json.dumps(_start(folder, files)))
        return TlsNode(Node(folder), json.loads(known.read_text()), files)


def _start(folder: Path, files: Certificates) -> dict[str, int]:
    (folder / "conf.d").mkdir()
    ports = dict(zip([*PORTS, "https"], _free_ports(len(PORTS) + 1), strict=True))
    (folder / "conf.d" / "10-tls.conf").write_text(
        f"management.ssl.ip = 127.0.0.1\nmanagement.ssl.port = {ports['https']}\n"
        f"management.ssl.cacertfile = {files['ca.pem']}\n"
        f"management.ssl.certfile = {files['server.pem']}\nmanagement.ssl.keyfile = {files['server.key']}\n"
        "auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = EXTERNAL\nssl_cert_login_from = common_name\n"
        "ssl_options.verify = verify_peer\n"  # EXTERNAL looks here, whatever a port's own options say
    )
    node = Node(folder)
    node.start(port=0)
    (folder / "enabled_plugins").write_text(f"[{PLUGINS}].\n")
    done = node.ctl("eval", _open_ports(folder, ports, files))
    assert done.returncode == 0, done.stderr
    return ports


def _open_ports(folder: Path, ports: dict[str, int], files: Certificates) -> str:
    """Return Erlang that opens the TLS ports: RabbitMQ's configuration knows one set of TLS options only."""
    steps = [f'rabbit_plugins:ensure("{folder}/enabled_plugins")']
    for name, (certificate, asks) in PORTS.items():
        options = ", ".join(
            f"{{{option}, {json.dumps(files[file])}}}"
            for option, file in {
                "cacertfile": "ca.pem",
                "certfile": f"{certificate}.pem",
                "keyfile": f"{certificate}.key",
            }.items()
        )
        steps.append(f'rabbit_networking:start_ssl_listener({{"127.0.0.1", {ports[name]}}}, [{options}, {asks}], 1)')
    key = f'#{{<<"kty">> => <<"oct">>, <<"k">> => <<"{encoded(TOKEN_KEY)}">>, <<"alg">> => <<"HS256">>}}'
    keys = f'[{{signing_keys, #{{<<"k">> => {{map, {key}}}}}}}]'
    steps += [
        'application:set_env(rabbitmq_auth_backend_oauth2, resource_server_id, <<"rabbitmq">>)',
        f"application:set_env(rabbitmq_auth_backend_oauth2, key_config, {keys})",
        "application:set_env(rabbit, auth_backends, [rabbit_auth_backend_internal, rabbit_auth_backend_oauth2])",
    ]
    user = 'rabbit_auth_backend_internal:add_user(<<"ada">>, <<"unused">>, <<"test">>)'
    grant = '<<"ada">>, <<"/">>, <<".*">>, <<".*">>, <<".*">>, <<"test">>'
    clear = 'rabbit_auth_backend_internal:clear_password(<<"ada">>, <<"test">>)'
    steps += [user, clear, f"rabbit_auth_backend_internal:set_permissions({grant})"]
    return ", ".join(steps) + "."


def token(*, valid_s: float = 60, **claims: object) -> str:
    """Return an OAuth2 token (RFC 7519) that the node accepts for so long, with all permissions."""
    scopes = [f"rabbitmq.{right}:*/*" for right in ("configure", "write", "read")]
    claims = {"sub": "ada", "aud": ["rabbitmq"], "scope": scopes, "exp": int(time.time() + valid_s)} | claims
    head = {"alg": "HS256", "typ": "JWT", "kid": "k"}
    signed = ".".join(encoded(json.dumps(part).encode()) for part in (head, claims))
    return f"{signed}.{encoded(hmac.digest(TOKEN_KEY, signed.encode(), 'sha256'))}"


def encoded(data: bytes) -> str:
    """Encode as the parts of a token are."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
