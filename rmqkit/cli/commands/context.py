"""`rmqkit context`: named brokers."""

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from rmqkit import contexts, password
from rmqkit.address import Address, parse_urls
from rmqkit.cli import output, rabbitmqadmin_file
from rmqkit.cli.app import SETTINGS
from rmqkit.cli.options import ConnectionOptions, Json, ask_password, grouped, option, option_field
from rmqkit.contexts import Context, split_password
from rmqkit.errors import SettingsError
from rmqkit.plural import plural
from rmqkit.settings import CONTEXT_VARIABLE, PASSWORD_VARIABLE, URL_VARIABLES, Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Manage contexts: `--context NAME` stands for a broker's URLs, credentials and TLS files.",
    **SETTINGS,
)
_Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the context.")]


@dataclass(frozen=True, slots=True)
class PasswordOptions:
    """Where to keep the password."""

    password_command: str | None = option_field(
        "--password-command COMMAND", "Command that prints the password on its first line, such as 'pass show rabbit'."
    )
    password_file: str | None = option_field("--password-file FILE", "File containing the password.")
    password_keyring: bool = option_field(
        "--password-keyring", "Keep the password in the system's keyring.", default=False
    )
    password_in_file: bool = option_field(
        "--password-in-file", "Keep the password in the contexts file, unencrypted.", default=False
    )

    @property
    def keeps(self) -> bool:
        """Tell whether rmqkit keeps the password itself."""
        return self.password_keyring or self.password_in_file

    def values(self, name: str, given: str, address: Address) -> dict[str, Any]:
        """Return the values of a context that concern its password; `given` is the password from the URL, or empty.

        A password to keep that is not `given` comes from RMQKIT_PASSWORD, or else from a prompt. Raises SettingsError.
        """
        places = (self.password_command, self.password_file, self.password_keyring, self.password_in_file)
        if sum(map(bool, places)) > 1:
            raise SettingsError(
                "use only one of --password-command, --password-file, --password-keyring, --password-in-file"
            )
        if given and not self.keeps:
            advice = "Remove it, or add --password-keyring, or --password-in-file to keep it unencrypted."
            raise SettingsError(f"context {name!r}: the URL contains a password", advice=advice)
        if self.password_command:
            try:
                return {"password_command": shlex.split(self.password_command)}
            except ValueError as error:
                raise SettingsError(f"--password-command: {error}") from None
        if self.password_file:
            return {"password_file": os.path.abspath(self.password_file)}  # noqa: PTH100 - links stay
        if not self.keeps:
            return {}
        secret = (
            given
            or os.environ.get(PASSWORD_VARIABLE)
            or ask_password(address, "--password-keyring" if self.password_keyring else "--password-in-file")
        )
        if self.password_in_file:
            return {"password": secret}
        password.into_keyring(name, secret)
        return {"password_keyring": True}


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """The other values of a context."""

    api_url: str | None = option_field("--api-url URL", "URL of RabbitMQ's HTTP API.")
    vhost: str | None = option_field("--vhost NAME", "Virtual host. [default: from the URL]")
    tls_ca_file: str | None = option_field("--tls-ca-file FILE", "CA certificates (PEM) to trust.")
    tls_cert_file: str | None = option_field("--tls-cert-file FILE", "Client certificate (PEM).")
    tls_key_file: str | None = option_field("--tls-key-file FILE", "Private key of the client certificate.")
    tls_key_password_file: str | None = option_field(
        "--tls-key-password-file FILE", "File containing the password of that key."
    )
    tls_insecure: bool | None = option_field("--tls-insecure/--tls-verify", "Skip verification of the certificate.")
    color: str | None = option_field("--color COLOR", f"Color of its name on terminals: {', '.join(contexts.COLORS)}.")
    protected: bool | None = option_field(
        "--protected/--unprotected", "Require the context's name as confirmation before anything is deleted or moved."
    )

    def values(self) -> dict[str, Any]:
        """Return the values that are given, with absolute paths. Raises SettingsError."""
        values = {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}
        if self.api_url and contexts.shown(self.api_url) != self.api_url:
            raise SettingsError("--api-url must not contain a login: its password would be kept unencrypted")
        return {
            name: os.path.abspath(value) if name.endswith("_file") else value  # noqa: PTH100 - links stay
            for name, value in values.items()
        }


