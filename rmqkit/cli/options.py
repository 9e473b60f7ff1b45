"""Options that commands share, each group one typed object."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from rmqkit.address import DEFAULT_URL, Address, Tls
from rmqkit.cli import output
from rmqkit.cli.help import CONNECTION
from rmqkit.errors import SettingsError, Unreachable
from rmqkit.model import Target
from rmqkit.settings import Settings, load_settings

if TYPE_CHECKING:
    from rmqkit.connection import Connection

Json = Annotated[bool, typer.Option("--json", help="Print the report, or the error, as JSON.")]


def option(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:  # noqa: A002 - Typer's word
    """Make an option whose help shows no default; `panel` is its group in the help."""
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **more)


_option = functools.partial(option, panel=CONNECTION)


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """The broker, login and TLS options of every command that connects."""

    url: Annotated[
        list[str],
        _option(
            "-u",
            "--url",
            metavar="URL",
            help="Broker URL; repeat it, or separate several by commas, to fail over."
            f" [default: RMQKIT_URL, AMQP_URL, CLOUDAMQP_URL or {DEFAULT_URL}]",
        ),
    ] = field(default_factory=list)
    api_url: Annotated[
        str,
        _option(
            metavar="URL",
            help="URL of RabbitMQ's HTTP API."
            " [default: RMQKIT_API_URL, or port 15672 (15671 with amqps) of the same host]",
        ),
    ] = ""
    vhost: Annotated[str | None, _option(metavar="NAME", help="Virtual host. [default: from the URL]")] = None
    password_file: Annotated[
        str | None,
        _option(
            metavar="FILE",
            help="File containing the password, reread on every connect. [default: from the URL or RMQKIT_PASSWORD]",
        ),
    ] = None
    password_prompt: Annotated[bool, _option("--password-prompt", help="Ask for the password on the terminal.")] = False
    tls_ca_file: Annotated[
        str, _option(metavar="FILE", help="CA certificates (PEM) to trust instead of the system's.")
    ] = ""
    tls_cert_file: Annotated[
        str, _option(metavar="FILE", help="Client certificate (PEM), for a broker that requires one.")
    ] = ""
    tls_key_file: Annotated[
        str, _option(metavar="FILE", help="Private key of the client certificate. [default: in the same file]")
    ] = ""
    tls_key_password_file: Annotated[str, _option(metavar="FILE", help="File containing the password of that key.")] = (
        ""
    )
    tls_insecure: Annotated[
        bool, _option("--tls-insecure", help="Skip verification of the certificate and host name (insecure).")
    ] = False

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
            vhost=self.vhost,
            password_file=self.password_file,
            tls=tls,
            api_url=self.api_url,
            source=source,
            ask=_ask if self.password_prompt else None,
        )
        for caution in settings.security_warnings():
            output.warn_once(caution)
        return settings

    def connect(self) -> Connection:
        """Connect to the broker that the options name."""
        return connect(self.settings())


def _ask(address: Address) -> str:
    """Ask for a password on the terminal, even if standard input is a pipe; nothing is echoed."""
    try:
        Path("/dev/tty").open("rb").close()
    except OSError:
        advice = "Use --password-file or RMQKIT_PASSWORD."
        raise SettingsError("--password-prompt needs a terminal", advice=advice) from None
    try:
        return getpass(f"Password for {address}: ")
    except EOFError:
        raise SettingsError("--password-prompt: no password was entered") from None


def connect(settings: Settings) -> Connection:
    """Connect; if nothing listens at the default address, name the port of the user's private node."""
    from rmqkit.connection import Connection  # noqa: PLC0415 - start-up time: pika

    try:
        return Connection(settings)
    except Unreachable as error:
        if settings.source == "default":
            error.advice = _advise_node() or error.advice
        raise


def _advise_node() -> str:
    from rmqkit.node.cluster import last_started  # noqa: PLC0415 - only where there is no broker

    port = next((str(node.status().port) for node in last_started().nodes if node.pid), "")
    return f'Your private node runs on port {port}. Use it: eval "$(rmqkit broker env)"' if port else ""


def parse_target(*, queue: str | None, exchange: str | None, routing_key: str | None) -> Target | None:
    """Return the target that flags name, if any. Raises a usage error for a queue together with an exchange or key."""
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
        default = inspect.Parameter.empty if default is MISSING else default
        parameters.append(
            inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, annotation=hints[each.name], default=default)
        )
    return parameters


@grouped
def connection(options: ConnectionOptions) -> None:
    """Connect to a broker with these options, which all commands share that need one.

    An option takes precedence over an environment variable, and that over the default. `eval "$(rmqkit broker env)"`
    sets the variables for a private node. A URL needs no password: it may come from a file, a variable or a prompt.
    """
