"""`rmqkit context`, and brokers by name in every command."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from rmqkit import contexts
from tests.conftest import Broker
from tests.support.cli import rmqkit
from tests.support.file_keyring import FileKeyring
from tests.support.queues import fill
from tests.support.terminal import prompted, terminal

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SECRET = "s3cr3t"


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder of the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("RMQKIT_URL", "AMQP_URL", "CLOUDAMQP_URL", "RMQKIT_API_URL", "RMQKIT_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    return contexts.config_file()


def succeed(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    done = rmqkit(*arguments, env=env)
    assert done.returncode == 0, done.stderr
    return done


def fail(*arguments: object, **env: str) -> str:
    done = rmqkit(*arguments, env=env)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert SECRET not in done.stderr
    return done.stderr


def listed() -> dict[str, Any]:
    found = json.loads(succeed("context", "list", "--json").stdout)
    return {each["name"]: each for each in found["contexts"]} | {"current": found["current"]}


def test_a_context_is_added_used_changed_and_removed(vhost_url: str, broker: Broker) -> None:
    assert "No contexts" in succeed("context", "list").stderr
    assert "Use it with --context here" in succeed("context", "add", "here", vhost_url, "--api-url", api(broker)).stderr
    succeed("publish", "--context", "here", "-e", "amq.fanout", "hello")
    assert json.loads(succeed("status", "--json", RMQKIT_CONTEXT="here").stdout)["queues"] == []
    assert "Commands now use context here" in succeed("context", "use", "here").stderr
    assert rmqkit("--context", "here", "status").returncode == 0
    succeed("status")
    succeed("context", "edit", "here", "--vhost", "nowhere", "--color", "red")
    assert "virtual host 'nowhere'" in rmqkit("status").stderr
    succeed("context", "edit", "here", "--unset", "vhost")
    succeed("status")
    assert listed()["current"] == "here"
    assert "* " in succeed("context", "list").stdout
    succeed("context", "remove", "here")
    assert listed() == {"current": None}
    assert "unknown context 'here'" in fail("status", "--context", "here")


def api(broker: Broker) -> str:
    return broker.api_url.replace("guest:guest@", "")


def test_the_password_is_kept_only_where_an_option_says(config: Path) -> None:
    url = f"amqps://ada:{SECRET}@rabbit.example"
    assert "the URL contains a password" in fail("context", "add", "prod", url)
    assert "the URL contains a password" in fail("context", "add", "prod", url, "--password-command", "pass rabbit")
    assert "use only one of" in fail("context", "add", "prod", url, "--password-in-file", "--password-keyring")
    assert "--api-url" in fail("context", "add", "prod", "amqp://h", "--api-url", f"http://ada:{SECRET}@h")
    assert (
        "--password-in-file needs a terminal"
        in rmqkit("context", "add", "prod", "amqps://ada@h", "--password-in-file").stderr
    )
    assert "No closing quotation" in fail("context", "add", "prod", "amqps://ada@h", "--password-command", "pass 'x")
    assert not config.exists()
    succeed("context", "add", "prod", url, "--password-in-file")
    assert f'url = "amqps://ada@rabbit.example"\npassword = "{SECRET}"' in config.read_text()
    assert config.stat().st_mode & 0o777 == 0o600
    succeed("context", "edit", "prod", "--password-in-file", RMQKIT_PASSWORD="other")
    assert 'password = "other"' in config.read_text()
    succeed("context", "edit", "prod", "--password-command", "pass show 'my rabbit'")
    assert 'password_command = ["pass", "show", "my rabbit"]' in config.read_text()
    assert "other" not in config.read_text()
    assert listed()["prod"]["password"] == "command pass"


def test_a_context_that_exists_keeps_its_password_in_the_keyring(tmp_path: Path) -> None:
    import keyring  # noqa: PLC0415 - an extra

    before = keyring.get_keyring()
    keyring.set_keyring(FileKeyring(tmp_path / "keys"))
    try:
        succeed("context", "add", "prod", f"amqps://ada:{SECRET}@h", "--password-keyring")
        assert "context already exists: prod" in fail(
            "context", "add", "prod", "amqps://ada:other@h", "--password-keyring"
        )
        assert "context already exists: prod" in fail(
            "context", "import", "amqps://ada:other@prod", "--password-keyring"
        )
        assert keyring.get_password("rmqkit", "prod") == SECRET
        succeed("context", "edit", "prod", "--password-command", "pass rabbit")
        assert keyring.get_password("rmqkit", "prod") is None
        succeed("context", "add", "prod", f"amqps://ada:{SECRET}@h", "--password-keyring", "--force")
        assert listed()["prod"]["password"] == "keyring"
        succeed("context", "remove", "prod")
        assert (tmp_path / "keys").read_text() == "{}"
    finally:
        keyring.set_keyring(before)


def test_a_password_command_logs_in_over_amqp_and_http_and_in_worker_processes(
    vhost_url: str, vhost_channel: BlockingChannel, broker: Broker
) -> None:
    vhost_channel.queue_declare("work", durable=True)
    fill(vhost_channel, "work", 3)
    url = vhost_url.replace("guest:guest@", "guest@")
    succeed("context", "add", "here", url, "--api-url", api(broker), "--password-command", "printf guest")
    assert "work" in succeed("status", "--context", "here").stdout
    done = rmqkit("consume", "work", "--context", "here", "--workers", 2, "-n", 3)
    assert (done.returncode, sorted(done.stdout.split())) == (0, ["0", "1", "2"])


def test_a_password_is_typed_without_being_shown(config: Path) -> None:
    code, out, shown = prompted(["context", "add", "prod", "amqps://ada@h", "--password-in-file"], SECRET)
    assert (code, "Added context prod" in out, "Password for amqps://ada:***@h:5671/" in shown) == (0, True, True)
    assert SECRET not in out + shown
    assert SECRET in config.read_text()


def test_show_says_where_each_value_comes_from() -> None:
    succeed("context", "add", "prod", "amqps://ada@one/shop", "amqps://ada@two/shop", "--protected", "--color", "cyan",
            "--password-command", f"echo {SECRET}", "--tls-ca-file", "/ca.pem")  # fmt: skip
    done = succeed("context", "show", "prod", "--vhost", "v", "--json", RMQKIT_API_URL="https://api")
    assert json.loads(done.stdout) == {
        "context": {"value": "prod", "from": "--context"},
        "url": {"value": "amqps://ada:***@one:5671/v, amqps://ada:***@two:5671/v", "from": "context 'prod'"},
        "api_url": {"value": "https://api", "from": "RMQKIT_API_URL"},
        "vhost": {"value": "v", "from": "--vhost"},
        "password": {"value": "command echo", "from": "context 'prod'"},
        "tls_ca_file": {"value": "/ca.pem", "from": "context 'prod'"},
        "tls_cert_file": {"value": None, "from": "default"},
        "tls_key_file": {"value": None, "from": "default"},
        "tls_key_password_file": {"value": None, "from": "default"},
        "tls_insecure": {"value": None, "from": "default"},
        "color": {"value": "cyan", "from": "context 'prod'"},
        "protected": {"value": True, "from": "context 'prod'"},
    }
    shown = succeed("context", "show", RMQKIT_CONTEXT="prod").stdout
    assert SECRET not in shown + done.stdout
    rows = {line.split()[0]: line.split()[-1] for line in shown.splitlines()}
    assert (rows["context"], rows.get("api_url", "")) == ("RMQKIT_CONTEXT", "")
    assert "amqp://guest:***@localhost:5672/" in succeed("context", "show").stdout


def test_use_warns_of_variables_that_take_precedence() -> None:
    succeed("context", "add", "dev", "amqp://h")
    done = succeed("context", "use", "dev", AMQP_URL="amqp://other")
    assert "AMQP_URL is set and takes precedence" in done.stderr
    assert "Commands now use no context" in succeed("context", "use", "--none").stderr
    assert "name a context, or add --none" in fail("context", "use")
    assert "Did you mean dev?" in fail("context", "use", "dve")


def test_a_terminal_shows_the_context_in_its_color(vhost_url: str) -> None:
    succeed("context", "add", "here", vhost_url, "--color", "magenta")
    with terminal("publish", "-e", "amq.fanout", "x", "--context", "here") as screen:
        assert screen.end()[0] == 0
    assert "\x1b[35mContext here: amqp://guest:***@" in screen.shown
    assert "Context here" not in succeed("publish", "-e", "amq.fanout", "x", "--context", "here").stderr


INI = f"""
[host_normal]
hostname = rabbit.example
username = ada
password = {SECRET}%
declare_vhost = /
[local]
hostname = localhost
port = 15673
username = guest
password = guest
[host_ssl]
hostname = secure.example
port = 15671
username = bob
password = {SECRET}
vhost = shop
ssl = True
ssl_key_file = /key.pem
ssl_cert_file = /cert.pem
ssl_insecure = false
"""
TOML = f"""
[staging]
hostname = "staging.example"
port = 15672
username = "ada"
password = "{SECRET}"
virtual_host = "shop"
[prod]
base_uri = "https://prod.example:15671"
username = "bob"
password = "{SECRET}"
path_prefix = "/api"
tls = true
ca_certificate_bundle_path = "/ca.pem"
"""


def test_the_nodes_of_rabbitmqadmins_file_are_imported(tmp_path: Path, config: Path) -> None:
    (tmp_path / "v1").write_text(INI)
    (tmp_path / ".rabbitmqadmin.conf").write_text(TOML)
    done = succeed("context", "import", tmp_path / "v1")
    assert done.stderr.count("was not imported") == 2
    assert SECRET not in config.read_text()
    succeed("context", "import", "--password-in-file", HOME=str(tmp_path))
    known = contexts.load().by_name
    assert {name: each.url[0] for name, each in known.items()} == {
        "host_normal": "amqp://ada@rabbit.example",
        "local": "amqp://localhost",
        "host_ssl": "amqps://bob@secure.example",
        "staging": "amqp://ada@staging.example",
        "prod": "amqps://bob@prod.example",
    }
    assert {name: each.api_url for name, each in known.items()} == {
        "host_normal": "http://rabbit.example:15672",
        "local": "http://localhost:15673",
        "host_ssl": "https://secure.example:15671",
        "staging": "http://staging.example:15672",
        "prod": "https://prod.example:15671",
    }
    assert (known["host_ssl"].vhost, known["host_ssl"].tls_cert_file, known["host_ssl"].tls_key_file) == (
        "shop",
        "/cert.pem",
        "/key.pem",
    )
    assert (known["staging"].vhost, known["staging"].password, known["prod"].tls_ca_file) == ("shop", SECRET, "/ca.pem")
    assert "context already exists: host_normal, local, host_ssl" in fail("context", "import", tmp_path / "v1")
    succeed("context", "import", tmp_path / "v1", "--force")


@pytest.mark.parametrize(
    ("url", "name", "broker_url", "api_url"),
    [
        (f"amqps://ada:{SECRET}@rabbit.example/shop", "rabbit", "amqps://ada@rabbit.example/shop", ""),
        ("https://ada@rabbit.example/", "rabbit", "amqps://ada@rabbit.example", "https://rabbit.example:15671"),
        (f"http://a%40:{SECRET}@10.0.0.1:80/mq/#/queues", "10.0.0.1", "amqp://a%40@10.0.0.1", "http://10.0.0.1:80/mq"),
    ],
)
def test_a_url_is_imported(url: str, name: str, broker_url: str, api_url: str) -> None:
    done = succeed("context", "import", url)
    assert (SECRET in url) == ("was not imported" in done.stderr)
    (found,) = contexts.load().by_name.values()
    assert (found.name, found.url, found.api_url) == (name, (broker_url,), api_url)
    succeed("context", "import", url, "--name", "other", "--password-command", "pass rabbit")
    assert contexts.load().by_name["other"].password_command == ("pass", "rabbit")


def test_what_cannot_be_imported_is_an_error_without_its_text(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text(f"= {SECRET}")
    assert "neither TOML nor an INI file" in fail("context", "import", tmp_path / "bad")
    (tmp_path / "bad").write_text("")
    assert "contains no nodes" in fail("context", "import", tmp_path / "bad")
    assert "No such file" in fail("context", "import", HOME=str(tmp_path))
    assert "not an amqp://" in fail("context", "import", f"ftp://a:{SECRET}@h")
