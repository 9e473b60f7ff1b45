"""Options that commands share, each group one typed object."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from rmqkit.address import DEFAULT_URL, Address, Tls
from rmqkit.cli import output, private_node
from rmqkit.cli.help import CONNECTION
from rmqkit.errors import SettingsError, Unreachable
from rmqkit.model import Target
from rmqkit.payload import properties
from rmqkit.settings import Settings, load_settings

if TYPE_CHECKING:
    from rmqkit.connection import Connection

_OPTION = "option"  # the key of an option in the metadata of its field


def option(names: str, help: str, *, panel: str | None = None, **more: Any) -> Any:  # noqa: A002 - Typer's word
    """Make an option; `names` are its flags and metavar, as help shows them, and `panel` is its group in the help."""
    flags = names.split()
    metavar = None if flags[-1].startswith("-") else flags.pop()
    return typer.Option(*flags, metavar=metavar, help=help, rich_help_panel=panel, **more)


Json = Annotated[bool, option("--json", "Print the report, or the error, as JSON; `-o json` does the same.")]


def option_field(
    names: str,
    help: str,  # noqa: A002 - Typer's word
    *,
    default: Any = None,
    default_factory: Any = MISSING,
    **more: Any,
) -> Any:
    """Make an option a field of a dataclass; help shows a default that is not empty, unless `show_default` is given."""
    metadata = {_OPTION: option(names, help, **{"show_default": bool(default)} | more)}
    if default_factory is not MISSING:
        return field(default_factory=default_factory, metadata=metadata)
    return field(default=default, metadata=metadata)


_option = functools.partial(option_field, panel=CONNECTION)


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """The broker, login and TLS options of every command that connects."""

    url: list[str] = _option(
        "-u --url URL",
        "Broker URL; repeat it, or separate several by commas, to fail over."
        f" [default: RMQKIT_URL, AMQP_URL, CLOUDAMQP_URL or {DEFAULT_URL}]",
        default_factory=list,
    )
    context: str | None = _option(
        "--context NAME",
        "Broker of this name; see `rmqkit context`. [default: RMQKIT_CONTEXT, or that of `rmqkit context use`]",
    )
    api_url: str = _option(
        "--api-url URL",
        "URL of RabbitMQ's HTTP API. [default: RMQKIT_API_URL, or port 15672 (15671 with amqps) of the same host]",
        default="",
    )
    vhost: str | None = _option("--vhost NAME", "Virtual host. [default: from the URL]")
    password_file: str | None = _option(
        "--password-file FILE",
        "File containing the password, reread for every connection. [default: from the URL or RMQKIT_PASSWORD]",
    )
    password_prompt: bool = _option("--password-prompt", "Ask for the password on the terminal.", default=False)
    blocked_timeout: float = _option(
        "--blocked-timeout SECONDS",
        "Time to wait while a broker alarm blocks publishers.",
        default=600.0,
        min=0,
    )
    tls_ca_file: str = _option(
        "--tls-ca-file FILE", "CA certificates (PEM) to trust instead of the system's.", default=""
    )
    tls_cert_file: str = _option(
        "--tls-cert-file FILE", "Client certificate (PEM), for a broker that requires one.", default=""
    )
    tls_key_file: str = _option(
        "--tls-key-file FILE", "Private key of the client certificate. [default: in the same file]", default=""
    )
    tls_key_password_file: str = _option(
        "--tls-key-password-file FILE", "File containing the password of that key.", default=""
    )
    tls_insecure: bool = _option(
        "--tls-insecure", "Skip verification of the certificate and host name (insecure).", default=False
    )

    def settings(self, *, source: str = "--url") -> Settings:
        """Return the settings of the broker; raise SettingsError, which names `source` as the origin of a bad URL."""
        tls = Tls(
            self.tls_ca_file,
            self.tls_cert_file,
            self.tls_key_file,
            insecure=self.tls_insecure,
            key_password_file=self.tls_key_password_file,
        )
        if self.password_prompt and self.password_file:
            raise SettingsError("--password-prompt and --password-file cannot be combined")
        settings = load_settings(
            self.url,
            context=self.context,
            vhost=self.vhost,
            password_file=self.password_file,
            tls=tls,
            api_url=self.api_url,
            source=source,
            ask=ask_password if self.password_prompt else None,
            in_use=True,
        )
        if settings.context.name and output.is_terminal(sys.stderr):
            output.note_once(f"Context {settings.context.name}: {settings.addresses[0]}", settings.context.color)
        for caution in settings.security_warnings():
            output.warn_once(caution)
        return replace(
            settings,
            find_api_url=private_node.api_url,
            blocked_timeout_s=self.blocked_timeout,
            on_blocked=_warn_of_alarm,
        )

    def connect(self) -> Connection:
        """Connect to the broker that the options name."""
        return connect(self.settings())


def _warn_of_alarm(reason: str) -> None:
    output.warn(f"the broker is blocking publishers: {reason}")


def ask_password(address: Address, option: str = "--password-prompt") -> str:
    """Ask for a password on the terminal, even if standard input is a pipe; nothing is echoed."""
    try:
        Path("/dev/tty").open("rb").close()
    except OSError:
        advice = "Use --password-file or RMQKIT_PASSWORD."
        raise SettingsError(f"{option} needs a terminal", advice=advice) from None
    try:
        return getpass(f"Password for {address}: ")
    except EOFError:
        raise SettingsError(f"{option}: no password was entered") from None


def connect(settings: Settings) -> Connection:
    """Connect; if nothing listens at the default address, name the port of the user's private node."""
    from rmqkit.connection import Connection  # noqa: PLC0415 - start-up time: pika

    try:
        return Connection(settings)
    except Unreachable as error:
        if settings.source == "default":
            error.advice = private_node.advice() or error.advice
        raise


def parse_target(*, queue: str | None, exchange: str | None, routing_key: str | None) -> Target | None:
    """Return the target that flags name, if any.

    Raises a usage error for a queue together with an exchange or key, and PayloadError for names AMQP cannot carry.
    """
    properties.check_names({"queue": queue, "exchange": exchange, "routing_key": routing_key})
    if queue is not None and (exchange is not None or routing_key is not None):
        raise typer.BadParameter("--queue cannot be combined with --exchange or --routing-key")
    if queue is not None:
        return Target("", queue)
    if exchange is None and routing_key is None:
        return None
    return Target(exchange or "", routing_key or "")


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """Expand each parameter that is a dataclass into its fields, as options of the command.

    Typer sees one parameter a field; the command gets the dataclass. A field's annotation is Typer's own.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        name = parameter.name
        if name in groups:
            parameters += _parameters_of(groups[name])
        else:
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[name]))

    @functools.wraps(command)
    def expanded(**values: Any) -> Any:
        for name, group in groups.items():
            values[name] = group(**{each.name: values.pop(each.name) for each in fields(group)})
        return command(**values)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {each.name: each.annotation for each in parameters}
    del expanded.__wrapped__
    return expanded


def _parameters_of(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    parameters = []
    for each in fields(group):
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        hint = Annotated[hints[each.name], each.metadata[_OPTION]] if each.metadata else hints[each.name]
        parameters.append(
            inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)
        )
    return parameters


@grouped
def connection(options: ConnectionOptions) -> None:
    """Connect to a broker with these options, which all commands that need one share.

    Options take precedence over environment variables, these over the context in use, and that over the defaults.
    `rmqkit context show` says where each value comes from. `eval "$(rmqkit broker env)"` sets the variables for a
    private node. A URL needs no password: it may come from a file, a variable or a prompt.
    """
