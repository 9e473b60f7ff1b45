"""Settings: the brokers to connect to and the logins."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from rmqkit.address import DEFAULT_URL, SYSTEM_TRUST, Address, Tls, is_loopback, parse_urls, read_secret
from rmqkit.errors import SettingsError

if TYPE_CHECKING:
    import ssl

URL_VARIABLES = ("RMQKIT_URL", "AMQP_URL", "CLOUDAMQP_URL")  # in order of precedence
API_URL_VARIABLE = "RMQKIT_API_URL"
PASSWORD_VARIABLE = "RMQKIT_PASSWORD"  # noqa: S105 - a name
_OPTION = "--password-file"
MAX_SHORT_STRING_BYTES = 255  # AMQP 0-9-1 section 4.2.5.3


@dataclass(frozen=True, slots=True)
class Settings:
    """Brokers to try, in this order, and their logins; `source` names the origin of the URLs.

    `api_url` is the URL of RabbitMQ's HTTP API; if it is empty, `find_api_url` may know the URL for an address, and
    otherwise it is the default port of the same host. While a broker alarm blocks publishers, work waits for
    `blocked_timeout_s`, and `on_blocked` gets the reason, on a thread of its own.
    """

    addresses: tuple[Address, ...] = (Address(),)
    tls: Tls = SYSTEM_TRUST
    password_file: str = ""
    source: str = "default"
    api_url: str = field(default="", repr=False)  # may contain a password
    find_api_url: Callable[[Address], str] | None = field(default=None, repr=False, compare=False)
    blocked_timeout_s: float = 600.0
    on_blocked: Callable[[str], object] | None = field(default=None, repr=False, compare=False)

    def password(self, address: Address) -> str:
        """Return the current password: the file is read on each call, so that a changed secret is used."""
        return read_secret(_OPTION, self.password_file) if self.password_file else address.password or ""

    def tls_context(self, address: Address) -> ssl.SSLContext:
        """Build the TLS context for the broker at an address; flags take precedence over parameters of the URL."""
        flags, own = self.tls, address.tls_options
        return Tls(
            flags.ca_file or own.ca_file,
            flags.cert_file or own.cert_file,
            flags.key_file if flags.cert_file else own.key_file,
            flags.insecure or own.insecure,
            flags.key_password_file,
            flags.key_password or own.key_password,
        ).context()

    def security_warnings(self) -> Iterator[str]:
        """Yield a sentence for each setting that exposes credentials."""
        for address in self.addresses:
            encrypted = address.tls or self.api_url.startswith("https:")
            if encrypted and (self.tls.insecure or address.tls_options.insecure):
                yield f"{address}: certificate and host name are not verified: any server may receive the credentials"
        if _is_unencrypted(self.api_url) and any(address.tls for address in self.addresses):
            yield "the HTTP API URL is not https://: credentials are sent to it unencrypted"
        keys = (each.key_file or each.cert_file for each in (self.tls, *(one.tls_options for one in self.addresses)))
        for file in dict.fromkeys(filter(None, (self.password_file, self.tls.key_password_file, *keys))):
            if _readable_by_others(Path(file)):
                yield f"{file}: other users can read this file. Run `chmod 600 {file}`."


def load_settings(
    urls: Sequence[str] = (),
    *,
    vhost: str | None = None,
    password_file: str | Path | None = None,
    tls: Tls = SYSTEM_TRUST,
    environ: Mapping[str, str] = os.environ,
    api_url: str = "",
    source: str = "--url",
    ask: Callable[[Address], str] | None = None,
) -> Settings:
    """Return the settings for `urls`, else for the first of URL_VARIABLES that is set, else for DEFAULT_URL.

    `vhost`, `password_file` and the result of `ask`, called with the first address, take precedence over the URLs;
    PASSWORD_VARIABLE applies to a URL with a user and no password; API_URL_VARIABLE unless `urls` name another broker
    than the variable of the URL does. Raises SettingsError, which never holds a password.
    """
    variable = next((name for name in URL_VARIABLES if environ.get(name)), "default")
    inherited = environ.get(variable, "")
    if not urls:
        source, urls = variable, (inherited or DEFAULT_URL,)
    addresses = tuple(address for url in urls for address in parse_urls(url, source=source))
    if vhost is not None:
        addresses = tuple(replace(address, vhost=vhost) for address in addresses)
    if not api_url and not _is_another_broker(addresses, inherited):
        api_url = environ.get(API_URL_VARIABLE, "")
    if tls != SYSTEM_TRUST and not any(address.tls for address in addresses) and not api_url.startswith("https:"):
        message = f"TLS options need an amqps:// URL, and {source} has none: the connection would not be encrypted"
        raise SettingsError(message)
    if tls.key_file and not tls.cert_file:
        raise SettingsError("--tls-key-file needs --tls-cert-file")
    password, file = environ.get(PASSWORD_VARIABLE) or None, str(password_file or "")
    addresses = tuple(replace(each, password=password) if each.password is None else each for each in addresses)
    if file:
        password = read_secret(_OPTION, file)
        if not Path(file).is_file():  # see _with_key_password
            addresses, file = tuple(replace(address, password=password) for address in addresses), ""
    elif ask:
        password = ask(addresses[0])
        addresses = tuple(replace(address, password=password) for address in addresses)
    for address in addresses:
        _check(address, source, tls, has_file=bool(file))
    return Settings(addresses, _with_key_password(tls), file, source, api_url)


def _is_another_broker(addresses: Sequence[Address], inherited: str) -> bool:
    """Tell whether none of the addresses is one that the URL of the environment names."""
    if not inherited:
        return False
    with suppress(SettingsError):
        known = {_host_and_port(each) for each in parse_urls(inherited, source="the environment")}
        return known.isdisjoint(map(_host_and_port, addresses))
    return True


def _host_and_port(address: Address) -> tuple[str, int]:
    return "localhost" if is_loopback(address.host) else address.host, address.port


def _with_key_password(tls: Tls) -> Tls:
    """Read a pipe like <(pass show rabbitmq) now: it can be read only once."""
    file = tls.key_password_file
    if not file or os.path.isfile(file):  # noqa: PTH113 - never fails
        return tls
    return replace(tls, key_password_file="", key_password=read_secret("--tls-key-password-file", file))


def _check(address: Address, source: str, tls: Tls, *, has_file: bool) -> None:
    texts = {"virtual host": address.vhost, "user name": address.username, "password": address.password or ""}
    for noun, text in texts.items():
        if any("\ud800" <= each <= "\udfff" for each in text):
            raise SettingsError(f"the {noun} is not valid UTF-8")
    if len(address.vhost.encode()) > MAX_SHORT_STRING_BYTES:
        raise SettingsError(f"the virtual host's name is longer than {MAX_SHORT_STRING_BYTES} bytes of UTF-8")
    if "EXTERNAL" in address.auth_mechanisms and not (tls.cert_file or address.tls_options.cert_file):
        message = f"{source}: auth_mechanism=external needs a client certificate"
        raise SettingsError(message, advice="Name it with --tls-cert-file, or certfile in the URL.")
    if address.password is None and not has_file and "EXTERNAL" not in address.auth_mechanisms:
        url = f"amqp://{quote(address.username, safe='')}:PASSWORD@..."
        advice = f"Write {url}, or set --password-file or RMQKIT_PASSWORD."
        raise SettingsError(f"{source}: no password for the user {address.username!r}", advice=advice)


def _is_unencrypted(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and not is_loopback(parts.hostname or "")
    except ValueError:  # not a URL: using it reports the error
        return False


def _readable_by_others(file: Path) -> bool:
    """Follow links; the group may read files of root, as mounted secrets are."""
    try:
        found = file.stat()
    except OSError:
        return False  # reading it reports the error
    allowed = 0o040 if found.st_uid == 0 and os.geteuid() != 0 else 0
    return stat.S_ISREG(found.st_mode) and bool(found.st_mode & 0o077 & ~allowed)
