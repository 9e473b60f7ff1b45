"""Which broker to talk to, and how."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from rmqkit.address import DEFAULT_URL, SYSTEM_TRUST, Address, Tls, parse_urls, read_secret
from rmqkit.errors import SettingsError

if TYPE_CHECKING:
    import ssl

URL_VARIABLES = ("RMQKIT_URL", "AMQP_URL", "CLOUDAMQP_URL")  # the first one that is set counts
API_URL_VARIABLE = "RMQKIT_API_URL"
PASSWORD_VARIABLE = "RMQKIT_PASSWORD"  # noqa: S105 - of a user whom a URL names without one
_OPTION = "--password-file"
MAX_SHORT_STRING_BYTES = 255  # AMQP 0-9-1 section 4.2.5.3


@dataclass(frozen=True, slots=True)
class Settings:
    """Which brokers to try, in this order, and how to log in; `source` says where the URLs came from.

    `api_url` is that of RabbitMQ's HTTP API; empty means its usual port on each address' host.
    """

    addresses: tuple[Address, ...] = (Address(),)
    tls: Tls = SYSTEM_TRUST
    password_file: str = ""
    source: str = "default"
    api_url: str = field(default="", repr=False)  # may hold a password

    def password(self, address: Address) -> str:
        """Return the password as of now: the file is read again each time, so that a changed secret is found."""
        return read_secret(_OPTION, self.password_file) if self.password_file else address.password or ""

    def ssl_context(self, address: Address) -> ssl.SSLContext | None:
        """Build the TLS context for an address, None for a plain one; a flag goes before the URL's own parameter."""
        return self.tls_context(address) if address.tls else None

    def tls_context(self, address: Address) -> ssl.SSLContext:
        """Build the TLS context for what answers beside AMQP: the HTTP API of the broker at an address."""
        flags, own = self.tls, address.tls_options
        return Tls(
            flags.ca_file or own.ca_file,
            flags.cert_file or own.cert_file,
            flags.key_file if flags.cert_file else own.key_file,
            flags.insecure or own.insecure,
            flags.key_password_file,
            flags.key_password or own.key_password,
        ).context()

    def cautions(self) -> Iterator[str]:
        """Yield what makes the login less safe than it could be: a check turned off, a secret that others may read."""
        for address in self.addresses:
            if (address.tls or self.api_url.startswith("https:")) and (
                self.tls.insecure or address.tls_options.insecure
            ):
                yield f"{address}: neither certificate nor host name is checked: anybody may answer, and see the login"
        if self.api_url.lower().startswith("http:") and any(address.tls for address in self.addresses):
            yield "the URL of the HTTP API is no https://: the login goes there in the clear, amqps:// or not"
        keys = (each.key_file or each.cert_file for each in (self.tls, *(one.tls_options for one in self.addresses)))
        for file in dict.fromkeys(filter(None, (self.password_file, self.tls.key_password_file, *keys))):
            if _readable_by_others(Path(file)):
                yield f"{file}: other users may read this file: chmod 600 {file}"


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
    """Decide which brokers are meant: `urls`, else the first of URL_VARIABLES that is set, else DEFAULT_URL.

    `vhost`, `password_file` and the answer of `ask`, which is given the first address, go before what the URLs say;
    PASSWORD_VARIABLE counts where a URL has a user and no password. Raise SettingsError, which never holds a password.
    """
    if not urls:
        source = next((name for name in URL_VARIABLES if environ.get(name)), "default")
        urls = (environ.get(source) or DEFAULT_URL,)
    addresses = tuple(address for url in urls for address in parse_urls(url, source=source))
    if vhost is not None:
        addresses = tuple(replace(address, vhost=vhost) for address in addresses)
    api_url = api_url or environ.get(API_URL_VARIABLE, "")
    if tls != SYSTEM_TRUST and not any(address.tls for address in addresses) and not api_url.startswith("https:"):
        raise SettingsError(f"TLS options, but {source} has no amqps:// URL: the connection would not be encrypted")
    if tls.key_file and not tls.cert_file:
        raise SettingsError("--tls-key-file: there is no --tls-cert-file that it belongs to")
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


def _with_key_password(tls: Tls) -> Tls:
    """Read a pipe, as of <(pass show rabbitmq), now: that can be done once only."""
    file = tls.key_password_file
    if not file or Path(file).is_file():
        return tls
    return replace(tls, key_password_file="", key_password=read_secret("--tls-key-password-file", file))


def _check(address: Address, source: str, tls: Tls, *, has_file: bool) -> None:
    if len(address.vhost.encode(errors="replace")) > MAX_SHORT_STRING_BYTES:
        raise SettingsError(f"the virtual host's name has more than {MAX_SHORT_STRING_BYTES} bytes of UTF-8")
    if "EXTERNAL" in address.auth_mechanisms and not (tls.cert_file or address.tls_options.cert_file):
        what = "auth_mechanism=external logs in with a certificate, and there is none"
        raise SettingsError(f"{source}: {what}", advice="Name it with --tls-cert-file, or certfile in the URL.")
    if address.password is None and not has_file and "EXTERNAL" not in address.auth_mechanisms:
        advice = (
            f"write amqp://{quote(address.username, safe='')}:PASSWORD@..., or give --password-file or RMQKIT_PASSWORD"
        )
        raise SettingsError(f"{source}: no password for the user {address.username!r}", advice=advice)


def _readable_by_others(file: Path) -> bool:
    """Judge by what a link leads to; the group may read what belongs to root, as mounted secrets do."""
    try:
        found = file.stat()
    except OSError:
        return False  # who reads it says so
    allowed = 0o040 if found.st_uid == 0 and os.geteuid() != 0 else 0
    return stat.S_ISREG(found.st_mode) and bool(found.st_mode & 0o077 & ~allowed)
