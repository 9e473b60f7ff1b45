"""The address of one broker, and the URLs that name brokers.

URLs follow https://www.rabbitmq.com/docs/uri-spec, with one exception: a trailing slash names the virtual host `/`, as
no slash at all does, and as pika, Kombu and the Go client read it. By the specification it would be the virtual host
with the empty name, which is hardly ever meant; `--vhost ""` still reaches it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, unquote_to_bytes

from rmqkit.errors import SettingsError

if TYPE_CHECKING:
    import ssl

DEFAULT_URL = "amqp://guest:guest@localhost:5672/"
PORTS = {"amqp": 5672, "amqps": 5671}
API_PORTS = {"http": 15672, "https": 15671}  # of RabbitMQ's HTTP API
MECHANISMS = ("PLAIN", "EXTERNAL")


@dataclass(frozen=True, slots=True)
class Tls:
    """Trusted authorities and the client certificate; without file names the system's authorities and no certificate.

    `insecure` skips verification of both the certificate and the host name. An encrypted key needs its password, or
    the file that holds it.
    """

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    insecure: bool = False
    key_password_file: str = ""
    key_password: str = field(default="", repr=False)

    def context(self) -> ssl.SSLContext:
        """Build a client context from the current files; raise SettingsError naming a file that cannot be used."""
        import ssl  # noqa: PLC0415 - start-up time: few connections use TLS

        for option, file in zip(_TLS_OPTIONS, (self.ca_file, self.cert_file, self.key_file), strict=True):
            if file:
                read_file(option, file)  # OpenSSL does not say which one it could not read
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
        except OSError as error:
            raise SettingsError(f"`ca_file=`: {self.ca_file}: not a PEM certificate") from error
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert_file:
            self._load_certificate(context)
        return context

    def _load_certificate(self, context: ssl.SSLContext) -> None:
        password = read_secret("`key_password_file=`", self.key_password_file) if self.key_password_file else ""
        password = password or self.key_password
        encrypted = False

        def key_password() -> str:  # OpenSSL calls it for an encrypted key only, and would ask on the terminal instead
            nonlocal encrypted
            encrypted = True
            return password

        try:
            context.load_cert_chain(self.cert_file, self.key_file or None, password=key_password)
        except (OSError, ValueError) as error:  # a ValueError for a password that OpenSSL finds too long
            message = "not a PEM certificate with its key"
            advice = "" if self.key_file else "If the key is in a separate file, name it with `key_file=`."
            if "MISMATCH" in str(error):
                message, advice = "the key does not belong to the certificate", ""
            elif encrypted and password:
                message, advice = "the password does not open the key", ""
            elif encrypted:
                message, advice = "the key is encrypted", "Give its password with `key_password_file=`."
            files = f"{self.cert_file} with {self.key_file}" if self.key_file else self.cert_file
            raise SettingsError(f"`cert_file=`: {files}: {message}", advice=advice) from error


SYSTEM_TRUST = Tls()


@dataclass(frozen=True, slots=True)
class Address:
    """One broker and the login to it; None means that the URL does not set the value, and the default applies.

    `heartbeat_s` 0 turns heartbeats off. `auth_mechanisms` are SASL names, tried in this order; empty means PLAIN.
    """

    host: str = "localhost"
    port: int = 5672
    vhost: str = "/"
    username: str = "guest"
    password: str | None = field(default="guest", repr=False)
    tls: bool = False
    tls_options: Tls = SYSTEM_TRUST
    server_name_indication: str = ""
    heartbeat_s: int | None = None
    connection_timeout_s: float | None = None
    channel_max: int | None = None
    frame_max: int | None = None
    auth_mechanisms: tuple[str, ...] = ()

    @property
    def by_certificate(self) -> bool:
        """Tell whether the client certificate is the only login."""
        return self.auth_mechanisms == ("EXTERNAL",)

    @property
    def server_name(self) -> str:
        """Return the name that the broker's certificate must carry."""
        return self.server_name_indication or self.host

    @property
    def key(self) -> str:
        """Return broker and virtual host without the login: `host:port/vhost`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{'' if self.vhost == '/' else quote(self.vhost, safe='')}"

    @property
    def broker(self) -> tuple[str, int]:
        """Return the host and the port, equal for all spellings of a host, and for the default ports, TLS or not.

        Two names of a host differ, and so do a name and an address: only a name server knows.
        """
        default = self.port in PORTS.values()
        return _same_host(self.host), PORTS["amqp"] if default else self.port

    def __str__(self) -> str:
        login = "" if self.by_certificate else f"{quote(self.username, safe='')}:***@"
        return f"{'amqps' if self.tls else 'amqp'}://{login}{self.key}"


def parse_urls(text: str, *, source: str = "url") -> tuple[Address, ...]:
    """Parse URLs separated by commas; `amqp://user:password@one:5672,two/vhost` names two hosts.

    Raises SettingsError, which names `source` and holds no part of a URL that could belong to a password.
    """
    return tuple(address for url in split_urls(text) for address in _UrlParser(source).parse(url))


def split_urls(text: str) -> list[str]:
    """Return the URLs that commas separate; each may name several hosts."""
    return re.split(r"\s*,\s*(?=amqps?://)", text.strip(), flags=re.IGNORECASE)


class _UrlParser:
    """Parses one URL; every error begins with `source`."""

    def __init__(self, source: str) -> None:
        self._source = source

    def parse(self, url: str) -> list[Address]:
        scheme, rest = self._scheme(url)
        rest, _, query = rest.partition("?")
        authority, _, path = rest.partition("/")
        if "@" in path + query or authority.count("@") > 1:
            self._fail("too many '@'", "Percent-encode / as %2F and @ as %40 in user, password and virtual host.")
        userinfo, at, hosts = authority.rpartition("@")
        addresses = [self._host(Address(port=PORTS[scheme], tls=scheme == "amqps"), host) for host in hosts.split(",")]
        common: dict[str, Any] = {"vhost": self._vhost(path)} | self._query(query, tls=scheme == "amqps")
        if at:
            username, colon, password = userinfo.partition(":")
            common["username"] = self._decode("user name", username)
            common["password"] = self._decode("password", password) if colon else None
        elif common.get("auth_mechanisms") == ("EXTERNAL",):
            common |= {"username": "", "password": None}
        return [replace(address, **common) for address in addresses]

    def _scheme(self, url: str) -> tuple[str, str]:
        scheme, separator, rest = url.partition("://")
        if not separator or scheme.lower() not in PORTS:
            self._fail("not an amqp:// or amqps:// URL", f"Write {DEFAULT_URL}.")
        if re.search(r"[\s\x00-\x1f\x7f#\ud800-\udfff]", rest):
            self._fail("white space, '#' or an invalid character", "Percent-encode a space as %20 and # as %23.")
        return scheme.lower(), rest

    def _host(self, base: Address, text: str) -> Address:
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+(?:%25[^\]]+)?\]|[^:\[\]]*)(?::(\d{0,5}))?", text)
        if not match:
            self._fail(
                "the address is not of the form host:port",
                "The port is a number, an IPv6 address needs brackets, and a / in a password is written %2F.",
            )
        host, port = self._decode("host", match[1].strip("[]")).lower(), int(match[2] or base.port)
        if not 0 < port < 1 << 16:
            self._fail("the port is not a number from 1 to 65535")
        if not host.isprintable() or " " in host:
            self._fail("invalid character in the host name")
        return replace(base, host=host or "localhost", port=port)

    def _vhost(self, path: str) -> str:
        if "/" in path:
            self._fail("a second '/' after the host", "Percent-encode a slash in the virtual host's name as %2F.")
        return self._decode("virtual host", path) or "/"

    def _decode(self, part: str, text: str) -> str:
        if re.search(r"%(?![0-9A-Fa-f]{2})", text):
            self._fail(f"invalid percent-encoding in the {part}", "Write a percent sign as %25.")
        try:
            value = unquote_to_bytes(text).decode()
        except UnicodeDecodeError:
            self._fail(f"the percent-encoded {part} is not UTF-8")
        if "\0" in value:  # it separates user name and password in SASL PLAIN (RFC 4616)
            self._fail(f"the {part} contains a NUL")
        return value

    def _query(self, query: str, *, tls: bool) -> dict[str, Any]:
        """Parse the parameters of https://www.rabbitmq.com/docs/uri-query-parameters and `frame_max` into fields."""
        values: dict[str, list[str]] = {}
        for pair in filter(None, query.split("&")):
            name, _, value = pair.partition("=")
            if name not in _PARAMETERS:
                self._fail(f"unknown query parameter {name!r}", f"Known parameters: {', '.join(_PARAMETERS)}.")
            if name in _TLS_PARAMETERS and not tls:
                self._fail(f"{name} needs amqps://: this connection would not be encrypted")
            values.setdefault(name, []).append(self._decode(name, value))
        fields: dict[str, Any] = {}
        options: dict[str, Any] = {}
        for name, each in values.items():
            if len(each) > 1 and name != "auth_mechanism":
                self._fail(f"{name} is repeated")
            if name in _NUMBERS:
                fields[_NUMBERS[name][0]] = self._number(name, each[0])
            elif name == "auth_mechanism":
                fields["auth_mechanisms"] = tuple(self._choice(name, one.upper(), MECHANISMS) for one in each)
            elif name == "server_name_indication":
                fields[name] = each[0]
            elif name == "verify":
                options["insecure"] = self._choice(name, each[0], ("verify_peer", "verify_none")) == "verify_none"
            else:
                options[_TLS_FILES[name]] = each[0]
        if "key_file" in options and "cert_file" not in options:
            self._fail("keyfile needs certfile")
        if "EXTERNAL" in fields.get("auth_mechanisms", ()) and not tls:
            self._fail("auth_mechanism=external needs amqps://: it logs in with a certificate")
        return fields | {"tls_options": Tls(**options)}

    def _number(self, name: str, value: str) -> float:
        _, low, high = _NUMBERS[name]
        if not re.fullmatch(r"[0-9]{1,10}", value) or not low <= int(value) <= high:
            self._fail(f"{name} is not a whole number from {low} to {high}")
        return int(value) / 1000 if name == "connection_timeout" else int(value)

    def _choice(self, name: str, value: str, known: tuple[str, ...]) -> str:
        if value not in known:
            self._fail(f"{name} is not one of {', '.join(known)}")
        return value

    def _fail(self, message: str, advice: str = "") -> NoReturn:
        raise SettingsError(f"{self._source}: {message}", advice=advice) from None


