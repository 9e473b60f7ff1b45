"""`rmqkit plan`."""

from typing import Annotated

import typer

from rmqkit import exit_codes
from rmqkit.cli import plan_text, topology_source
from rmqkit.cli.new_virtual_host import open_virtual_host
from rmqkit.cli.options import ConnectionOptions, Json, grouped, option
from rmqkit.cli.plan_text import VhostPlan
from rmqkit.options import ApplyOptions


@grouped
def plan(
    files: topology_source.Files,
    broker: ConnectionOptions,
    *,
    prune: plan_text.Prune = False,
    replace: plan_text.Replace = False,
    detailed_exit_code: Annotated[
        bool, option("--detailed-exit-code", "Exit with 3 if there is something to change, 0 if not.")
    ] = False,
    all_vhosts: Annotated[bool, option("--all-vhosts", "Also list virtual hosts without a file.")] = False,
    json: Json = False,
) -> None:
    """Show what applying topology files would do, and change nothing.

    Entities are to be created or changed (policies), unchanged, in conflict (they exist with different properties: exit
    code 5), or extra (they exist in the files' scope, and no file declares them). Without RabbitMQ's HTTP API,
    bindings, policies and extras cannot be seen, and each binding counts as a change. The files may name several
    virtual hosts; `rmqkit apply` creates a missing one if the user is an administrator. The values of variables are
    shown, but not those whose names suggest a secret.
    """
    from rmqkit.http_api import virtual_hosts  # noqa: PLC0415 - start-up time: pika

    options = ApplyOptions(prune=prune, replace=replace)
    plans: list[VhostPlan] = []
    others: tuple[str, ...] | None = None
    for topology, settings in topology_source.load_targets(files, broker):
        with open_virtual_host(settings, topology) as place:
            plans.append(VhostPlan(place.plan(topology, options=options), topology, settings))
            if all_vhosts:
                others = virtual_hosts.names(place.http_api())
    planned = {each.settings.addresses[0].vhost for each in plans}
    others = others and tuple(each for each in others if each not in planned)
    plan_text.show_all(plans, others=others, json=json)
    raise typer.Exit(max(exit_codes.exit_code(each.plan, changes_count=detailed_exit_code) for each in plans))
