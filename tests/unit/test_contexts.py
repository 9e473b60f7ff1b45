"""Contexts: what their file may hold, which broker is meant, where its password comes from."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rmqkit
from rmqkit import contexts, password
from rmqkit.errors import SettingsError
from rmqkit.settings import Settings, load_settings
from tests.support.contexts import write_contexts

SECRET = "s3cr3t"
Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write contexts to a configuration folder of the test's own."""

    def write(**more: Any) -> None:
        for name, value in write_contexts(tmp_path, **more).items():
            monkeypatch.setenv(name, value)

    write()
    return write


def login(settings: Settings) -> list[tuple[str, str]]:
    return [(str(each), settings.password(each)) for each in settings.addresses]


DEV, PROD = {"url": "amqp://dev"}, {"url": ["amqps://ada@one", "amqps://ada@two"], "vhost": "shop", "password": SECRET}


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        ({"urls": ["amqp://u"]}, {"RMQKIT_URL": "amqp://v", "RMQKIT_CONTEXT": "prod"}, ("u", "", "")),
        ({"context": "prod"}, {"RMQKIT_URL": "amqp://v", "RMQKIT_CONTEXT": "dev"}, ("one", "prod", "`context=`")),
        ({}, {"RMQKIT_URL": "amqp://v", "RMQKIT_CONTEXT": "prod"}, ("v", "", "")),
        ({}, {"RMQKIT_CONTEXT": "prod", "AMQP_URL": "amqp://a"}, ("one", "prod", "RMQKIT_CONTEXT")),
        ({"in_use": True}, {"AMQP_URL": "amqp://a"}, ("a", "", "")),
        ({"in_use": True}, {}, ("dev", "dev", "rmqkit context use")),
        ({}, {}, ("localhost", "", "")),  # the library
    ],
)
def test_an_option_precedes_a_variable_and_that_the_context_in_use(
    write: Write, arguments: dict[str, Any], environ: dict[str, str], expected: tuple[str, str, str]
) -> None:
    write(current="dev", dev=DEV, prod=PROD)
    settings = load_settings(**arguments, environ=environ)
    assert (settings.addresses[0].host, settings.context.name, settings.origins["context"]) == expected


