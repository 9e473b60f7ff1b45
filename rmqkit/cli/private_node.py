"""The user's private node, where a command looks for a broker."""

from __future__ import annotations

from rmqkit.address import Address, is_loopback


def api_url(address: Address) -> str:
    """Return the URL of the HTTP API of the private node if the address is its own, else an empty text."""
    from rmqkit.node.cluster import last_started  # noqa: PLC0415 - only where the HTTP API is needed

    nodes = [node.status() for node in last_started().nodes] if is_loopback(address.host) else []
    return next((each.management_url for each in nodes if each.running and each.port == address.port), "")


def advice() -> str:
    """Return how to use the private node, if it is running."""
    from rmqkit.node.cluster import last_started  # noqa: PLC0415 - only where there is no broker

    port = next((str(node.status().port) for node in last_started().nodes if node.pid), "")
    return f'Your private node runs on port {port}. Use it: eval "$(rmqkit broker env)"' if port else ""
