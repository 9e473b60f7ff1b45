"""The behavior that all commands share: streams, exit codes, colors, closed pipes, secrets, start-up."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer
from pika.adapters.blocking_connection import BlockingChannel

from rmqkit import exit_codes
from rmqkit.cli import app, error_output, signals
from rmqkit.cli.argv import _GROUPS, _TO_FILES, normalize
from rmqkit.cli.command_table import COMMANDS
from rmqkit.cli.options import ConnectionOptions
from rmqkit.cli.output import safe, table, wrap
from rmqkit.errors import Location, OutputError, Problem, RmqkitError, SettingsError, TopologyError
from rmqkit.stop import Stop
from tests.conftest import Broker, Namespace
from tests.support import cli
from tests.support.cli import COMMAND
from tests.support.terminal import terminal

CANARY = "c4n4ry"


def rmqkit(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    with mock.patch.dict(os.environ):
        for name in ("RMQKIT_URL", "AMQP_URL", "NO_COLOR"):
            os.environ.pop(name, None)
        return cli.rmqkit(*arguments, env=env)


def on_a_terminal(arguments: Sequence[str], **env: str) -> str:
    """Run with both output streams on a terminal; return all that it showed."""
    with terminal(*arguments, env=env) as screen:
        return screen.end()[1]


def commands_that_are_there() -> list[str]:
    return [name for name, entry in COMMANDS.items() if find_spec(entry.target.partition(":")[0])]


@pytest.mark.parametrize("word", ["--version", "-V", "version"])
def test_the_version_is_printed(word: str) -> None:
    assert rmqkit(word).stdout.startswith("rmqkit 0.")


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command within this process; return its exit code and what it wrote."""

    def call(*words: str) -> tuple[int, str, str]:
        command = typer.main.get_command(app.app)
        code = error_output.run(lambda: command(words, prog_name="rmqkit"), words)
        return (code, *capsys.readouterr())

    return call


def test_help_is_a_word_as_well_as_an_option(call: Call) -> None:
    assert call("help") == call("--help")
    assert call("help", "apply") == call("apply", "--help")
    assert call("help", "broker", "start") == call("broker", "start", "--help")
    assert "Did you mean `rmqkit apply`?" in call("help", "aply")[2]


def test_the_options_of_a_connection_are_explained_in_one_place(call: Call) -> None:
    code, shown, _ = call("help", "connection")
    assert code == 0
    assert all(f"--{each.name.replace('_', '-')} " in shown for each in fields(ConnectionOptions))
    assert call("connection") == (0, shown, "")
    for command in ("publish", "status"):
        _, own, _ = call(command, "--help")
        assert "--url URL" in own
        assert "--tls-ca-file" not in own
        assert "rmqkit help connection" in own


def test_help_shows_no_types_of_python_and_no_ranges() -> None:
    for name in COMMANDS:
        command = app.load(name)
        for each in getattr(command, "commands", {name: command}).values():
            with each.make_context(name, [], resilient_parsing=True) as context:
                assert re.findall(r"<\w+(?: range)?>|x[<>]=|[<>]=x", each.get_help(context)) == []


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command_and_imports_none(flag: str) -> None:
    done = rmqkit(flag)
    assert done.returncode == 0
    assert done.stderr == ""
    for name, entry in COMMANDS.items():
        assert f"{name} " in done.stdout
        assert entry.help.split(" and ")[0].split(",")[0][:40] in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from rmqkit.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'pika', 'yaml', 'jsonschema', 'ssl', 'rich', 'platformdirs'} & set(sys.modules)\n"
        "sys.stderr.write(repr(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False)
    assert done.stderr == "set()"
    assert "Usage: rmqkit" in done.stdout


@pytest.mark.parametrize("name", commands_that_are_there())
def test_every_command_has_help_with_examples(name: str) -> None:
    assert app.load(name).help
    shown = rmqkit(name, "--help").stdout
    assert all(example in shown for example in COMMANDS[name].examples)
    assert "Examples" in shown


