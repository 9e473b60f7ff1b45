"""TLS against a real RabbitMQ: what is right works, and all that can be wrong has an error of its own (8)."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import rmqkit
from rmqkit import AuthenticationFailed, Message, PublishOptions, SettingsError, Unreachable
from rmqkit.address import Tls
from rmqkit.settings import Settings, load_settings
from tests.conftest import FOLDER
from tests.faults.tls import KEY_PASSWORD, TlsNode, tls_node, token
from tests.support.cli import rmqkit as command

CANARY = "c4n4ry-p4ss"
BOUND_S = 15.0  # of each failure; all take milliseconds on a machine that is not busy


@pytest.fixture(scope="module")
def tls() -> TlsNode:
    """The node, one for all workers; it ends with the session."""
    secrets = {"RMQKIT_PASSWORD": CANARY, "RABBITMQ_DEFAULT_PASS": CANARY}
    with mock.patch.dict(os.environ, secrets):
        return tls_node(Path(os.environ[FOLDER]) / "tls")


def logs_in(url: str, **flags: Any) -> None:
    """Log in and do something, over AMQP."""
    with rmqkit.connect(settings=load_settings([url], **flags)) as connection:
        connection.plan(rmqkit.Topology())


def of_client(tls: TlsNode, certificate: str = "client.pem", key: str = "client.key", **more: str) -> Tls:
    return Tls(tls.files["ca.pem"], tls.files[certificate], tls.files[key] if key else "", **more)  # type: ignore[arg-type]


def test_a_valid_certificate_is_accepted_over_amqp_and_https(tls: TlsNode) -> None:
    trusted = Tls(tls.files["ca.pem"])
    api = f"https://localhost:{tls.ports['https']}"
    settings = load_settings([tls.url("right")], tls=trusted, api_url=api)
    with rmqkit.connect(settings=settings) as connection:
        queue = connection.subscribe("amq.fanout")
        connection.publish(Message(b"x" * 300_000, "", "amq.fanout"))
        assert [len(each.body) for each in connection.consume(queue, count=1)] == [300_000]
        assert connection.live().default_queue_type == "classic"
    logs_in(tls.url("right", cacertfile=tls.files["ca.pem"]))
    logs_in(tls.url("right", host="127.0.0.1", server_name_indication="localhost"), tls=trusted)


def test_a_private_node_inherits_no_credentials(tls: TlsNode) -> None:
    assert CANARY.encode() not in Path(f"/proc/{tls.node.pid}/environ").read_bytes()


# How we call it: port, our certificate, and what the error must say.
WRONG = {
    "the system's authorities": ("right", "", "", "localhost", "authority that is not trusted", "--tls-ca-file"),
    "another authority": ("right", "other_ca.pem", "", "localhost", "authority that is not trusted", "--tls-ca-file"),
    "another host name": ("right", "ca.pem", "", "127.0.0.1", "does not match the host name", "server_name_indication"),
    "expired": ("expired", "ca.pem", "", "localhost", "has expired", "Renew"),
    "self-signed": ("self_signed", "ca.pem", "", "localhost", "self-signed", "--tls-ca-file"),
    "none of ours": (
        "mutual",
        "ca.pem",
        "",
        "localhost",
        "",
        "--tls-cert-file",
    ),  # what it says depends on who is first
    "one of ours that is not known": ("mutual", "ca.pem", "stranger", "localhost", "", "--tls-cert-file"),
}


@pytest.mark.fault(8)
@pytest.mark.parametrize("protocol", ["amqps", "https"])
@pytest.mark.parametrize("wrong", WRONG)
def test_each_kind_of_wrong_certificate_has_a_distinct_error(tls: TlsNode, wrong: str, protocol: str) -> None:
    port, authority, certificate, host, says, advises = WRONG[wrong]
    url = tls.url(port, host=host) if protocol == "amqps" else tls.node.url
    options = ["--url", url, "--api-url", f"https://{host}:{tls.ports[port]}"]
    options += ["--tls-ca-file", tls.files[authority]] if authority else []
    if certificate:
        options += ["--tls-cert-file", tls.files[f"{certificate}.pem"]]
        options += ["--tls-key-file", tls.files[f"{certificate}.key"]]
    started = time.monotonic()
    done = command("status", *options)
    assert time.monotonic() - started < BOUND_S
    assert (done.returncode, done.stdout) == (4, "")
    first, _, rest = done.stderr.partition("\n")
    assert f"{protocol}://" in first
    assert f"{host}:{tls.ports[port]}" in first
    assert says in first
    assert advises in rest


# What answers at the port, what we speak, and what the error must say.
MISTAKEN = {
    "TLS to a plain port": ("amqps", "plain", "does not speak TLS", "amqp://"),
    "plain to a TLS port": ("amqp", "right", "speaks TLS", "amqps://"),
    "plain to a port that wants a certificate": ("amqp", "mutual", "speaks TLS", "amqps://"),
    "HTTPS to HTTP": ("https", "http", "does not speak TLS", "http://"),
    "HTTP to HTTPS": ("http", "https", "speaks TLS", "https://"),
    "HTTPS to AMQP in TLS": ("https", "right", "is not RabbitMQ's HTTP API", "management"),
}


@pytest.mark.fault(8)
@pytest.mark.parametrize("mistaken", MISTAKEN)
def test_the_error_for_another_protocol_names_it(tls: TlsNode, mistaken: str) -> None:
    scheme, port, says, advises = MISTAKEN[mistaken]
    status = tls.node.status()
    known = {"plain": status.port, "http": int(status.management_url.strip("/").rpartition(":")[2])} | tls.ports
    there = f"{scheme}://localhost:{known[port]}"
    url = there if scheme.startswith("amqp") else tls.node.url
    ca_file = tls.files["ca.pem"] if scheme.endswith("s") else ""
    started = time.monotonic()
    with (
        pytest.raises(Unreachable) as caught,
        rmqkit.connect(
            settings=load_settings([url], tls=Tls(ca_file), api_url="" if url == there else there)
        ) as connection,
    ):
        connection.live()
    assert time.monotonic() - started < BOUND_S
    assert says in caught.value.message
    assert f"localhost:{known[port]}" in caught.value.message
    assert advises in caught.value.advice


def test_the_client_certificate_is_sent_to_a_broker_that_asks_for_it(tls: TlsNode) -> None:
    logs_in(tls.url("mutual"), tls=of_client(tls))
    files = {"cacertfile": "ca.pem", "certfile": "client.pem", "keyfile": "client.key"}
    logs_in(tls.url("mutual", **{name: tls.files[file] for name, file in files.items()}))


def test_an_encrypted_key_is_opened_with_its_password(tls: TlsNode, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(KEY_PASSWORD + "\n")
    logs_in(tls.url("mutual"), tls=of_client(tls, key="encrypted.key", key_password_file=str(secret)))
    files = {"cacertfile": "ca.pem", "certfile": "client.pem", "keyfile": "encrypted.key"}
    given = {name: tls.files[file] for name, file in files.items()}
    logs_in(tls.url("mutual", password=KEY_PASSWORD.replace(" ", "%20"), **given))


def test_an_unusable_file_is_named_with_the_reason_before_anything_is_sent(tls: TlsNode, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("wrong")
    (tmp_path / "empty.pem").touch()
    secret, empty, missing = str(tmp_path / "secret"), str(tmp_path / "empty.pem"), str(tmp_path / "missing.pem")
    ca, certificate = tls.files["ca.pem"], tls.files["client.pem"]
    for bad, says in {
        of_client(tls, key="server.key"): "server.key: the key does not belong to the certificate",
        of_client(tls, key="encrypted.key"): "encrypted.key: the key is encrypted",
        of_client(tls, key="encrypted.key", key_password_file=secret): "the password does not open the key",
        of_client(tls, key=""): "client.pem: not a PEM certificate with its key",
        Tls(ca, certificate, missing): "`key_file=`: .*missing.pem: No such file",
        Tls(ca, missing): "`cert_file=`: .*missing.pem: No such file",
        Tls(ca, empty): "empty.pem: not a PEM certificate",
        Tls(missing): "`ca_file=`: .*missing.pem: No such file",
        Tls(empty): "`ca_file=`: .*empty.pem: not a PEM certificate",
        Tls(str(tmp_path)): "`ca_file=`: .*: Is a directory",
    }.items():
        with pytest.raises(SettingsError, match=says):
            logs_in(tls.url("mutual"), tls=bad)
    done = command("publish", "-q", "q", "x", "-u", tls.url("right"), "--tls-ca-file", missing, "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]) == (2, "SettingsError")


@pytest.mark.parametrize("how", ["--tls-insecure", "verify_none"])
def test_without_verification_any_certificate_is_accepted_with_a_warning(tls: TlsNode, how: str) -> None:
    options = ["--tls-insecure"] if how == "--tls-insecure" else []
    url = tls.url("self_signed", **({} if options else {"verify": how}))
    done = command("status", "--url", url, "--api-url", f"https://127.0.0.1:{tls.ports['https']}", *options)
    assert done.returncode == 0
    assert done.stderr.count("warning: ") == 1
    assert "certificate and host name are not verified" in done.stderr


def test_external_logs_in_as_the_user_of_the_certificate(tls: TlsNode) -> None:
    url = tls.url("mutual", login="", auth_mechanism="external")
    settings = load_settings([url], tls=of_client(tls))
    with rmqkit.connect(settings=settings) as connection:
        connection.subscribe("amq.fanout")
        users = tls.node.ctl("-q", "list_connections", "user", "auth_mechanism").stdout
        assert "ada\tEXTERNAL" in users.splitlines()
    assert str(settings.addresses[0]) == f"amqps://localhost:{tls.ports['mutual']}/"


def test_external_with_a_certificate_without_a_user_is_a_refused_login(tls: TlsNode) -> None:
    url = tls.url("mutual", login="", auth_mechanism="external")
    done = command(
        "publish", "-q", "q", "x", "-u", url, "--tls-ca-file", tls.files["ca.pem"],
        "--tls-cert-file", tls.files["unknown_user.pem"], "--tls-key-file", tls.files["unknown_user.key"],
    )  # fmt: skip
    assert done.returncode == 4
    assert "login refused for the client certificate" in done.stderr
    assert "ssl_cert_login_from" in done.stderr
    with pytest.raises(SettingsError, match="needs a client certificate"):
        logs_in(url, tls=Tls(tls.files["ca.pem"]))


def by_token(tls: TlsNode, secret: Path, valid_s: float) -> Settings:
    secret.write_text(token(valid_s=valid_s))
    return load_settings(
        [tls.url("right", login="anybody@")], password_file=secret, tls=Tls(tls.files["ca.pem"]), environ={}
    )


def publish_until_republished(connection: rmqkit.Connection) -> None:
    """Publish on a new channel each time: RabbitMQ looks at a token's end once a channel, and then once a minute."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        options = PublishOptions(mandatory=False)  # a channel for mandatory messages would be kept
        report = connection.publish(Message(b"", "", "amq.fanout"), options=options)
        assert report.refused == report.nacked == report.unknown == 0
        if report.republished:
            return
    pytest.fail("the token did not expire")


