"""`--metrics-port`: Prometheus metrics of a command over HTTP, while it runs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated

from rmqkit.cli.options import option
from rmqkit.errors import SettingsError
from rmqkit.hooks import GuardedHooks

HELP = "Serve Prometheus metrics at http://127.0.0.1:PORT/metrics until the command ends."
MetricsPort = Annotated[int | None, option("--metrics-port PORT", HELP, min=1, max=65535)]
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # of prometheus-client: each process keeps its values in files there


def hooks_of_worker() -> GuardedHooks:
    """Return the hooks of a worker process, whose metrics its parent serves."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - an extra

    from rmqkit.prometheus import Metrics  # noqa: PLC0415

    return GuardedHooks(Metrics(CollectorRegistry()))


@contextmanager
def serving(port: int | None, *, processes: int = 1) -> Iterator[GuardedHooks | None]:
    """Serve metrics while the block runs; yield the hooks that keep them, or None if there is no port.

    Those of several `processes`, children of this one, are added up: their hooks are `hooks_of_worker`. Raises
    SettingsError if the port is in use, or the extra is not installed.
    """
    if port is None:
        yield None
        return
    with ExitStack() as stack:
        if processes > 1:
            os.environ[_FOLDER] = stack.enter_context(tempfile.TemporaryDirectory(prefix="rmqkit-metrics-"))
            stack.callback(os.environ.pop, _FOLDER)
        from rmqkit.prometheus import Metrics  # noqa: PLC0415 - an extra: raises if it is missing

        from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415  # isort: skip

        registry = CollectorRegistry()
        hooks = None
        if processes > 1:
            from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        else:
            hooks = GuardedHooks(Metrics(registry))
        try:
            server, thread = start_http_server(port, "127.0.0.1", registry)
        except OSError as exc:
            advice = "Name another port; nothing was consumed."
            raise SettingsError(f"--metrics-port {port}: {(exc.strerror or str(exc)).lower()}", advice=advice) from exc
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        yield hooks