def test_the_usage_line_shows_arguments_in_capitals_and_groups_the_options() -> None:
    shown = rmqkit("apply", "-h").stdout
    assert shown.startswith("Usage: rmqkit apply [OPTIONS] FILE...\n")
    sections = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert sections == ["Arguments:", "Options:", "Connection:", "Examples:"]


def test_a_mistyped_command_is_a_usage_error_with_a_suggestion() -> None:
    done = rmqkit("aply")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown command 'aply'\n  Did you mean `rmqkit apply`?\n"


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [
        ("get", "rmqkit peek QUEUE"),
        ("ls", "rmqkit status"),
        ("ping", "rmqkit status"),
    ],
)
def test_a_command_of_another_tool_suggests_the_nearest_one(word: str, suggestion: str, call: Call) -> None:
    assert call(word) == (2, "", f"error: unknown command {word!r}\n  Did you mean `{suggestion}`?\n")


def test_a_mistyped_option_is_a_usage_error_with_a_suggestion() -> None:
    done = rmqkit("apply", "--dry-rum", "x.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no such option: --dry-rum\n  Did you mean --dry-run? See `rmqkit apply --help`.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["apply"], "missing argument FILE"),
        (["publish", "-n", "x"], "--count must be a valid integer"),
        (["publish", "--rate", "0"], "--rate must be greater than or equal to 0.001"),
        (["publish", "--format", "x"], "--format: 'x' is not one of 'json', 'xml', 'text', 'binary'"),
        (["publish", "-n"], "option '-n' requires an argument"),
        (["unsubscribe", "a", "b"], "got unexpected extra argument(s) (b)"),
        (["broker", "start", "--nodes", "2"], "--nodes must be odd"),
    ],
)
def test_a_usage_error_looks_like_every_other_error(arguments: list[str], message: str, call: Call) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert len(err.splitlines()) <= 2


def test_a_usage_error_is_json_on_request(call: Call) -> None:
    code, out, err = call("publish", "--json", "--nope")
    assert (code, err) == (2, "")
    assert json.loads(out)["message"] == "no such option: --nope"


def test_without_a_command_help_is_printed_to_standard_error(call: Call) -> None:
    for arguments in ([], ["broker"]):
        assert call(*arguments) == (2, "", call(*arguments, "--help")[1])


@pytest.mark.parametrize("where", ["flag", "variable", "file"])
@pytest.mark.parametrize("as_json", [False, True])
def test_no_part_of_a_password_is_ever_shown(tmp_path: Path, where: str, as_json: bool) -> None:
    topology = tmp_path / "t.yaml"
    topology.write_text("queues: {q: {}}\n")
    secret = tmp_path / "secret"
    secret.write_text(f"{CANARY}\nand more")
    options, env = {
        "flag": (["--url", f"amqp://user:{CANARY}/x@host"], {}),
        "variable": ([], {"RMQKIT_URL": f"amqp://user:{CANARY}@host:port"}),
        "file": (["--password-file", str(secret)], {}),
    }[where]
    done = rmqkit("apply", str(topology), *options, *(["--json"] if as_json else []), env={**env, "RMQKIT_DEBUG": "1"})
    assert done.returncode == exit_codes.BAD_INPUT
    assert CANARY not in done.stdout + done.stderr
    assert "SettingsError" in done.stderr + done.stdout


def test_an_error_is_printed_to_standard_error_and_as_json_to_standard_output(tmp_path: Path) -> None:
    topology = tmp_path / "t.yaml"
    topology.write_text("queues: {q: {durabel: true}}\n")
    plain = rmqkit("apply", str(topology))
    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr.startswith("error: ")
    assert f"{topology}:1:" in plain.stderr
    assert "durable" in plain.stderr
    assert "\x1b" not in plain.stderr
    done = rmqkit("apply", str(topology), "--json")
    assert (done.returncode, done.stderr) == (2, "")
    error = json.loads(done.stdout)
    assert error["error"] == "TopologyError"
    assert set(error["problems"][0]) == {"file", "line", "column", "message", "advice"}
    assert (error["problems"][0]["file"], error["problems"][0]["line"]) == (str(topology), 1)