@app.command(
    epilog="rmqkit context add dev amqp://localhost\n"
    "rmqkit context add prod amqps://ada@rabbit.example/shop --password-command 'pass show rabbit' --protected"
)
@grouped
def add(
    name: _Name,
    urls: Annotated[list[str], typer.Argument(metavar="URL", help="Broker URLs; more than one for failover.")],
    place: PasswordOptions,
    more: ContextOptions,
    *,
    force: Annotated[bool, option("--force", "Replace a context of this name.")] = False,
) -> None:
    """Add a context. A password in a URL is refused unless an option says where to keep it."""
    if not force:
        contexts.check_new([name])
    contexts.put({name: _values(name, urls, place, more)}, force=force)
    output.note(f"Added context {name}. Use it with --context {name}, or `rmqkit context use {name}`.")


@app.command(epilog="rmqkit context edit prod --protected\nrmqkit context edit prod --unset tls_ca_file --vhost shop")
@grouped
def edit(
    name: _Name,
    urls: Annotated[list[str] | None, typer.Argument(metavar="URL", help="New broker URLs.")] = None,
    *,
    place: PasswordOptions,
    more: ContextOptions,
    unset: Annotated[
        list[str] | None, option("--unset KEY", "Remove a value, such as vhost or tls_ca_file; repeatable.")
    ] = None,
) -> None:
    """Change the given values of a context; other values, and comments in the file, are kept."""
    known = contexts.load().find(name)
    if urls:
        values = _values(name, urls, place, more)
    else:
        values = more.values() | place.values(name, "", parse_urls(known.url[0], source=str(known))[0])
    if not values and not unset:
        raise SettingsError("nothing to change", advice=f"Give options, or open {contexts.config_file()} in an editor.")
    changed = contexts.edit(name, values, unset or ())
    if known.password_keyring and not changed.password_keyring:
        password.forget(name)
    output.note(f"Changed context {name}.")


@app.command("list", epilog="rmqkit context list --json")
def list_contexts(*, json: Json = False) -> None:
    """List the contexts; an asterisk marks the one in use."""
    known = contexts.load()
    if json:
        found = [dict(_values_of(each)) for each in known.by_name.values()]
        output.out_json({"current": known.current or None, "contexts": found})
    elif known.by_name:
        header = ("", "name", "url", "password", "protected")
        rows = [
            (
                "*" if name == known.current else "",
                name,
                ", ".join(_addresses(each)),
                _place(each),
                "yes" * each.protected,
            )
            for name, each in known.by_name.items()
        ]
        output.out(
            output.table(rows, header=header, styles=[each.color for each in known.by_name.values()], shortened=(2,))
        )
    else:
        output.note("No contexts. Add one with `rmqkit context add NAME URL`.")


@app.command(epilog="rmqkit context show\nrmqkit context show prod --vhost shop")
@grouped
def show(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The context. [default: as in any command]")
    ] = None,
    *,
    broker: ConnectionOptions,
    json: Json = False,
) -> None:
    """Show which broker commands use with these options, and where each value comes from.

    Options take precedence over environment variables, variables over the context in use, and the context over the
    defaults. The login, virtual host and TLS files of a context are used only with its own URLs. Passwords are not
    shown.
    """
    settings = (replace(broker, context=name) if name else broker).settings()
    rows = list(_rows(settings))
    if json:
        output.out_json({key: {"value": value or None, "from": origin or None} for key, value, origin in rows})
    else:
        shown = [(key, "yes" if value is True else value, origin) for key, value, origin in rows if value]
        output.out(output.table(shown, shortened=(1,)))


@app.command(epilog="rmqkit context use prod\nrmqkit context use --none")
def use(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The name of the context.")] = None,
    *,
    none: Annotated[bool, option("--none", "Use no context.")] = False,
) -> None:
    """Use a context in all commands that name no broker, until another is chosen."""
    if (name is None) != none:
        raise SettingsError("name a context, or add --none")
    contexts.use(name or "")
    output.note(f"Commands now use context {name}." if name else "Commands now use no context.")
    for variable in (*URL_VARIABLES, CONTEXT_VARIABLE):
        if os.environ.get(variable):
            output.warn(f"{variable} is set and takes precedence")


