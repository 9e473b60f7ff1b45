"""Settings: the brokers to connect to and the logins."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from rmqkit.address import API_PORTS, DEFAULT_URL, SYSTEM_TRUST, Address, Tls, is_loopback, parse_urls, read_secret
from rmqkit.contexts import Context, config_file
from rmqkit.contexts import load as load_contexts
from rmqkit.errors import SettingsError
from rmqkit.hooks import GuardedHooks
from rmqkit.password import PasswordSource

if TYPE_CHECKING:
    import ssl

URL_VARIABLES = ("RMQKIT_URL", "AMQP_URL", "CLOUDAMQP_URL")  # in order of precedence
CONTEXT_VARIABLE = "RMQKIT_CONTEXT"  # after the first of them
API_URL_VARIABLE = "RMQKIT_API_URL"
PASSWORD_VARIABLE = "RMQKIT_PASSWORD"  # noqa: S105 - a name
TLS_FIELDS = ("ca_file", "cert_file", "key_file", "key_password_file", "insecure")
_PASSWORD_FILE = "`password_file=`"  # noqa: S105 - a name
MAX_SHORT_STRING_BYTES = 255  # AMQP 0-9-1 section 4.2.5.3


@dataclass(frozen=True, slots=True)
class Settings:
    """Brokers to try, in this order, and their logins; `source` names the origin of the URLs.

    `context` is the context that has the URLs, if one does, and `origins` says where each value came from: an option, a
    variable, a context, the URL or "default". `password_source` fetches the password on each connect.
    `api_url` is the URL of RabbitMQ's HTTP API; if it is empty, `find_api_url` may know the URL for an address, and
    otherwise it is the default port of the same host. While a broker alarm blocks publishers, work waits for
    `blocked_timeout_s`, and `on_blocked` gets the reason, on a thread of its own. A lost connection is reopened for
    `recover_s`, by default a minute: a broker restarts in seconds, and a host that is down for longer needs an
    operator; None sets no limit. `hooks` are those that `connect` was given.
    """

    addresses: tuple[Address, ...] = (Address(),)
    tls: Tls = SYSTEM_TRUST
    password_file: str = ""
    password_source: PasswordSource | None = None
    source: str = "default"
    context: Context = field(default=Context(), repr=False, compare=False)
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    api_url: str = field(default="", repr=False)  # may contain a password
    find_api_url: Callable[[Address], str] | None = field(default=None, repr=False, compare=False)
    blocked_timeout_s: float = 600.0
    recover_s: float | None = 60.0
    on_blocked: Callable[[str], object] | None = field(default=None, repr=False, compare=False)
    hooks: GuardedHooks | None = field(default=None, repr=False, compare=False)

    def password(self, address: Address) -> str:
        """Return the current password: the file is read on each call, so that a changed secret is used."""
        if self.password_source:
            return self.password_source()
        return read_secret(_PASSWORD_FILE, self.password_file) if self.password_file else address.password or ""

    def in_vhost(self, vhost: str) -> Settings:
        """Return the settings for another virtual host of the same brokers."""
        return replace(self, addresses=tuple(replace(each, vhost=vhost) for each in self.addresses))

    def http_api_url(self, address: Address) -> str:
        """Return the URL of the HTTP API of the broker at an address: the given one, a known one, or the default."""
        scheme = "https" if address.tls else "http"
        host = f"[{address.host}]" if ":" in address.host else address.host
        known = self.api_url or (self.find_api_url and self.find_api_url(address))
        return known or f"{scheme}://{host}:{API_PORTS[scheme]}"

    def tls_context(self, address: Address) -> ssl.SSLContext:
        """Build the TLS context for the broker at an address; flags take precedence over parameters of the URL."""
        return self.tls_options(address).context()

    def tls_options(self, address: Address) -> Tls:
        """Return the TLS options for the broker at an address."""
        return _combined(self.tls, address.tls_options)

    def security_warnings(self) -> Iterator[str]:
        """Yield a sentence for each setting that exposes credentials."""
        for address in self.addresses:
            encrypted = address.tls or self.api_url.startswith("https:")
            if encrypted and (self.tls.insecure or address.tls_options.insecure):
                yield f"{address}: certificate and host name are not verified: any server may receive the credentials"
        if _is_unencrypted(self.api_url) and any(address.tls for address in self.addresses):
            yield "the HTTP API URL is not https://: credentials are sent to it unencrypted"
        keys = (each.key_file or each.cert_file for each in (self.tls, *(one.tls_options for one in self.addresses)))
        files = (self.password_file, self.tls.key_password_file, *keys, self.context.name and str(config_file()))
        for file in dict.fromkeys(filter(None, files)):
            if _readable_by_others(Path(file)):
                yield f"{file}: other users can read this file. Run `chmod 600 {file}`."


def load_settings(
    urls: Sequence[str] = (),
    *,
    context: str | None = None,
    vhost: str | None = None,
    password_file: str | Path | None = None,
    tls: Tls = SYSTEM_TRUST,
    environ: Mapping[str, str] = os.environ,
    api_url: str = "",
    source: str = "`url=`",
    ask: Callable[[Address], str] | None = None,
    in_use: bool = False,
) -> Settings:
    """Return the settings for `urls`, or for a context, or for a variable, or for DEFAULT_URL.

    The first of these is the broker: `urls`, or the `context` of this name; RMQKIT_URL; the context that
    CONTEXT_VARIABLE names; the other URL_VARIABLES; and, if `in_use`, the context that `rmqkit context use` chose.
    `vhost`, `password_file`, `tls`, `api_url` and the result of `ask`, called with the first address, take precedence
    over variables, and those over the context: API_URL_VARIABLE, unless the variable of the URL names another broker,
    and PASSWORD_VARIABLE for a URL with a user and no password. Nothing of a context is used with the URL of another
    broker. Raises SettingsError, which never holds a password.
    """
    variable = next((name for name in URL_VARIABLES if environ.get(name)), "default")
    inherited = environ.get(variable, "")
    chosen_by, source, urls, chosen = _choose(urls, context, environ, source, in_use=in_use)
    addresses = tuple(address for url in urls for address in parse_urls(url, source=source))
    is_foreign = _is_another_broker(addresses, inherited)
    origins = {"context": chosen_by, "url": source}

    def first(name: str, *candidates: tuple[str, Any]) -> Any:
        origins[name], value = next((each for each in candidates if each[1] is not None), candidates[-1])
        return value

    vhost = first("vhost", ("`vhost=`", vhost), (str(chosen), chosen.vhost), (source, None))
    if vhost is not None:
        addresses = tuple(replace(address, vhost=vhost) for address in addresses)
    variable_url = None if is_foreign else environ.get(API_URL_VARIABLE)
    candidates = ("`api_url=`", api_url), (API_URL_VARIABLE, variable_url), (str(chosen), chosen.api_url)
    api_url = first("api_url", *((name, value or None) for name, value in candidates), ("default", ""))
    _check_tls(addresses, api_url, (tls, chosen.tls), source)
    for name in TLS_FIELDS:
        layers = (f"`{name}=`", tls), (str(chosen), chosen.tls), (source, addresses[0].tls_options)
        first(f"tls_{name}", *((origin, getattr(each, name) or None) for origin, each in layers), ("default", None))
    tls = _combined(tls, chosen.tls)
    settings = Settings(addresses, _with_key_password(tls), source=source, api_url=api_url, context=chosen)
    password = "" if is_foreign and chosen.has_password else environ.get(PASSWORD_VARIABLE, "")
    settings = _log_in(replace(settings, origins=origins), str(password_file or ""), password, ask)
    for address in settings.addresses:
        _check(address, source, tls, has_source=bool(settings.password_file or settings.password_source))
    return settings


def _choose(
    urls: Sequence[str], context: str | None, environ: Mapping[str, str], source: str, *, in_use: bool
) -> tuple[str, str, Sequence[str], Context]:
    """Return what names the context, the source of the URLs, the URLs, and their context."""
    if urls and context is not None:
        raise SettingsError(f"`context=` and {source} cannot be combined")
    if urls:
        return "", source, urls, Context()
    chosen_by = "`context=`"
    for name in () if context is not None else (URL_VARIABLES[0], CONTEXT_VARIABLE, *URL_VARIABLES[1:]):
        if (value := environ.get(name)) and name != CONTEXT_VARIABLE:
            return "", name, (value,), Context()
        if value:
            context, chosen_by = value, name
            break
    if context is None and not in_use:
        return "", "default", (DEFAULT_URL,), Context()
    known = load_contexts()
    if context is None and not known.current:
        return "", "default", (DEFAULT_URL,), Context()
    if context is None:
        context, chosen_by = known.current, "rmqkit context use"
    chosen = known.find(context)
    return chosen_by, str(chosen), chosen.url, chosen


def _log_in(settings: Settings, file: str, password: str, ask: Callable[[Address], str] | None) -> Settings:
    """Add the password from the first of these: an option, the variable's `password`, the context, the URL."""
    addresses, context = settings.addresses, settings.context
    origins = {**settings.origins, "password": settings.source}
    needed = any(each.password is None for each in addresses)
    if file or ask:
        origins["password"] = _PASSWORD_FILE if file else "a prompt"
        given = read_secret(_PASSWORD_FILE, file) if file else ask(addresses[0]) if ask else ""
        if file and Path(file).is_file():  # see _with_key_password
            return replace(settings, password_file=file, origins=origins)
        addresses = tuple(replace(address, password=given) for address in addresses)
    elif password and needed:
        origins["password"] = PASSWORD_VARIABLE
        addresses = tuple(replace(each, password=password) if each.password is None else each for each in addresses)
    elif context.password:
        addresses = tuple(replace(address, password=context.password) for address in addresses)
    elif source := context.password_source:
        return replace(settings, password_source=source, origins=origins)
    elif context.password_file:
        read_secret(f"{context}: password_file", context.password_file)
        return replace(settings, password_file=context.password_file, origins=origins)
    return replace(settings, addresses=addresses, origins=origins)