def test_errors_are_red_on_a_terminal_unless_no_color_or_a_dumb_terminal() -> None:
    command = ["apply", "missing.yaml"]
    assert "\x1b[1;31merror:\x1b[0m" in on_a_terminal(command)
    assert "\x1b" not in on_a_terminal(command, NO_COLOR="1")
    assert "\x1b" not in on_a_terminal(command, TERM="dumb")


def test_a_terminal_breaks_sentences_between_words_and_a_pipe_gets_whole_lines(tmp_path: Path) -> None:
    topology = tmp_path / "t.yaml"
    topology.write_text("exchanges: {unused: {type: topic}}\nqueues: {jobs: {durable: false}}\n")
    command = ["validate", str(topology), "--rabbitmq", "4.3"]
    piped = rmqkit(*command)
    lines = on_a_terminal(command, NO_COLOR="1").replace("\r", "").split("\n")
    words = "\n".join(lines).split()
    assert words == (piped.stdout + piped.stderr).split()
    assert all(len(line) <= 80 or " " not in line.strip() for line in lines)
    assert max(map(len, piped.stdout.split("\n"))) > 80


def test_lines_are_wrapped_with_their_indentation_and_commands_stay_whole() -> None:
    assert wrap("abc def ghi", 7) == "abc def\nghi"
    assert wrap("abc def ghi", 0) == "abc def ghi"
    assert wrap("  abc def\nx", 6, indent="-") == "  abc\n  -def\nx"
    assert wrap("run `rmqkit apply t.yaml` now", 12) == "run\n`rmqkit apply t.yaml`\nnow"
    assert wrap("\x1b[2m  abc def\x1b[0m", 9) == "\x1b[2m  abc def\x1b[0m"
    assert wrap("\x1b[2m  abc def\x1b[0m", 5) == "\x1b[2m  abc\n  def\x1b[0m"
    assert wrap("äöü 語語", 7) == "äöü\n語語"


def test_schema_prints_the_json_schema() -> None:
    assert json.loads(rmqkit("schema").stdout)["$schema"].startswith("https://json-schema.org/")


