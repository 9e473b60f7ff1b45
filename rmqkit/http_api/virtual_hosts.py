"""The virtual hosts of a broker, and the tracing of one (https://www.rabbitmq.com/docs/firehose)."""

from __future__ import annotations

from typing import Any

from rmqkit.http_api.client import HttpApiClient


def names(api: HttpApiClient) -> tuple[str, ...]:
    """Return the names of the virtual hosts that the user may see, sorted. Raises the errors of `live`."""
    return api.fetch("vhosts?columns=name", lambda found: tuple(sorted(each["name"] for each in found)))


def is_traced(api: HttpApiClient) -> bool:
    """Tell whether the firehose of the client's virtual host is on. Raises the errors of `live`."""
    return bool(_settings(api)["tracing"])


def trace(api: HttpApiClient, *, on: bool) -> None:
    """Switch the firehose of the client's virtual host on or off. Raises Refused, Unreachable.

    RabbitMQ resets the settings that the request leaves out, so all of them are sent.
    """
    kept = {name: value for name, value in _settings(api).items() if name != "tracing" and value != "undefined"}
    api.put_virtual_host(api.vhost, kept | {"tracing": on})


def _settings(api: HttpApiClient) -> dict[str, Any]:
    """Read them from the list: only administrators may read a single virtual host."""

    def convert(found: Any) -> dict[str, Any]:
        own: dict[str, Any] = next(each for each in found if each.pop("name") == api.vhost)
        return own | {"tracing": own["tracing"]}

    return api.fetch("vhosts?columns=name,tracing,description,tags,default_queue_type", convert)