def _combined(flags: Tls, own: Tls) -> Tls:
    """Return TLS options that take precedence over others; a key belongs to its certificate."""
    return Tls(
        flags.ca_file or own.ca_file,
        flags.cert_file or own.cert_file,
        flags.key_file if flags.cert_file else own.key_file,
        flags.insecure or own.insecure,
        flags.key_password_file or ("" if flags.cert_file else own.key_password_file),
        flags.key_password or own.key_password,
    )


def _check_tls(addresses: Sequence[Address], api_url: str, options: Sequence[Tls], source: str) -> None:
    is_encrypted = any(address.tls for address in addresses) or api_url.startswith("https:")
    if any(each != SYSTEM_TRUST for each in options) and not is_encrypted:
        message = f"TLS options need an amqps:// URL, and {source} has none: the connection would not be encrypted"
        raise SettingsError(message)
    if any(each.key_file and not each.cert_file for each in options):
        raise SettingsError("`key_file=` needs `cert_file=`")


def _is_another_broker(addresses: Sequence[Address], inherited: str) -> bool:
    """Tell whether none of the addresses is one that the URL of the environment names."""
    if not inherited:
        return False
    with suppress(SettingsError):
        return not share_broker(parse_urls(inherited, source="the environment"), addresses)
    return True


def share_broker(some: Sequence[Address], others: Sequence[Address]) -> bool:
    """Tell whether an address of the first is one of the others, whatever its virtual host and login."""
    return not {each.broker for each in some}.isdisjoint(each.broker for each in others)