@pytest.mark.fault(25)
def test_an_oauth2_token_is_a_password_and_a_new_one_is_read_when_it_has_expired(tls: TlsNode, tmp_path: Path) -> None:
    with rmqkit.connect(settings=by_token(tls, tmp_path / "token", 2)) as connection:
        connection.publish(Message(b"", "", "amq.fanout"), options=PublishOptions(mandatory=False))
        (tmp_path / "token").write_text(token())
        publish_until_republished(connection)


@pytest.mark.fault(25)
def test_an_expired_token_that_is_not_renewed_ends_the_run(tls: TlsNode, tmp_path: Path) -> None:
    settings = by_token(tls, tmp_path / "token", 2)
    with rmqkit.connect(settings=settings) as connection, pytest.raises(AuthenticationFailed, match="login refused"):
        publish_until_republished(connection)


def _checks(done: Any) -> dict[str, tuple[str, str]]:
    return {each["name"]: (each["level"], each["message"]) for each in json.loads(done.stdout)["checks"]}


def test_check_tells_how_long_the_certificate_is_valid(tls: TlsNode) -> None:
    options = ("check", "-u", tls.url("right"), "--tls-ca-file", tls.files["ca.pem"], "--json")
    env = {"RMQKIT_API_URL": f"https://guest:guest@localhost:{tls.ports['https']}"}

    def level(*more: str) -> tuple[str, str]:
        return _checks(command(*options, *more, env=env))["certificate"]

    days = int(level("--min-cert-days=0")[1].rpartition(" days")[0].rpartition(" ")[2].replace(",", ""))
    assert level("--min-cert-days=0")[0] == "ok"
    assert level(f"--min-cert-days={days - 1}")[0] == "warning"
    assert level(f"--min-cert-days={days + 2}")[0] == "critical"
    assert _checks(command(*options, env=env))["listeners"][0] == "ok"
    insecure = _checks(command("check", "-u", tls.url("right"), "--tls-insecure", "--json", env=env))
    assert insecure["certificate"][0] == "unknown"
    expired = command("check", "-u", tls.url("expired"), "--tls-ca-file", tls.files["ca.pem"], "--json", env=env)
    assert (expired.returncode, list(_checks(expired))) == (4, ["connection"])