def test_each_value_of_a_context_gives_way_to_an_option_and_a_variable(write: Write, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("filed\n")
    write(prod={**PROD, "api_url": "https://api", "tls_ca_file": "ca.pem"})
    plain = load_settings(context="prod", environ={})
    assert login(plain) == [("amqps://ada:***@one:5671/shop", SECRET), ("amqps://ada:***@two:5671/shop", SECRET)]
    assert (plain.api_url, plain.tls.ca_file) == ("https://api", str(tmp_path / "rmqkit" / "ca.pem"))
    assert {plain.origins[name] for name in ("url", "api_url", "vhost", "password", "tls_ca_file")} == {
        "context 'prod'"
    }
    environ = {"RMQKIT_API_URL": "https://other", "RMQKIT_PASSWORD": "varied"}
    varied = load_settings(context="prod", environ=environ)
    assert (varied.api_url, login(varied)[1][1], varied.origins["password"]) == (
        "https://other",
        "varied",
        "RMQKIT_PASSWORD",
    )
    given = load_settings(
        context="prod", environ=environ, api_url="https://third", vhost="", password_file=tmp_path / "secret"
    )
    assert (given.api_url, login(given)[0]) == ("https://third", ("amqps://ada:***@one:5671/", "filed"))
    assert [given.origins[name] for name in ("api_url", "vhost", "password")] == [
        "`api_url=`",
        "`vhost=`",
        "`password_file=`",
    ]


def test_nothing_of_a_context_is_used_for_the_url_of_another_broker_nor_the_other_way_round(write: Write) -> None:
    write(current="prod", prod=PROD)
    settings = load_settings(["amqps://ada:own@other"], in_use=True, environ={})
    assert login(settings) == [("amqps://ada:***@other:5671/", "own")]
    with pytest.raises(SettingsError, match="`context=` and `url=` cannot be combined"):
        load_settings(["amqp://other"], context="prod", environ={})
    foreign = {"RMQKIT_URL": "amqp://v", "RMQKIT_API_URL": "http://v", "RMQKIT_PASSWORD": "for v"}
    settings = load_settings(context="prod", environ=foreign)
    assert (settings.api_url, login(settings)[0][1]) == ("", SECRET)


def test_a_program_names_its_context(write: Write) -> None:
    write(current="dev", dev={"url": "amqp://127.0.0.1:1/dev"})
    with pytest.raises(rmqkit.Unreachable, match=r"127\.0\.0\.1:1/dev"):
        rmqkit.connect(context="dev")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[contexts.a]", "context 'a': url is missing"),
        ("[contexts.a]\nurl = 1", "context 'a': url must be a list of strings"),
        ("[contexts.a]\nurl = 'x'\nvhots = 's3cr3t'", "context 'a': unknown key 'vhots'; did you mean vhost?"),
        ("[contexts.a]\nurl = 'x'\nprotected = 's3cr3t'", "context 'a': protected must be true or false"),
        (
            "[contexts.a]\nurl = 'x'\npassword_command = 's3cr3t'",
            "context 'a': password_command must be a list of strings",
        ),
        ("[contexts.a]\nurl = 'x'\nvhost = 7", "context 'a': vhost must be a string"),
        ("[contexts.a]\nurl = 'x'\ncolor = 'pink'", "context 'a': color must be one of red, yellow"),
        (
            "[contexts.a]\nurl = 'x'\npassword = 's3cr3t'\npassword_file = 'f'",
            "context 'a': password and password_file cannot be combined",
        ),
        ("[contexts.'a b']\nurl = 'x'", "context 'a b': a name begins with a letter"),
        ("contexts = 's3cr3t'", "contexts must be a table"),
        ("contexts.a = 's3cr3t'", "context 'a': not a table"),
        ("current = 'a'", "current must be the name of a context"),
        ("currant = 's3cr3t'", "unknown key 'currant'"),
        ("[contexts.a]\nurl = s3cr3t", "config.toml:2:7: not valid TOML"),
        ("a = '''s3cr3t", "not valid TOML"),
    ],
)
@pytest.mark.usefixtures("write")
def test_a_bad_file_is_an_error_that_says_what_is_wrong_and_no_value(text: str, problem: str) -> None:
    contexts.config_file().write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(in_use=True, environ={})
    assert problem in str(caught.value)
    assert SECRET not in str(caught.value)
    load_settings(["amqp://h"], in_use=True, environ={})  # which needs no context


def test_a_file_that_others_can_change_is_refused_and_one_that_they_can_read_is_warned_about(write: Write) -> None:
    write(prod=PROD)
    contexts.config_file().chmod(0o644)
    assert "other users can read this file" in "".join(load_settings(context="prod").security_warnings())
    contexts.config_file().chmod(0o620)
    with pytest.raises(SettingsError, match="other users can change this file"):
        load_settings(context="prod")


def test_an_unknown_context_suggests_a_known_one(write: Write) -> None:
    write(prod=PROD)
    with pytest.raises(SettingsError) as caught:
        load_settings(context="prd")
    assert (caught.value.message, caught.value.advice) == ("unknown context 'prd'", "Did you mean prod?")


