"""Protected contexts: before anything is deleted or moved on their broker, the user confirms its name."""

import sys
from typing import Annotated

from rmqkit import contexts
from rmqkit.address import parse_urls
from rmqkit.cli import output
from rmqkit.cli.options import option
from rmqkit.errors import InputError
from rmqkit.settings import Settings, share_broker

# `argv.complete_yes` lets the command see `--yes` as `--yes=`, and `--yes NAME` as `--yes=NAME` for a context's name.
Yes = Annotated[
    str | None,
    option("-y --yes [NAME]", "Do not ask for confirmation; a protected context needs its name.", show_default=False),
]


def confirm(settings: Settings, yes: str | None, action: str) -> bool:
    """Have the user confirm an action, such as "purge queue 'orders'", if the broker belongs to a protected context.

    Return whether the user has confirmed it: a caller with a question for unprotected brokers need not ask it then.
    `yes` is the value of `--yes`: the name of the context, "" without one, None without the option; without the name,
    the user types it on the terminal. Raises InputError if the name is missing or another one.
    """
    name = _protecting(settings)
    if yes and yes != (name or settings.context.name):
        meant = f"context {name or settings.context.name}" if name or settings.context.name else "no context"
        raise InputError(f"--yes {yes}: this command works on {meant}; nothing was changed")
    if not name or yes:
        return yes is not None
    if not (output.is_terminal(sys.stdin) and output.is_terminal(sys.stderr)):
        raise InputError(f"context {name!r} is protected; nothing was changed", advice=f"Confirm it with --yes {name}.")
    if output.ask(f"Context {name} is protected. Type its name to {action}:") != name:
        raise InputError("canceled; nothing was changed")
    return True


def require(settings: Settings, yes: str | None, action: str, question: str) -> None:
    """Have the user confirm an action on any broker; without a terminal, `--yes` is needed. Raises InputError."""
    if confirm(settings, yes, action):
        return
    if not (output.is_terminal(sys.stdin) and output.is_terminal(sys.stderr)):
        message = "confirmation is needed, and there is no terminal to ask on; nothing was changed"
        raise InputError(message, advice="Add --yes.")
    if not output.confirm(question):
        raise InputError("canceled; nothing was changed")


def _protecting(settings: Settings) -> str:
    """Return the name of the protected context that settings use, or that has the same broker and virtual host."""
    if settings.context.protected:
        return settings.context.name
    for each in contexts.load().by_name.values():
        if each.protected:
            addresses = [address for url in each.url for address in parse_urls(url, source=str(each))]
            vhosts = {address.vhost for address in addresses} if each.vhost is None else {each.vhost}
            if share_broker(addresses, settings.addresses) and vhosts & {one.vhost for one in settings.addresses}:
                return each.name
    return ""
