"""Which broker is meant: URLs, precedence, secrets, TLS."""

from __future__ import annotations

import os
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from rmqkit.address import DEFAULT_URL, Address, Tls, parse_urls
from rmqkit.errors import SettingsError
from rmqkit.settings import Settings, load_settings

CANARY = "c4n4ry"


def one(url: str) -> Address:
    (address,) = parse_urls(url)
    return address


# Appendix A of https://www.rabbitmq.com/docs/uri-spec; what is absent there has our default here. The one decision:
# `amqp://:@/` and `amqp://host/` have the empty virtual host in that table, and `/` with us.
APPENDIX: list[tuple[str, tuple[object, ...]]] = [
    ("amqp://user:pass@host:10000/vhost", ("user", "pass", "host", 10000, "vhost")),
    ("amqp://user%61:%61pass@ho%61st:10000/v%2fhost", ("usera", "apass", "hoast", 10000, "v/host")),
    ("amqp://", ("guest", "guest", "localhost", 5672, "/")),
    ("amqp://:@/", ("", "", "localhost", 5672, "/")),
    ("amqp://user@", ("user", None, "localhost", 5672, "/")),
    ("amqp://user:pass@", ("user", "pass", "localhost", 5672, "/")),
    ("amqp://host", ("guest", "guest", "host", 5672, "/")),
    ("amqp://:10000", ("guest", "guest", "localhost", 10000, "/")),
    ("amqp:///vhost", ("guest", "guest", "localhost", 5672, "vhost")),
    ("amqp://host/", ("guest", "guest", "host", 5672, "/")),
    ("amqp://host/%2f", ("guest", "guest", "host", 5672, "/")),
    ("amqp://[::1]", ("guest", "guest", "::1", 5672, "/")),
]
MORE: list[tuple[str, tuple[object, ...]]] = [
    ("amqps://host", ("guest", "guest", "host", 5671, "/")),
    ("amqp://Rabbit.Example", ("guest", "guest", "rabbit.example", 5672, "/")),
    ("AMQPS://host", ("guest", "guest", "host", 5671, "/")),
    ("amqp://u:a%2Fb%40c%25d%3F@h", ("u", "a/b@c%d?", "h", 5672, "/")),
    ("amqp://u:a:b@h", ("u", "a:b", "h", 5672, "/")),
    ("amqp://u:a,b@h", ("u", "a,b", "h", 5672, "/")),
    ("amqp://u:@h", ("u", "", "h", 5672, "/")),
    ("amqp://h/%2Fv", ("guest", "guest", "h", 5672, "/v")),
    ("amqp://[::1]:5673/v", ("guest", "guest", "::1", 5673, "v")),
    ("amqp://[fe80::1%25eth0]", ("guest", "guest", "fe80::1%eth0", 5672, "/")),
    ("  amqp://h:/é\n", ("guest", "guest", "h", 5672, "é")),
    (DEFAULT_URL, ("guest", "guest", "localhost", 5672, "/")),
]


