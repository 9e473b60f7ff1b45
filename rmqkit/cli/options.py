"""The options that commands share, and how they become one typed object."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from rmqkit.address import DEFAULT_URL, Address, Tls
from rmqkit.cli import output
from rmqkit.errors import SettingsError
from rmqkit.model import Target
from rmqkit.settings import Settings, load_settings

if TYPE_CHECKING:
    from rmqkit.connection import Connection

Json = Annotated[bool, typer.Option("--json", help="Print the report, or the error, as JSON.")]


def option(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:  # noqa: A002 - Typer's word
    """Make an option whose default goes without saying; `panel` is its group in the help."""
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **more)


_option = functools.partial(option, panel="Connection")


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """Which broker, as the options of every command that talks to one say."""

    url: Annotated[
        list[str],
        _option(
            "-u",
            "--url",
            metavar="URL",
            help="The broker; repeat it, or separate by commas, for others to fall back on. Else RMQKIT_URL, AMQP_URL,"
            f" CLOUDAMQP_URL, or {DEFAULT_URL}",
        ),
    ] = field(default_factory=list)
    api_url: Annotated[
        str,
        _option(
            "--api-url",
            metavar="URL",
            help="RabbitMQ's HTTP API. Else RMQKIT_API_URL, or port 15672 (15671 with amqps) of the same host.",
        ),
    ] = ""
    vhost: Annotated[
        str | None, _option("--vhost", metavar="NAME", help="The virtual host, whatever the URL says.")
    ] = None
    password_file: Annotated[
        str | None,
        _option(
            "--password-file",
            metavar="FILE",
            help="Holds the password; read at every connect. Else that in the URL, or RMQKIT_PASSWORD.",
        ),
    ] = None
    password_prompt: Annotated[bool, _option("--password-prompt", help="Ask for the password on the terminal.")] = False
    tls_ca_file: Annotated[
        str, _option("--tls-ca-file", metavar="FILE", help="Whom to trust instead of the system's authorities.")
    ] = ""
    tls_cert_file: Annotated[
        str, _option("--tls-cert-file", metavar="FILE", help="Our certificate, for a broker that asks for one.")
    ] = ""
    tls_key_file: Annotated[
        str, _option("--tls-key-file", metavar="FILE", help="Its key, unless it is in the same file.")
    ] = ""
    tls_key_password_file: Annotated[
        str, _option("--tls-key-password-file", metavar="FILE", help="Holds the password of that key.")
    ] = ""
    tls_insecure: Annotated[
        bool, _option("--tls-insecure", help="Check neither certificate nor host name: anybody may listen.")
    ] = False

    def settings(self, *, source: str = "--url") -> Settings:
        """Return which broker is meant; raise SettingsError, which says that the URL is that of `source`."""
        tls = Tls(
            self.tls_ca_file,
            self.tls_cert_file,
            self.tls_key_file,
            insecure=self.tls_insecure,
            key_password_file=self.tls_key_password_file,
        )
        if self.password_prompt and self.password_file:
            raise SettingsError("--password-prompt and --password-file: give one of them")
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
        """Connect to what these options say."""
        return connect(self.settings())


def _ask(address: Address) -> str:
    """Ask for a password on the terminal, even if standard input is a pipe; nothing is echoed."""
    from getpass import getpass  # noqa: PLC0415 - start-up time

    try:
        Path("/dev/tty").open("rb").close()
    except OSError:
        advice = "Use --password-file, or RMQKIT_PASSWORD."
        raise SettingsError("--password-prompt: there is no terminal to ask on", advice=advice) from None
    try:
        return getpass(f"Password for {address}: ")
    except EOFError:
        raise SettingsError("--password-prompt: no password was given") from None


def connect(settings: Settings) -> Connection:
    """Connect; with nobody at the default address, say where a node of ours runs."""
    from rmqkit.connection import Connection  # noqa: PLC0415 - start-up time: pika
    from rmqkit.errors import Unreachable  # noqa: PLC0415

    try:
        return Connection(settings)
    except Unreachable as error:
        if settings.source == "default":
            error.advice = _our_node() or error.advice
        raise


def _our_node() -> str:
    from rmqkit.node.cluster import last_started  # noqa: PLC0415 - only where there is no broker

    port = next((str(node.status().port) for node in last_started().nodes if node.pid), "")
    return f'A node of yours runs on port {port}: eval "$(rmqkit broker env)"' if port else ""


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
    found = []
    for each in fields(group):
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        kind = inspect.Parameter.KEYWORD_ONLY
        found.append(
            inspect.Parameter(
                each.name,
                kind,
                annotation=hints[each.name],
                default=inspect.Parameter.empty if default is MISSING else default,
            )
        )
    return found
