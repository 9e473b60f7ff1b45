"""Where RabbitMQ is installed, and the environment and files that keep a node of it to itself."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from rmqkit.errors import NodeError
from rmqkit.node.ports import Ports

_ALONE = "rmqkit@127.0.0.1"  # it names the data too, so it never changes; an address needs no /etc/hosts
_WRAPPED = Path("/usr/lib/rabbitmq/bin")  # the scripts behind Debian's and Fedora's wrapper
_LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"
_CLUSTERED = (  # https://www.rabbitmq.com/docs/partitions: as in production, for three nodes or more
    "cluster_formation.peer_discovery_backend = classic_config\ncluster_partition_handling = pause_minority\n"
)
_LEAN = "+S 1:1 +SDcpu 1:1 +SDio 1"  # several nodes share one machine
_INHERITED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR")  # not the user's RABBITMQ_*, ERL_* or passwords


@dataclass(frozen=True, slots=True)
class Identity:
    """What a node is called and where its cookie is.

    In a cluster also where to find it: the names of its first node and of this one, this one's place among all, from 0,
    and the port of the `epmd` they share.
    """

    home: Path
    name: str = _ALONE
    seeds: tuple[str, ...] = ()
    turn: int = 0
    epmd: int = 0


@dataclass(frozen=True, slots=True)
class Installation:
    """RabbitMQ's own scripts (`rabbitmq-server`, `rabbitmqctl`) and Erlang's port mapper."""

    scripts: Path
    epmd: Path

    def mapper(self, port: int) -> list[str | Path]:
        """Return the command that runs a port mapper on a port of its own."""
        return [self.epmd, "-address", "127.0.0.1", "-port", str(port)]


def find() -> Installation:
    """Find an installed RabbitMQ; raise NodeError with what to install when there is none.

    Debian's `/usr/sbin/rabbitmq-server` is a wrapper that insists on root or the user rabbitmq; what it wraps does not.
    """
    on_path = shutil.which("rabbitmq-server", path=_search_path())
    folders = [
        Path(os.environ.get("RABBITMQ_HOME", "/nonexistent"), "sbin"),
        *([Path(on_path).resolve().parent] if on_path else []),
        _WRAPPED,
    ]
    epmd = shutil.which("epmd", path=_search_path())
    for folder in folders:
        if epmd and (folder / "rabbitmq-server").exists() and (folder / "rabbitmq-env").exists():
            return Installation(folder, Path(epmd))
    what = "RabbitMQ" if epmd else "RabbitMQ (or the Erlang it needs: there is no `epmd` on PATH)"
    raise NodeError(
        f"{what} is not installed on this machine",
        advice="Install it: `apt install rabbitmq-server`, `dnf install rabbitmq-server` or `brew install rabbitmq`;\n"
        "or run one elsewhere, `docker run -d -p 127.0.0.1:5672:5672 rabbitmq`, and name it by RMQKIT_URL.",
    )


def environment(folder: Path, identity: Identity, ports: Ports) -> dict[str, str]:
    """Return the variables that make RabbitMQ's scripts work on this node alone.

    See https://www.rabbitmq.com/docs/configure#supported-environment-variables.
    """
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return (
        {"LANG": "C.UTF-8"}
        | inherited
        | {
            "PATH": _search_path(),
            "HOME": str(identity.home),  # where Erlang looks for the cookie
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the node instead of waiting for it
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(ports.epmd),
            "ERL_CRASH_DUMP": str(folder / "log" / "erl_crash.dump"),
            "RABBITMQ_NODENAME": identity.name,
            "RABBITMQ_USE_LONGNAME": "true",  # a name with dots is a long one
            "RABBITMQ_DIST_PORT": str(ports.distribution),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(folder / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": str(folder / "log" / "broker.log"),
            "RABBITMQ_PID_FILE": str(folder / "data" / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{_LOOPBACK} -start_epmd false {_LEAN if identity.seeds else ''}",
            "RABBITMQ_CTL_ERL_ARGS": f"{_LOOPBACK} -start_epmd false",
        }
    )


def configuration(identity: Identity, ports: Ports) -> dict[str, str]:
    """Return the node's configuration files by name."""
    seeds = (
        f"cluster_formation.classic_config.nodes.{number} = {name}\n" for number, name in enumerate(identity.seeds)
    )
    return {
        "rabbitmq.conf": f"listeners.tcp.1 = 127.0.0.1:{ports.amqp}\n"
        "log.console = false\n"
        "log.file.rotation.size = 10485760\n"
        "log.file.rotation.count = 3\n"
        "management.tcp.ip = 127.0.0.1\n"
        f"management.tcp.port = {ports.management}\n"
        "disk_free_limit.absolute = 50MB\n"  # a laptop's disk is often nearly full
        + (_CLUSTERED + "".join(seeds) if identity.seeds else ""),
        "enabled_plugins": "[rabbitmq_management].\n",
        "rabbitmq-env.conf": "",
        "advanced.config": "[].\n",
    }


def _search_path() -> str:
    """Return PATH with the folders that a plain user's PATH may lack."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/opt/homebrew/sbin", "/usr/local/sbin"])