@pytest.mark.parametrize(("url", "expected"), APPENDIX + MORE)
def test_a_url_is_read_as_the_specification_says(url: str, expected: tuple[object, ...]) -> None:
    address = one(url)
    assert (address.username, address.password, address.host, address.port, address.vhost) == expected


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"amqp://user:{CANARY}/x@host/v", "%2F"),
        (f"amqp://user:1234/{CANARY}@host/v", "%2F"),
        (f"amqp://user:{CANARY}@x@host/v", "%40"),
        (f"amqp://user:x@{CANARY}/y@host/v", "%40"),
        (f"amqp://user:x?{CANARY}@host", "%40"),
        (f"amqp://user:{CANARY}?x", "host:port"),
        (f"amqp://user:{CANARY}#x@host", "%23"),
        (f"amqp://user:{CANARY} x@host", "%20"),
        (f"amqp://user:{CANARY}%zz@host", "%25"),
        (f"amqp://user:{CANARY}%@host", "%25"),
        (f"amqp://user:{CANARY}%ff@host", "not UTF-8"),
        (f"amqp://user:{CANARY}%00@host", "NUL"),
        (f"amqp://user:{CANARY}\udcff@host", "invalid character"),
        (f"amqp://user:{CANARY}", "host:port"),
        (f"user:{CANARY}@host", "Write amqp://"),
        (f"http://user:{CANARY}@host", "Write amqp://"),
        (f"{CANARY}://user:{CANARY}@host", "Write amqp://"),
        (f"amqp://user:{CANARY}@host:0", "65535"),
        (f"amqp://user:{CANARY}@host:70000", "65535"),
        (f"amqp://user:{CANARY}@host:http", "host:port"),
        (f"amqp://user:{CANARY}@::1", "brackets"),
        (f"amqp://user:{CANARY}@[::1", "brackets"),
        (f"amqp://user:{CANARY}@ho%20st", "host name"),
        (f"amqp://user:{CANARY}@host//v", "%2F"),
        (f"amqp://user:{CANARY}@host/a/b", "%2F"),
        (f"amqp://user:{CANARY}@host?hartbeat=5", "Known parameters: heartbeat"),
        (f"amqp://user:{CANARY}@host?heartbeat={CANARY}", "65535"),
        (f"amqp://user:{CANARY}@host?heartbeat=65536", "65535"),
        (f"amqp://user:{CANARY}@host?heartbeat=٣", "65535"),
        (f"amqp://user:{CANARY}@host?heartbeat=1&heartbeat=2", "repeated"),
        (f"amqp://user:{CANARY}@host?frame_max=0", "4096"),
        (f"amqp://user:{CANARY}@host?auth_mechanism=amqplain", "PLAIN"),
        (f"amqp://user:{CANARY}@host?cacertfile=/x", "amqps://"),
        (f"amqps://user:{CANARY}@host?verify=maybe", "verify_peer"),
        (f"amqps://user:{CANARY}@host?keyfile=/x", "certfile"),
        ("", "not an amqp"),
    ],
)
def test_the_error_for_a_bad_url_has_advice_and_no_part_of_a_password(url: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings([url], source="--url")
    text = str(caught.value)
    assert says in text
    assert text.startswith("--url: ")
    assert CANARY not in text
    assert CANARY not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_printed_address_hides_the_password() -> None:
    address = one(f"amqps://us%40er:{CANARY}@[::1]:5673/a%2Fb")
    assert str(address) == "amqps://us%40er:***@[::1]:5673/a%2Fb"
    assert str(Address()) == "amqp://guest:***@localhost:5672/"
    assert CANARY not in repr(address) + repr(Settings((address,)))
    key = load_settings([f"amqps://h?certfile=/c&password={CANARY}"], api_url=f"http://u:{CANARY}@h")
    assert CANARY not in repr(key) + str(key.addresses[0])


@pytest.mark.parametrize(
    "text",
    [
        "amqp://u:p@one:1/v,amqp://u:p@two:2/v",
        "amqp://u:p@one:1/v , AMQP://u:p@two:2/v",
        "amqp://u:p@one:1,two:2/v",
    ],
)
def test_several_hosts_are_separated_by_commas(text: str) -> None:
    addresses = parse_urls(text)
    assert [address.key for address in addresses] == ["one:1/v", "two:2/v"]
    assert {address.password for address in addresses} == {"p"}


def test_query_parameters_are_read_in_their_units() -> None:
    address = one(
        "amqps://h?heartbeat=0&connection_timeout=1500&channel_max=7&frame_max=4096&auth_mechanism=external"
        "&auth_mechanism=plain&cacertfile=/ca%20x&certfile=/c&keyfile=/k&verify=verify_none&server_name_indication=n"
    )
    assert (address.heartbeat_s, address.connection_timeout_s, address.channel_max, address.frame_max) == (
        0,
        1.5,
        7,
        4096,
    )
    assert address.auth_mechanisms == ("EXTERNAL", "PLAIN")
    assert address.tls_options == Tls("/ca x", "/c", "/k", insecure=True)
    assert address.server_name == "n"


def test_flags_take_precedence_over_variables_and_variables_over_the_default() -> None:
    variables = {"CLOUDAMQP_URL": "amqp://cloud", "AMQP_URL": "amqp://plain", "RMQKIT_URL": "amqp://ours"}

    def found(*urls: str) -> tuple[str, str]:
        settings = load_settings(urls, environ=variables)
        return settings.addresses[0].host, settings.source

    assert found("amqp://flag") == ("flag", "`url=`")
    assert found() == ("ours", "RMQKIT_URL")
    variables["RMQKIT_URL"] = ""
    assert found() == ("plain", "AMQP_URL")
    del variables["AMQP_URL"]
    assert found() == ("cloud", "CLOUDAMQP_URL")
    variables.clear()
    assert found() == ("localhost", "default")
    assert load_settings(environ={}) == Settings()


@pytest.mark.parametrize(
    ("url", "api_url"),
    [
        ("amqp://ada:secret@one/shop", "http://one:1"),  # the broker of RMQKIT_URL, as another user
        ("amqp://127.0.0.1:5674", "http://one:1"),  # the same broker by another name
        ("amqp://three,two:5673", "http://one:1"),
        ("amqp://one:5673", ""),
        ("amqp://three", ""),
    ],
)
def test_the_variable_of_the_http_api_belongs_to_the_broker_of_the_other_variable(url: str, api_url: str) -> None:
    environ = {"RMQKIT_URL": "amqp://one,two:5673,localhost:5674", "RMQKIT_API_URL": "http://one:1"}
    assert load_settings([url], environ=environ).api_url == api_url
    assert load_settings([url], environ={"RMQKIT_API_URL": "http://one:1"}).api_url == "http://one:1"
    assert load_settings([url], environ=environ, api_url="http://three:2").api_url == "http://three:2"


def test_a_bad_variable_is_named_in_the_error() -> None:
    with pytest.raises(SettingsError, match=r"^AMQP_URL: not an amqp"):
        load_settings(environ={"AMQP_URL": "localhost"})


def test_the_vhost_flag_takes_precedence_over_the_url_even_when_empty() -> None:
    assert load_settings(["amqp://h/x,amqp://i"], vhost="a/b").addresses[1].vhost == "a/b"
    assert load_settings(["amqp://h/x"], vhost="").addresses[0].vhost == ""


def test_a_virtual_host_name_has_at_most_255_bytes() -> None:
    assert load_settings(["amqp://h/" + "é" * 127]).addresses[0].vhost == "é" * 127
    with pytest.raises(SettingsError, match="255"):
        load_settings(["amqp://h/" + "é" * 128])
    with pytest.raises(SettingsError, match="255"):
        load_settings(vhost="x" * 256)


def test_a_user_without_password_in_the_url_needs_another_source_or_a_certificate() -> None:
    with pytest.raises(SettingsError, match="no password for the user 'me'"):
        load_settings(["amqp://me@h"], environ={})
    assert load_settings(["amqps://me@h?auth_mechanism=external&certfile=c"]).addresses[0].password is None
    settings = load_settings(["amqp://me@h,amqp://you:own@i"], environ={"RMQKIT_PASSWORD": CANARY})
    assert [settings.password(address) for address in settings.addresses] == [CANARY, "own"]
    asked: list[str] = []
    settings = load_settings(["amqp://me@h,amqp://you:own@i"], ask=lambda who: asked.append(str(who)) or CANARY)
    assert [settings.password(address) for address in settings.addresses] == [CANARY] * 2
    assert asked == ["amqp://me:***@h:5672/"]
    assert CANARY not in repr(settings)


def test_external_needs_tls_and_a_certificate_and_no_user() -> None:
    with pytest.raises(SettingsError, match="external needs amqps://"):
        load_settings(["amqp://h?auth_mechanism=external"])
    with pytest.raises(SettingsError, match="needs a client certificate"):
        load_settings(["amqps://h?auth_mechanism=external"])
    (address,) = load_settings(["amqps://h?auth_mechanism=external"], tls=Tls(cert_file="c")).addresses
    assert (address.username, address.password, str(address)) == ("", None, "amqps://h:5671/")


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
@pytest.mark.parametrize("linked", [False, True])
def test_secrets_that_others_can_read_cause_a_warning(tmp_path: Path, mode: int, warned: bool, linked: bool) -> None:
    file = tmp_path / "secret"
    file.write_text("x")
    file.chmod(mode)
    named = file
    if linked:
        named = tmp_path / "link"
        named.symlink_to(file)
    expected = [f"{named}: other users can read this file. Run `chmod 600 {named}`."] if warned else []
    assert list(load_settings(["amqp://h"], password_file=named).security_warnings()) == expected
    assert list(load_settings([f"amqps://h?certfile=/c&keyfile={named}"]).security_warnings()) == expected
    key = Tls(cert_file=str(named), key_password_file=str(named))  # without a file of its own the key is in that one
    assert list(load_settings(["amqps://h"], tls=key).security_warnings()) == expected


def test_skipped_verification_causes_a_warning_for_each_address() -> None:
    settings = load_settings(["amqps://u:p@h?verify=verify_none,amqps://i"])
    assert [text.partition(": ")[0] for text in settings.security_warnings()] == ["amqps://u:***@h:5671/"]
    assert len(list(load_settings(["amqps://h,amqps://i"], tls=Tls(insecure=True)).security_warnings())) == 2
    assert list(load_settings(["amqps://h"]).security_warnings()) == []


def test_an_unencrypted_http_api_beside_amqps_causes_a_warning_except_on_loopback() -> None:
    (warning,) = load_settings(["amqps://h"], api_url=f"http://u:{CANARY}@h").security_warnings()
    assert warning == "the HTTP API URL is not https://: credentials are sent to it unencrypted"
    assert list(load_settings(["amqps://h"], api_url="https://h").security_warnings()) == []
    assert list(load_settings(["amqp://h"], api_url="http://h").security_warnings()) == []
    for loopback in ("localhost", "127.0.0.9", "[::1]"):
        assert list(load_settings(["amqps://h"], api_url=f"http://{loopback}:15672").security_warnings()) == []


def test_a_password_file_is_read_again_at_each_connect(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("one\n")
    settings = load_settings(["amqp://me@h"], password_file=file)
    assert settings.password(settings.addresses[0]) == "one"
    file.write_text(" two ")
    assert settings.password(settings.addresses[0]) == " two "


def test_a_password_from_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def load(**options: Any) -> Settings:
        writer = threading.Thread(target=lambda: pipe.write_text("piped\n"))
        writer.start()
        settings = load_settings(["amqps://me:own@h,amqps://you@i?auth_mechanism=external&certfile=c"], **options)
        writer.join()
        assert "piped" not in repr(settings)
        return settings

    settings = load(password_file=pipe)
    assert [settings.password(address) for address in settings.addresses * 2] == ["piped"] * 4
    assert load(tls=Tls(key_password_file=str(pipe))).tls.key_password == "piped"


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"\xff", b"nul\0"])
def test_a_password_file_that_cannot_be_used_is_named_and_not_quoted(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match="secret: not") as caught:
        load_settings(password_file=file)
    assert "lines" not in str(caught.value)
    with pytest.raises(SettingsError, match="No such file"):
        load_settings(password_file=tmp_path / "missing")


def test_tls_verifies_certificate_and_host_name_by_default() -> None:
    (address,) = (settings := load_settings(["amqps://h"])).addresses
    context = settings.tls_context(address)
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    (address,) = (settings := load_settings(["amqps://h"], tls=Tls(insecure=True))).addresses
    context = settings.tls_context(address)
    assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_NONE)


def test_tls_options_on_a_plain_connection_are_an_error() -> None:
    with pytest.raises(SettingsError, match="not be encrypted"):
        load_settings(["amqp://h"], tls=Tls(insecure=True))


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
@pytest.mark.parametrize("tls", ["ca_file", "cert_file"])
def test_a_bad_tls_file_is_named(tmp_path: Path, content: bytes | None, tls: str) -> None:
    file = tmp_path / "bad.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"`(ca|cert)_file=`: .*bad\.pem: "):
        Tls(**{tls: str(file)}).context()  # type: ignore[arg-type]
