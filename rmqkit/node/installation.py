"""The installed RabbitMQ, and the environment and files that isolate a private node of it."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from rmqkit.errors import NodeError
from rmqkit.node.ports import Ports

VARIABLE = "RMQKIT_RABBITMQ"  # the folder of the RabbitMQ to start, instead of the one on PATH
_SINGLE = "rmqkit@127.0.0.1"  # also the name of the data, so it never changes; an address needs no /etc/hosts
_WRAPPED = Path("/usr/lib/rabbitmq/bin")  # the scripts that the wrapper of Debian and Fedora calls
_LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"
_CLUSTERED = (  # https://www.rabbitmq.com/docs/partitions: as in production, for three nodes or more
    "cluster_formation.peer_discovery_backend = classic_config\ncluster_partition_handling = pause_minority\n"
)
_LEAN = "+S 1:1 +SDcpu 1:1 +SDio 1"  # the nodes share one machine
_INHERITED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR")  # not the user's RABBITMQ_*, ERL_* or passwords


@dataclass(frozen=True, slots=True)
class Identity:
    """The name of a node and the folder of its cookie.

    In a cluster also `seeds`, the names of the first node and of this one; its `index` among the nodes, from 0; and the
    port of the shared `epmd`.
    """

    home: Path
    name: str = _SINGLE
    seeds: tuple[str, ...] = ()
    index: int = 0
    epmd: int = 0


@dataclass(frozen=True, slots=True)
class Installation:
    """RabbitMQ's own scripts (`rabbitmq-server`, `rabbitmqctl`) and Erlang's port mapper.

    `folder` is the one that was named, empty for the RabbitMQ on PATH.
    """

    scripts: Path
    epmd: Path
    folder: str = ""

    def epmd_command(self, port: int) -> list[str | Path]:
        """Return the command that runs a port mapper on a port."""
        return [self.epmd, "-address", "127.0.0.1", "-port", str(port)]


def find(folder: str = "", last: str = "") -> Installation:
    """Find the RabbitMQ in a folder, else in that of VARIABLE, else in the last one, else the installed one.

    The folder is one that RabbitMQ's archive or package makes, with the scripts in `sbin`. Raises NodeError with
    instructions if there is none.
    """
    return find_in(folder or os.environ.get(VARIABLE, "") or last)


def find_in(folder: str) -> Installation:
    """Find the RabbitMQ in a folder, or the installed one if its name is empty; raise NodeError if there is none.

    Debian's `/usr/sbin/rabbitmq-server` is a wrapper that requires root or the user rabbitmq; the wrapped script does
    not.
    """
    if folder:
        named = Path(folder).expanduser().absolute()
        candidates = [named / "sbin"]
    else:
        on_path = shutil.which("rabbitmq-server", path=_search_path())
        candidates = [
            Path(os.environ.get("RABBITMQ_HOME", "/nonexistent"), "sbin"),
            *([Path(on_path).resolve().parent] if on_path else []),
            _WRAPPED,
        ]
    epmd = shutil.which("epmd", path=os.pathsep.join([*map(str, candidates), _search_path()]))
    scripts = next(filter(_has_scripts, candidates), None)
    if epmd and scripts:
        return Installation(scripts, Path(epmd), str(named) if folder else "")
    if folder and not scripts:
        raise NodeError(
            f"no RabbitMQ in {named}: sbin/rabbitmq-server is missing",
            advice="Name the folder that RabbitMQ's archive was unpacked to, such as rabbitmq_server-4.3.6.",
        )
    if folder:
        raise NodeError("Erlang, which RabbitMQ needs, is not installed: `epmd` is not on PATH")
    missing = "RabbitMQ" if epmd else "RabbitMQ (or Erlang, which it needs: `epmd` is not on PATH)"
    raise NodeError(
        f"{missing} is not installed on this machine",
        advice="Install it with `apt install rabbitmq-server`, `dnf install rabbitmq-server` or"
        " `brew install rabbitmq`;\n"
        "or run it in a container, `docker run -d -p 127.0.0.1:5672:5672 rabbitmq`, and set RMQKIT_URL.",
    )


def _has_scripts(folder: Path) -> bool:
    return (folder / "rabbitmq-server").exists() and (folder / "rabbitmq-env").exists()


def environment(folder: Path, identity: Identity, ports: Ports) -> dict[str, str]:
    """Return the variables that restrict RabbitMQ's scripts to this node.

    See https://www.rabbitmq.com/docs/configure#supported-environment-variables.
    """
    return {
        "LANG": "C.UTF-8",
        **{name: os.environ[name] for name in _INHERITED if name in os.environ},
        "PATH": _search_path(),
        "HOME": str(identity.home),  # where Erlang looks for the cookie
        "RUNNING_UNDER_SYSTEMD": "true",  # the script execs the node instead of waiting for it
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


def configuration(identity: Identity, ports: Ports) -> dict[str, str]:
    """Return the node's configuration files by name."""
    nodes = "cluster_formation.classic_config.nodes"
    seeds = (f"{nodes}.{number} = {name}\n" for number, name in enumerate(identity.seeds))
    return {
        "rabbitmq.conf": f"listeners.tcp.1 = 127.0.0.1:{ports.amqp}\n"
        "log.console = false\n"
        "log.file.rotation.size = 10485760\n"
        "log.file.rotation.count = 3\n"
        "management.tcp.ip = 127.0.0.1\n"
        f"management.tcp.port = {ports.management}\n"
        "disk_free_limit.absolute = 50MB\n"  # a laptop's disk is often nearly full
        + (_CLUSTERED + "".join(seeds) if identity.seeds else ""),
        "enabled_plugins": "[rabbitmq_management, rabbitmq_consistent_hash_exchange].\n",
        "rabbitmq-env.conf": "",
        "advanced.config": "[].\n",
    }


def _search_path() -> str:
    """Return PATH with folders that an ordinary user's PATH may lack."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/opt/homebrew/sbin", "/usr/local/sbin"])
