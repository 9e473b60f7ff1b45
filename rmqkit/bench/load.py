"""The load of a benchmark, and the exchanges, queues and bindings that it needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from rmqkit.errors import InputError
from rmqkit.model import Binding, Exchange, Queue, Target, Topology

NAMES = "rmqkit.bench."  # the beginning of the names of all entities
EXPIRES_MS = 30 * 60 * 1000  # until RabbitMQ deletes unused queues of a killed run (https://www.rabbitmq.com/docs/ttl)
STAMP_BYTES = 16  # the lane, the number in it and the time, at the beginning of each body

QueueType = Literal["classic", "quorum", "stream"]


@dataclass(frozen=True, slots=True)
class Load:
    """What is published and consumed, and for how long.

    Each producer and each consumer has a connection. `rate` is in messages a second, of all producers together; `sizes`
    are bytes of bodies, taken in turn. At most `window` messages of a producer are unconfirmed, or calls of a caller
    unanswered; at most `prefetch` deliveries of a consumer are unacknowledged. The load runs for `warm_up_s`, which is
    not measured, and then for `duration_s`, or until all producers together have published `count` messages. With
    `fill_first`, consumers start when all messages are published.
    """

    preset: str = "work"
    producers: int = 1
    consumers: int = 1
    queues: int = 1
    queue_type: QueueType = "classic"
    sizes: tuple[int, ...] = (1024,)
    rate: float | None = None
    window: int = 1000
    prefetch: int = 1000
    persistent: bool = True
    duration_s: float = 10.0
    count: int | None = None
    warm_up_s: float = 0.0
    delay_s: int = 0
    fill_first: bool = False

    @property
    def calls(self) -> bool:
        """Tell whether producers call, and consumers reply."""
        return self.preset == "rpc"

    @property
    def streams(self) -> bool:
        """Tell whether each consumer of a queue receives every message."""
        return self.queue_type == "stream"

    def check(self) -> None:
        """Raise InputError for a load that cannot run."""
        if small := [size for size in self.sizes if size < STAMP_BYTES]:
            advice = f"Use `size={STAMP_BYTES}` or more."
            raise InputError(f"a body of {small[0]} B is too small for the message's number and time", advice=advice)
        if self.consumers and self.consumers < self.queues:
            raise InputError(
                f"{self.queues} queues need at least {self.queues} consumers, not {self.consumers}",
                advice="Use more consumers, or `consumers=0` to publish only.",
            )
        if (self.calls or self.fill_first) and not self.consumers:
            raise InputError("rpc needs consumers" if self.calls else "`fill_first=True` needs consumers")
        if self.calls and (self.fill_first or self.streams):
            raise InputError("rpc cannot be combined with `fill_first=True` or streams")


class Preset(NamedTuple):
    """A named load, and a sentence about it."""

    sentence: str
    load: Load


PRESETS = {
    each.load.preset: each
    for each in (
        Preset("Producers fill a queue, and consumers share its messages.", Load("work")),
        Preset("A fanout exchange copies each message to three queues.", Load("fanout", queues=3)),
        Preset("A topic exchange routes by key to three queues; a fourth gets all.", Load("topic", queues=4)),
        Preset("A quorum queue, which is replicated in a cluster.", Load("quorum", queue_type="quorum")),
        Preset("A stream, which every consumer reads from its beginning.", Load("stream", queue_type="stream")),
        Preset("Callers send requests, and servers reply.", Load("rpc", window=100, prefetch=100)),
        Preset("Messages that are delivered two seconds after they are published.", Load("delay", delay_s=2)),
    )
}  # fmt: skip


def preset(name: str, **changes: Any) -> Load:
    """Return the load of a preset with changes, of which None changes nothing; by default, a queue has one consumer."""
    given = {key: value for key, value in changes.items() if value is not None}
    load = replace(PRESETS[name].load, **given)
    return load if "consumers" in given else replace(load, consumers=load.queues)


class Lane(NamedTuple):
    """The messages of one producer to one target, which are numbered from 0; `queues` receive them."""

    number: int
    target: Target
    queues: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """The entities, the lanes of each producer, and the queue of each consumer."""

    topology: Topology
    lanes: tuple[tuple[Lane, ...], ...]
    consumed: tuple[str, ...]


def lay_out(load: Load, run: str) -> Layout:
    """Return the layout of a load; `run` makes its names unique."""
    arguments: dict[str, Any] = {"x-queue-type": load.queue_type}
    if not load.streams:  # streams do not expire
        arguments |= {"x-expires": EXPIRES_MS}
    queues = tuple(Queue(f"{NAMES}{run}.{number + 1}", arguments=arguments) for number in range(load.queues))
    names = tuple(queue.name for queue in queues)
    exchanges: tuple[Exchange, ...] = ()
    bindings: tuple[Binding, ...] = ()
    if load.preset in ("fanout", "topic"):
        exchanges = (Exchange(f"{NAMES}{run}", load.preset, auto_delete=True),)
        patterns = ["#"] + [f"*.{number}.#" for number in range(1, load.queues)]
        bindings = tuple(
            Binding(exchanges[0].name, name, routing_key=pattern if load.preset == "topic" else "")
            for name, pattern in zip(names, patterns, strict=True)
        )
    if load.preset == "fanout":
        routes = [(Target(exchanges[0].name), names)]
    elif load.preset == "topic":
        routes = [
            (Target(exchanges[0].name, f"event.{number}.created"), (names[0], *names[number : number + 1]))
            for number in range(1, max(load.queues, 2))
        ]
    else:
        routes = [(Target("", name), (name,)) for name in names]
    shares = [_share(load, producer, len(routes)) for producer in range(load.producers)]
    lanes = (
        tuple(Lane(producer * len(routes) + number, *routes[number]) for number in share)
        for producer, share in enumerate(shares)
    )
    consumed = tuple(names[number % load.queues] for number in range(load.consumers))
    return Layout(Topology(exchanges=exchanges, queues=queues, bindings=bindings), tuple(lanes), consumed)


def _share(load: Load, producer: int, routes: int) -> range:
    """Return the routes of a producer: all of a topic exchange; otherwise a part, so that each route has a producer."""
    if load.preset == "topic":
        return range(routes)
    return range(producer % routes, routes, load.producers)  # one, if there are at least as many producers as routes