@pytest.mark.parametrize("arguments", ["schema", "--help", "--version"])
def test_a_closed_standard_output_is_not_an_error(arguments: str) -> None:
    done = subprocess.run(["sh", "-c", f'"$@" {arguments} >&-', "sh", *COMMAND], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_that_closes_early_is_not_an_error() -> None:
    process = subprocess.Popen([*COMMAND, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()  # before a byte is written: Python has yet to start
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


@pytest.mark.parametrize("arguments", ["schema", "--help"])
def test_a_full_disk_is_an_output_error(arguments: str) -> None:
    command = ["sh", "-c", f'"$@" {arguments} >/dev/full', "sh", *COMMAND]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == exit_codes.PARTLY_DONE
    assert done.stderr == b"error: standard output: No space left on device\n"


def test_interrupting_a_command_that_does_not_handle_it_exits_with_130(tmp_path: Path) -> None:
    pipe = tmp_path / "topology.yaml"
    os.mkfifo(pipe)
    process = subprocess.Popen([*COMMAND, "apply", str(pipe)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with pipe.open("w"):  # returns once the command has opened it, too
        process.send_signal(signal.SIGINT)  # heard before the end of the file, if Python blocks just then
    out, err = process.communicate(timeout=90)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err


def fail(error: BaseException) -> None:
    raise error


def test_a_bug_is_reported_briefly_without_the_text_of_the_foreign_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RMQKIT_DEBUG", raising=False)
    assert error_output.run(lambda: fail(KeyError(CANARY)), []) == exit_codes.BUG
    err = capsys.readouterr().err
    assert "a bug in rmqkit: KeyError in" in err
    assert "RMQKIT_DEBUG=1" in err
    assert CANARY not in err
    assert "Traceback" not in err
    monkeypatch.setenv("RMQKIT_DEBUG", "1")
    assert error_output.run(lambda: fail(KeyError("x")), []) == exit_codes.BUG
    assert "Traceback" in capsys.readouterr().err


def test_an_errors_json_is_printed_to_the_stream_of_the_commands_report(capsys: pytest.CaptureFixture[str]) -> None:
    error = SettingsError("what", advice="do")
    expected = {"error": "SettingsError", "message": "what", "advice": "do", "problems": []}
    assert error_output.run(lambda: fail(error), ["publish", "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == expected
    assert error_output.run(lambda: fail(error), ["consume", "q", "--json"]) == 2
    streams = capsys.readouterr()
    assert (streams.out, json.loads(streams.err)) == ("", expected)
    assert error_output.run(lambda: fail(error), ["publish", "--", "--json"]) == 2
    assert capsys.readouterr().err.startswith("error: what\n  do")


def test_control_characters_never_reach_the_terminal() -> None:
    assert safe("a\x1b[2J\x07\u202e\udcff\nä") == "a\\x1b[2J\\x07\\u202e\\udcff\nä"
    assert table([("q\n1", "\x1b"), ("r", "")]) == "q\\n1  \\x1b\nr"
    hostile = "\x1b]0;x\x07"
    shown = error_output.as_text(
        TopologyError(hostile, advice=hostile, problems=[Problem(Location(hostile), hostile, hostile)])
    )
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_an_output_error_while_an_error_ends_keeps_the_first_exit_code() -> None:
    assert error_output.run(lambda: fail(SystemExit(5)), []) == 5
    assert error_output.run(lambda: fail(OutputError("full")), []) == exit_codes.PARTLY_DONE
    assert error_output.run(lambda: fail(RmqkitError("some")), []) == exit_codes.BUG


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_offered_for_the_shells(shell: str) -> None:
    words = {"bash": {"COMP_WORDS": "rmqkit ap", "COMP_CWORD": "1"}}.get(shell, {"_TYPER_COMPLETE_ARGS": "rmqkit ap"})
    done = rmqkit(env={"_RMQKIT_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args", **words})
    assert "apply" in done.stdout
    assert "schema" not in done.stdout


@pytest.mark.parametrize(
    ("shell", "text"), [("bash", "complete -o default"), ("zsh", "#compdef rmqkit"), ("fish", "complete --command")]
)
def test_the_completion_of_any_shell_is_printed_in_any_shell(shell: str, text: str) -> None:
    done = rmqkit("--show-completion", shell)
    assert (done.returncode, text in done.stdout, done.stderr) == (0, True, "")


@pytest.mark.parametrize("words", ["--show-completion tcsh", "--show-completion ''", "--install-completion tcsh"])
def test_an_unknown_shell_is_an_error_that_names_the_known_ones(words: str) -> None:
    done = rmqkit(*shlex.split(words))
    assert (done.returncode, done.stdout) == (2, "")
    assert "Name one of bash, zsh, fish" in done.stderr


def test_bash_completes_commands(tmp_path: Path) -> None:
    program = tmp_path / "rmqkit"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(rmqkit --show-completion bash)"
        COMP_WORDS=(rmqkit dest) COMP_CWORD=1; _rmqkit_completion rmqkit; echo "${COMPREPLY[@]}"
    """
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, check=False)
    assert done.stdout == "destroy\n", done.stderr


def test_zsh_keeps_the_apostrophes_of_help() -> None:
    env = {"_RMQKIT_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "rmqkit consume --to-r"}
    (line,) = rmqkit(env=env).stdout.splitlines()
    assert "not the message\u2019s own" in line
    assert line.count("'") == 2  # around the whole


@pytest.mark.parametrize(
    ("words", "same"),
    [
        ("-u amqp://b --vhost v publish -q q hi", "publish -u amqp://b --vhost v -q q hi"),
        ("--url=amqp://b -uamqp://c --tls-insecure status", "status --url=amqp://b -uamqp://c --tls-insecure"),
        ("--context prod delete queue q", "delete queue --context prod q"),
        ("--version", "--version"),
        ("-u amqp://b", "-u amqp://b"),
        ("status -o json", "status --json"),
        ("-u amqp://b status -o json", "status -u amqp://b --json"),
        ("publish -q q -- -o json", "publish -q q -- -o json"),
        ("graph a.yaml -o json", "graph a.yaml -o json"),
        ("status --quiet --json", "--quiet status --json"),
        ("-v -u amqp://b status --quiet", "--quiet -v status -u amqp://b"),
        ("status --log-format json --json", "--log-format=json status --json"),
        ("status --log-format=json -u amqp://b", "--log-format=json status -u amqp://b"),
        ("publish -q q -- --log-format json", "publish -q q -- --log-format json"),
        ("publish -q q -- --quiet", "publish -q q -- --quiet"),
        ("broker ctl --quiet status", "broker ctl --quiet status"),
        ("", ""),
    ],
)
def test_connection_options_may_precede_the_command_and_o_json_is_json(words: str, same: str) -> None:
    assert normalize(words.split(), lambda: app.load("connection").params) == same.split()


def test_commands_whose_o_option_names_a_file_are_known() -> None:
    def names_files(name: str) -> bool:
        return any("-o" in each.opts for each in getattr(app.load(name), "params", ()))

    assert set(filter(names_files, COMMANDS)) == _TO_FILES


def test_groups_whose_commands_connect_are_known() -> None:
    def connects(name: str) -> bool:
        inner = getattr(app.load(name), "commands", {}).values()
        return any("--url" in each.opts for command in inner for each in command.params)

    assert set(filter(connects, COMMANDS)) == _GROUPS


def test_a_command_uses_the_broker_named_before_it() -> None:
    done = rmqkit("-u", "amqp://guest:guest@127.0.0.1:1/first", "status", "-o", "json")
    assert done.returncode == exit_codes.UNREACHABLE
    assert "127.0.0.1:1/first" in json.loads(done.stdout)["message"]


def test_quiet_leaves_results_warnings_and_errors(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text("queues: {q: {}, unused: {}}\n")
    loud, quiet = rmqkit("graph", str(file)), rmqkit("graph", str(file), "--quiet")
    assert quiet.stdout == loud.stdout
    findings = rmqkit("validate", str(file))
    silent = rmqkit("-q", "validate", str(file))
    assert (silent.stdout, silent.stderr) == (findings.stdout, "")
    assert findings.stderr
    assert rmqkit("-q", "validate", str(tmp_path / "none.yaml")).stderr.startswith("error:")


def test_quiet_shows_no_progress_on_a_terminal(broker_url: str, namespace: Namespace, channel: BlockingChannel) -> None:
    queue = namespace.queue()
    channel.queue_declare(queue)
    shown = on_a_terminal(["-q", "publish", queue, "--count", "10"], RMQKIT_URL=broker_url)
    assert shown == ""


def test_verbose_logs_connections_and_requests_without_the_password(broker_url: str, broker: Broker) -> None:
    env = {"RMQKIT_URL": broker_url, "RMQKIT_API_URL": broker.api_url}
    command = [*COMMAND, "status", "--verbose"]  # as a process: logging would go on in this one
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=False)
    assert done.returncode == exit_codes.DONE
    assert re.search(
        r"rmqkit\.amqp: rmqkit consumer: connected to RabbitMQ \d+\.\d+\.\d+ at amqp://guest:\*\*\*@", done.stderr
    )
    assert re.search(r"rmqkit\.http_api: GET http://.*/api/overview: 200 after \d+ ms", done.stderr)
    assert "guest:guest" not in done.stderr
    assert rmqkit("status", env=env).stderr.count("rmqkit.amqp") == 0


def _entries(stderr: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.splitlines()]


def test_the_log_as_json_has_one_object_a_line(broker_url: str) -> None:
    unreachable = rmqkit("publish", "-q", "q", "hello", "--log-format", "json", "-u", "amqp://guest@127.0.0.1:1/")
    (entry,) = _entries(unreachable.stderr)
    assert unreachable.returncode == exit_codes.BAD_INPUT
    assert entry.keys() == {"time", "level", "logger", "message", "error", "advice"}
    assert (entry["level"], entry["logger"], entry["error"]) == ("error", "rmqkit.cli", "SettingsError")
    assert "no password" in entry["message"]
    done = rmqkit(
        "consume", "missing-queue", "--json", "--verbose", env={"RMQKIT_URL": broker_url, "RMQKIT_LOG_FORMAT": "json"}
    )
    *steps, report = _entries(done.stderr)
    assert {each["logger"] for each in steps} >= {"rmqkit.amqp"}
    assert (report["message"], report["report"]["error"]) == ("report", "NotFound")


def test_a_usage_error_and_a_wrong_format_of_the_log_are_errors_in_the_format() -> None:
    (entry,) = _entries(rmqkit("nonsense", env={"RMQKIT_LOG_FORMAT": "json"}).stderr)
    assert entry["message"] == "unknown command 'nonsense'"
    wrong = rmqkit("status", env={"RMQKIT_LOG_FORMAT": "xml"})
    assert wrong.returncode == exit_codes.BAD_INPUT
    assert wrong.stderr.startswith("error: --log-format: 'xml' is not one of 'text', 'json'")


def test_worker_processes_log_as_their_parent_does(
    broker_url: str, namespace: Namespace, channel: BlockingChannel
) -> None:
    queue = namespace.queue()
    channel.queue_declare(queue)
    channel.basic_publish("", queue, b"x")
    line = ("consume", queue, "--workers", "2", "--exec", "false", "--on-failure", "reject", "--idle-timeout", "0.5")
    done = rmqkit("--log-format", "json", *line, env={"RMQKIT_URL": broker_url})
    messages = [(each["level"], each["message"]) for each in _entries(done.stderr)]
    assert [text for level, text in messages if level == "warning" and "exit code 1" in text], messages


def test_an_options_completion_imports_its_command() -> None:
    env = {"_RMQKIT_COMPLETE": "complete_bash", "COMP_WORDS": "rmqkit apply --dr", "COMP_CWORD": "2"}
    assert rmqkit(env=env).stdout.strip() == "--dry-run"


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_lets_a_command_finish_and_is_its_exit_code(number: signal.Signals) -> None:
    def body(stop: Stop) -> int:
        before = stop.requested
        signal.raise_signal(number)
        assert (before, stop.requested) == (False, True)
        return exit_codes.DONE

    with pytest.raises(typer.Exit) as ending:
        signals.run_and_exit(body)
    assert ending.value.exit_code == exit_codes.SIGNALLED + number
    assert exit_codes.SIGNALLED + number in exit_codes.MEANINGS


@pytest.mark.usefixtures("handlers")
def test_a_failure_of_an_interrupted_command_keeps_its_exit_code() -> None:
    def body(_: Stop) -> int:
        signal.raise_signal(signal.SIGTERM)
        return exit_codes.NOT_CONFIRMED

    with pytest.raises(typer.Exit) as ending:
        signals.run_and_exit(body)
    assert ending.value.exit_code == exit_codes.NOT_CONFIRMED


@pytest.mark.usefixtures("handlers")
def test_a_command_under_nohup_ignores_a_hangup() -> None:
    def body(stop: Stop) -> int:
        signal.raise_signal(signal.SIGHUP)
        assert not stop.requested
        return exit_codes.DONE

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with pytest.raises(typer.Exit) as ending:
        signals.run_and_exit(body)
    assert ending.value.exit_code == exit_codes.DONE