def test_the_password_command_runs_once_a_minute_in_all_processes(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f"echo x >> {tmp_path}/runs; printf '{SECRET}\\r\\nuser: ada\\n'"
    write(prod={"url": "amqp://ada@h", "password_command": ["sh", "-c", script]})
    settings = load_settings(context="prod", environ={})
    assert (settings.origins["password"], (tmp_path / "runs").exists()) == ("context 'prod'", False)
    threads = [threading.Thread(target=settings.password, args=(settings.addresses[0],)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker = pickle.loads(pickle.dumps(settings))
    assert login(worker) == login(settings) == [("amqp://ada:***@h:5672/", SECRET)]
    assert (tmp_path / "runs").read_text() == "x\n"
    assert SECRET not in repr(settings)
    monkeypatch.setattr(password, "_KEPT_S", -1.0)
    assert login(settings)[0][1] == SECRET
    assert (tmp_path / "runs").read_text() == "x\nx\n"


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (["false", SECRET], "password_command 'false' failed with exit code 1"),
        (["/nowhere/pass", SECRET], "password_command '/nowhere/pass': No such file or directory"),
        (["sh", "-c", f"echo; echo {SECRET}"], "printed no password on its first line"),
        (["printf", "\\377" + SECRET], "printed text that is not UTF-8"),
    ],
)
def test_a_failing_password_command_is_named_without_its_arguments(
    write: Write, command: list[str], problem: str
) -> None:
    write(prod={"url": "amqp://ada@h", "password_command": command})
    with pytest.raises(SettingsError) as caught:
        login(load_settings(context="prod", environ={}))
    assert problem in caught.value.message
    assert SECRET not in str(caught.value)


def test_the_keyring_keeps_the_password(write: Write, tmp_path: Path) -> None:
    import keyring  # noqa: PLC0415 - an extra

    from tests.support.file_keyring import FileKeyring  # noqa: PLC0415

    write(prod={"url": "amqp://ada@h", "password_keyring": True})
    before = keyring.get_keyring()
    keyring.set_keyring(FileKeyring(tmp_path / "keys"))
    try:
        with pytest.raises(SettingsError, match="holds no password"):
            login(load_settings(context="prod", environ={}))
        password.into_keyring("prod", SECRET)
        assert login(load_settings(context="prod", environ={})) == [("amqp://ada:***@h:5672/", SECRET)]
        password.forget("prod")
        password.forget("prod")
        assert (tmp_path / "keys").read_text() == "{}"
    finally:
        keyring.set_keyring(before)


@pytest.mark.usefixtures("write")
def test_a_change_keeps_comments_and_other_values_and_the_file_private() -> None:
    file = contexts.config_file()
    file.write_text("# mine\n[contexts.dev] # local\nurl = 'amqp://dev' # here\n")
    file.chmod(0o600)
    contexts.put({"prod": {"url": ["amqps://ada@h"], "protected": True}})
    contexts.use("prod")
    contexts.edit("dev", {"vhost": "v"}, [])
    text = file.read_text()
    assert all(comment in text for comment in ("# mine\n", "# local\n", "# here\n"))
    assert contexts.load().by_name["dev"].vhost == "v"
    assert contexts.load().current == "prod"
    assert file.stat().st_mode & 0o777 == 0o600
    contexts.remove("prod")
    assert (list(contexts.load().by_name), contexts.load().current) == (["dev"], "")
    assert [each.name for each in file.parent.iterdir()] == ["config.toml"]


@pytest.mark.usefixtures("write")
def test_changes_at_the_same_time_are_all_kept() -> None:
    names = [f"c{number}" for number in range(8)]
    threads = [threading.Thread(target=contexts.put, args=({name: {"url": ["amqp://h"]}},)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(contexts.load().by_name) == names


def test_a_change_that_would_break_the_file_changes_nothing(write: Write) -> None:
    write(dev=DEV)
    before = contexts.config_file().read_text()
    with pytest.raises(SettingsError, match="no context was changed"):
        contexts.edit("dev", {"color": "pink"}, [])
    with pytest.raises(SettingsError, match="context already exists: dev"):
        contexts.put({"new": {"url": ["amqp://h"]}, "dev": {"url": ["amqp://h"]}})
    assert contexts.config_file().read_text() == before


@pytest.mark.parametrize(
    ("urls", "bare", "secret"),
    [
        (["amqp://h"], ["amqp://h"], ""),
        (["amqp://guest:guest@h"], ["amqp://guest:guest@h"], ""),
        (["amqps://a:p%40@h:1,i/v?heartbeat=5"], ["amqps://a@h:1,i/v?heartbeat=5"], "p@"),
        (["amqp://a:p@h,amqp://a:p@i", "amqp://j"], ["amqp://a@h", "amqp://a@i", "amqp://j"], "p"),
    ],
)
def test_the_password_is_taken_out_of_urls(urls: list[str], bare: list[str], secret: str) -> None:
    assert contexts.split_password(urls) == (bare, secret)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("amqp://a:s3cr3t@h,amqp://a:p@i", "different passwords"),
        ("amqps://h?certfile=c&password=s3cr3t", "password of a private key"),
        ("amqps://a:p@h?certfile=c&password=s3cr3t", "password of a private key"),
        ("http://a:s3cr3t@h", "not an amqp://"),
    ],
)
def test_passwords_that_cannot_be_taken_out_are_an_error(url: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as caught:
        contexts.split_password([url])
    assert SECRET not in str(caught.value)