# Parameter -> field and range. RabbitMQ has the timeout in milliseconds; pika accepts frames of up to 128 KiB.
_NUMBERS = {
    "heartbeat": ("heartbeat_s", 0, 65_535),
    "connection_timeout": ("connection_timeout_s", 1, 3_600_000),
    "channel_max": ("channel_max", 1, 65_535),
    "frame_max": ("frame_max", 4_096, 131_072),
}
_TLS_FILES = {
    "cacertfile": "ca_file",
    "certfile": "cert_file",
    "keyfile": "key_file",
    "password": "key_password",  # the key's, as Erlang's client has it
}
_TLS_PARAMETERS = (*_TLS_FILES, "verify", "server_name_indication")
_PARAMETERS = (*_NUMBERS, "auth_mechanism", *_TLS_PARAMETERS)
_TLS_OPTIONS = ("`ca_file=`", "`cert_file=`", "`key_file=`")


def read_file(option: str, file: str) -> bytes:
    """Read a file that an option names; raise SettingsError if it cannot be read."""
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise SettingsError(f"{option}: {file}: {error.strerror or error}") from error


def read_secret(option: str, file: str) -> str:
    """Read a password of one line; raise SettingsError if the file does not hold one."""
    try:
        secret = read_file(option, file).decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SettingsError(f"{option}: {file}: not UTF-8") from None
    if not secret or "\0" in secret or "\n" in secret:
        raise SettingsError(f"{option}: {file}: not one line of text")
    return secret


def is_loopback(host: str) -> bool:
    """Tell whether a host name means this machine's loopback interface."""
    return _same_host(host) == "localhost"


def _same_host(host: str) -> str:
    """Return one spelling for all names and addresses of a host that are the same without a name server."""
    from ipaddress import IPv6Address, ip_address  # noqa: PLC0415 - start-up time

    name = host.lower().rstrip(".")
    if name in ("", "localhost") or name.endswith(".localhost") or re.fullmatch(r"127(\.\d+){1,3}", name):
        return "localhost"
    try:
        found = ip_address(name)
    except ValueError:
        return name
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    found = mapped or found
    return "localhost" if found.is_loopback or found.is_unspecified else str(found)