@app.command(epilog="rmqkit context remove dev")
def remove(name: _Name) -> None:
    """Remove a context, and its password from the system's keyring."""
    known = contexts.load().find(name)
    if known.password_keyring:
        password.forget(name)
    contexts.remove(name)
    output.note(f"Removed context {name}.")


@app.command(
    "import", epilog="rmqkit context import\nrmqkit context import https://ada@rabbit.example:15671 --name prod"
)
@grouped
def import_contexts(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE", help="The file, or a URL of AMQP or the HTTP API. [default: ~/.rabbitmqadmin.conf]"
        ),
    ] = None,
    *,
    name: Annotated[
        str | None, option("--name NAME", "With a URL: the name of the context. [default: the host]")
    ] = None,
    place: PasswordOptions,
    force: Annotated[bool, option("--force", "Replace contexts of the same names.")] = False,
) -> None:
    """Import contexts from a configuration file of rabbitmqadmin (version 1 or 2), or from a URL.

    AMQP is assumed to use its default port on the same host. Passwords are imported only with --password-keyring or
    --password-in-file.
    """
    found = rabbitmqadmin_file.read(source, name)
    if len(found) > 1 and (place.password_command or place.password_file):
        raise SettingsError("--password-command and --password-file need a single context")
    if not force:
        contexts.check_new(found)
    for each, values in found.items():
        secret = str(values.pop("password", ""))
        if secret and place == PasswordOptions():
            output.warn(
                f"the password of {each} was not imported; choose where to keep it with `rmqkit context edit {each}`"
            )
        elif secret or not place.keeps:
            values.update(place.values(each, secret if place.keeps else "", parse_urls(values["url"][0])[0]))
    contexts.put(found, force=force)
    output.note(f"Imported {plural(len(found), 'context')}: {', '.join(found)}.")


def _values(name: str, urls: Sequence[str], place: PasswordOptions, more: ContextOptions) -> dict[str, Any]:
    bare, secret = split_password(urls)
    addresses = [address for url in bare for address in parse_urls(url, source="URL")]
    return {"url": bare} | more.values() | place.values(name, secret, addresses[0])


def _rows(settings: Settings) -> Iterator[tuple[str, str | bool, str]]:
    """Yield the name, the value and the origin of each setting; an empty value is not set."""
    origins = {name: output.in_options(origin) for name, origin in settings.origins.items()}
    context = settings.context
    yield "context", context.name, origins["context"]
    yield "url", ", ".join(map(str, settings.addresses)), origins["url"]
    yield "api_url", contexts.shown(settings.api_url), origins["api_url"]
    yield "vhost", settings.addresses[0].vhost, origins["vhost"]
    yield "password", _password(settings), origins["password"]
    tls = settings.tls_options(settings.addresses[0])
    for name in ("ca_file", "cert_file", "key_file", "key_password_file"):
        yield f"tls_{name}", getattr(tls, name), origins[f"tls_{name}"]
    yield "tls_insecure", tls.insecure, origins["tls_insecure"]
    yield "color", context.color, str(context)
    yield "protected", context.protected, str(context)


def _password(settings: Settings) -> str:
    if settings.origins["password"] == str(settings.context) and (place := _place(settings.context)):
        return place
    return "given" * bool(settings.password_file or settings.addresses[0].password)


def _values_of(context: Context) -> Iterator[tuple[str, Any]]:
    yield "name", context.name
    yield "url", _addresses(context)
    yield "api_url", contexts.shown(context.api_url) or None
    yield "vhost", context.vhost
    yield "password", _place(context) or None
    yield "color", context.color or None
    yield "protected", context.protected


def _addresses(context: Context) -> list[str]:
    return [str(address) for url in context.url for address in parse_urls(url, source=str(context))]


def _place(context: Context) -> str:
    """Say where the password is kept; the arguments of a command may be secret, and are left out."""
    if context.password_command:
        return f"command {context.password_command[0]}"
    if context.password_file:
        return f"file {context.password_file}"
    if context.password_keyring:
        return "keyring"
    return "in the file" if context.password or any(map(contexts.has_password, context.url)) else ""