def _with_key_password(tls: Tls) -> Tls:
    """Read a pipe like <(pass show rabbitmq) now: it can be read only once."""
    file = tls.key_password_file
    if not file or os.path.isfile(file):  # noqa: PTH113 - never fails
        return tls
    return replace(tls, key_password_file="", key_password=read_secret("`key_password_file=`", file))


def _check(address: Address, source: str, tls: Tls, *, has_source: bool) -> None:
    texts = {"virtual host": address.vhost, "user name": address.username, "password": address.password or ""}
    for noun, text in texts.items():
        if any("\ud800" <= each <= "\udfff" for each in text):
            raise SettingsError(f"the {noun} is not valid UTF-8")
    if len(address.vhost.encode()) > MAX_SHORT_STRING_BYTES:
        raise SettingsError(f"the virtual host's name is longer than {MAX_SHORT_STRING_BYTES} bytes of UTF-8")
    if "EXTERNAL" in address.auth_mechanisms and not (tls.cert_file or address.tls_options.cert_file):
        message = f"{source}: auth_mechanism=external needs a client certificate"
        raise SettingsError(message, advice="Name it with `cert_file=`, or certfile in the URL.")
    if address.password is None and not has_source and "EXTERNAL" not in address.auth_mechanisms:
        url = f"amqp://{quote(address.username, safe='')}:PASSWORD@..."
        advice = f"Write {url}, or set `password_file=` or RMQKIT_PASSWORD."
        if source.startswith("context "):
            advice = "Set `password_file=` or RMQKIT_PASSWORD, or choose where to keep it with `rmqkit context edit`."
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
