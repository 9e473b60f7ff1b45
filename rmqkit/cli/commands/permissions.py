"""`rmqkit permissions`."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from rmqkit.cli import output, protection, topology_source
from rmqkit.cli.options import ConnectionOptions, Json, connect, grouped, option
from rmqkit.errors import InputError
from rmqkit.model import Service, Topology
from rmqkit.plural import plural
from rmqkit.settings import Settings
from rmqkit.topology.names import suggest
from rmqkit.topology.permissions import DEFAULT_EXCHANGE, Permissions, permissions_of

if TYPE_CHECKING:
    from rmqkit.http_api.client import HttpApiClient

_TAG = "User {user!r} also needs the tag {tag}, to read the settings of a queue with a native retry over the HTTP API."


@grouped
def permissions(
    files: topology_source.Files,
    broker: ConnectionOptions,
    *,
    name: Annotated[str, option("--for NAME", "The service, as in `services:` of the files.", show_default=False)],
    user: Annotated[str, option("--user NAME", "The user. [default: the name of the service]")] = "",
    apply: Annotated[
        bool, option("--apply", "Set the permissions of the user, who must exist, over RabbitMQ's HTTP API.")
    ] = False,
    yes: protection.Yes = None,
    json: Json = False,
) -> None:
    """Print the permissions that a service needs: exact patterns, as commands of rabbitmqctl.

    They follow from the service's entry under `services:`: write on the exchanges it publishes to, read on the queues
    it consumes, and also configure on what it declares. For topic exchanges, the routing keys are limited. With
    --apply, the user's present permissions in the virtual host are shown, and replaced after confirmation.
    """
    topology = topology_source.load_topology(files)
    settings = topology_source.in_vhost_of(topology, broker.settings())
    needed = permissions_of(topology, _service(topology, name))
    user, vhost = user or name, settings.addresses[0].vhost
    if apply:
        with connect(settings) as connection:
            _apply(connection.http_api(), settings, user, needed, yes=yes, json=json)
        return
    from rmqkit.http_api.permissions import commands  # noqa: PLC0415 - start-up time: pika

    if json:
        output.out_json({"user": user, "vhost": vhost} | asdict(needed))
        return
    for line in commands(vhost, user, needed):
        output.out(output.safe(line))
    if needed.writes_default_exchange:
        output.note(
            f"Write permission on {DEFAULT_EXCHANGE}, the default exchange, lets the user publish to every queue of"
            " the virtual host."
        )
    for tag in needed.tags:
        output.note(output.safe(_TAG.format(user=user, tag=tag)))


def _service(topology: Topology, name: str) -> Service:
    known = {each.name: each for each in topology.services}
    if name not in known:
        guess = suggest(name, known)
        listed = f"Known: {', '.join(known)}." if known else "Describe it under services: in the topology file."
        advice = f"Did you mean {guess}?" if guess else listed
        raise InputError(f"no service {name!r} in the files", advice=advice)
    return known[name]


def _apply(
    api: HttpApiClient, settings: Settings, user: str, needed: Permissions, *, yes: str | None, json: bool
) -> None:
    """Replace a user's permissions after confirmation; name the topic permissions on other exchanges, which stay."""
    from rmqkit.http_api import permissions as of_users  # noqa: PLC0415 - start-up time: pika

    vhost = api.address.vhost
    before = of_users.read(api, user, vhost)
    wanted = {each.exchange for each in needed.topics}
    kept = [each for each in before.topics if each.exchange not in wanted] if before else []
    of = output.safe(f"user {user!r} in virtual host {vhost!r}")
    if not json:
        for title, each in (("Before", before), ("After", needed)):
            output.note(f"{title}:{_in_words(each)}")
    protection.require(settings, yes, f"replace the permissions of {of}", f"Replace the permissions of {of}?")
    of_users.put(api, user, vhost, needed)
    if json:
        changes = {"before": before and asdict(before), "kept_topics": [asdict(each) for each in kept]}
        output.out_json({"user": user, "vhost": vhost} | asdict(needed) | changes)
        return
    for topic in kept:
        clear = shlex.join(["rabbitmqctl", "clear_topic_permissions", "-p", vhost, user, topic.exchange])
        output.warn(f"the topic permission on exchange {topic.exchange!r} was kept: `{clear}` removes it")
    for tag in needed.tags:
        output.note(output.safe(_TAG.format(user=user, tag=tag)))
    output.note(f"Set the permissions of {of}, with {plural(len(needed.topics), 'topic permission')}.")


def _in_words(permissions: Permissions | None) -> str:
    if permissions is None:
        return " no permissions"
    names = f"configure '{permissions.configure}', write '{permissions.write}', read '{permissions.read}'"
    topics = [f"topics of {each.exchange!r}: write '{each.write}', read '{each.read}'" for each in permissions.topics]
    return output.safe("\n  ".join(["", names, *topics]))
