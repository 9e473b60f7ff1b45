"""The clients that take part: their commands, their numbers of messages, and the rates that rmqkit must reach."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent
RMQKIT = str(Path(sys.executable).with_name("rmqkit"))
QUEUE = "worker_queue"
FULL = 100_000

Work = Literal["publish", "consume"]


@dataclass(frozen=True)
class Contestant:
    """A command in which {url}, {port}, {count} and {file} are filled in.

    `whole` takes the time of the whole process, start-up included; else the command prints the seconds its work took.
    """

    work: Work
    name: str
    command: tuple[str, ...]
    count: int = FULL
    whole: bool = False
    needs: str = ""  # a package, a program or a header's library
    lines_in: bool = False  # gets the bodies on stdin
    lines_out: bool = False  # writes the bodies to stdout, else to {file}

    def __str__(self) -> str:
        return self.name


def _script(module: str, action: str, file: str = "") -> tuple[str, ...]:
    rest = (file,) if file else ()
    return (sys.executable, str(HERE / "peers" / f"with_{module}.py"), action, "{url}", "{count}", *rest)


def _publish(name: str, module: str, needs: str, count: int = FULL, action: str = "publish") -> Contestant:
    return Contestant("publish", name, _script(module, action), count, needs=needs)


def _consume(name: str, module: str, needs: str, count: int = FULL) -> Contestant:
    return Contestant("consume", name, _script(module, "consume", "{file}"), count, needs=needs)


PUBLISH = _publish("rmqkit", "rmqkit", "rmqkit")
PUBLISH_COMMAND = Contestant(
    "publish", "`rmqkit publish --count 100000`, whole process", (RMQKIT, "publish", "--count", "{count}"), whole=True
)
CONSUME = _consume("rmqkit", "rmqkit", "rmqkit")
CONSUME_COMMAND = Contestant(
    "consume",
    "`rmqkit consume worker_queue -n 100000`, whole process",
    (RMQKIT, "consume", QUEUE, "-n", "{count}"),
    whole=True,
    lines_out=True,
)
PIKA_COMMAND = Contestant(
    "publish",
    "pika script without confirms, whole process",
    _script("pika", "publish_unconfirmed"),
    whole=True,
    needs="pika",
)
C_PUBLISH = Contestant(
    "publish",
    "amqp-publish (C), no confirms",
    ("amqp-publish", "--server=127.0.0.1", "--port={port}", "-r", QUEUE, "-p", "-l"),
    whole=True,
    needs="amqp-publish",
    lines_in=True,
)
C_CONSUME = Contestant(
    "consume", "librabbitmq (C)", ("{built}", "{port}", "{count}", "{file}"), whole=True, needs="librabbitmq"
)
# One confirm is waited for after the other by these three: they get fewer messages, and rates are compared.
PIKA_CONFIRMS = _publish("pika BlockingConnection", "pika", "pika", 10_000)
AIO_PIKA = _publish("aio-pika, batches of 1,000", "aio_pika", "aio-pika")
PIKA_CONSUME = _consume("pika BlockingConnection", "pika", "pika")

CONTESTANTS = (
    PUBLISH,
    PUBLISH_COMMAND,
    C_PUBLISH,
    PIKA_COMMAND,
    AIO_PIKA,
    _publish("rabbitkit, batches of 1,000", "rabbitkit", "rabbitkit", 20_000),
    _publish("py-amqp", "amqp", "amqp", 10_000),
    PIKA_CONFIRMS,
    _publish("amqpstorm", "amqpstorm", "AMQPStorm", 200),
    CONSUME,
    CONSUME_COMMAND,
    C_CONSUME,
    PIKA_CONSUME,
    _consume("py-amqp", "amqp", "amqp", 50_000),
    _consume("amqpstorm", "amqpstorm", "AMQPStorm", 50_000),
    _consume("aio-pika", "aio_pika", "aio-pika", 20_000),
    _consume("rabbitkit", "rabbitkit", "rabbitkit", 20_000),
)

# rmqkit's median rate must be so many times that of the peer.
REQUIREMENTS = (
    (PUBLISH, PIKA_CONFIRMS, 20.0),
    (PUBLISH, AIO_PIKA, 4.0),
    (PUBLISH, C_PUBLISH, 0.6),
    (PUBLISH_COMMAND, PIKA_COMMAND, 1.0),
    (CONSUME, PIKA_CONSUME, 2.5),
    (CONSUME, C_CONSUME, 0.7),
    (CONSUME_COMMAND, PIKA_CONSUME, 2.5),
    (CONSUME_COMMAND, C_CONSUME, 0.7),
)


def build_consumer(folder: Path) -> str:
    """Compile consumer.c; return its path, or nothing when compiler or library are not there."""
    compiler = shutil.which("cc")
    if compiler is None:
        return ""
    built = folder / "consumer"
    command = [compiler, "-O2", "-o", built, HERE / "consumer.c", "-lrabbitmq"]
    done = subprocess.run(command, capture_output=True, check=False)
    return str(built) if done.returncode == 0 else ""


def versions(contestants: Iterable[Contestant]) -> dict[str, str]:
    """Return the version of each package that takes part."""
    found = {}
    for needs in dict.fromkeys(each.needs for each in contestants if each.needs):
        try:
            found[needs] = version(needs)
        except PackageNotFoundError:
            continue
    return found


def present(contestant: Contestant, built: str) -> bool:
    """Report whether a contestant can run here."""
    if contestant is C_CONSUME:
        return bool(built)
    if contestant is C_PUBLISH:
        return shutil.which("amqp-publish") is not None
    return not contestant.needs or contestant.needs in versions((contestant,))
