"""Which broker to talk to, and how.

Comes in: URLs, flags, environment variables. Goes out: Settings, with an Address per broker URL. Room: below every
room that connects. Passwords stay out of every text made here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from rmqkit.address import DEFAULT_URL, SYSTEM_TRUST, Address, Tls, bad_file, parse_urls
from rmqkit.errors import SettingsError

if TYPE_CHECKING:
    import ssl

URL_VARIABLES = ("RMQKIT_URL", "AMQP_URL", "CLOUDAMQP_URL")  # the first one that is set counts
API_URL_VARIABLE = "RMQKIT_API_URL"
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
        return _read_password(self.password_file) if self.password_file else address.password or ""

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
        ).context()


def load_settings(
    urls: Sequence[str] = (),
    *,
    vhost: str | None = None,
    password_file: str | Path | None = None,
    tls: Tls = SYSTEM_TRUST,
    environ: Mapping[str, str] = os.environ,
    api_url: str = "",
    source: str = "--url",
) -> Settings:
    """Decide which brokers are meant: `urls`, else the first of URL_VARIABLES that is set, else DEFAULT_URL.

    `vhost` and `password_file` go before what the URLs say. Raise SettingsError, which never holds a password.
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
    file = str(password_file or "")
    if file:
        password = _read_password(file)
        if not Path(file).is_file():  # a pipe, as of <(pass show rabbitmq), can be read only once
            addresses, file = tuple(replace(address, password=password) for address in addresses), ""
    for address in addresses:
        if len(address.vhost.encode(errors="replace")) > MAX_SHORT_STRING_BYTES:
            raise SettingsError(f"the virtual host's name has more than {MAX_SHORT_STRING_BYTES} bytes of UTF-8")
        if address.password is None and not file and "EXTERNAL" not in address.auth_mechanisms:
            advice = f"write amqp://{quote(address.username, safe='')}:PASSWORD@..., or give --password-file"
            raise SettingsError(f"{source}: no password for the user {address.username!r}", advice=advice)
    return Settings(addresses, tls, file, source, api_url)


def _read_password(file: str) -> str:
    try:
        password = Path(file).read_bytes().decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise bad_file("--password-file", file, error) from error
    except UnicodeDecodeError:
        raise SettingsError(f"--password-file: {file}: not UTF-8") from None
    if not password or "\0" in password or "\n" in password:
        raise SettingsError(f"--password-file: {file}: not one line of text")
    return password
