"""What is installed from a wheel works without the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from rmqkit.cli.command_table import COMMANDS
from rmqkit.version import VERSION

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, install it in a fresh environment, and return that environment's folder of commands.

    The dependencies are this environment's; what was installed editable here does not count there.
    """
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)  # the wheel from the sdist
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    wheel = next(folder.glob("rmqkit-*.whl"))
    run(sys.executable, "-m", "pip", "-q", "--python", python, "install", "--no-deps", "--no-index", wheel)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert run(python, "-c", "import rmqkit; print(rmqkit.__file__)").startswith(str(site))
    return python.parent


def run(*command: str | Path) -> str:
    # Away from the checkout, or Python would find the package there.
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_runs(installed: Path) -> None:
    assert run(installed / "rmqkit", "--version").startswith("rmqkit 0.")


def test_the_schema_is_in_the_wheel(installed: Path) -> None:
    assert json.loads(run(installed / "rmqkit", "schema")) == json.loads(
        (ROOT / "rmqkit" / "topology" / "schema.json").read_text()
    )


def test_the_shipped_topologies_are_in_the_wheel(installed: Path) -> None:
    code = "from rmqkit.topology.examples import example_names; print(*example_names())"
    assert run(installed / "python", "-c", code).split() == sorted(
        each.stem for each in (ROOT / "topologies").glob("*.yaml") if not each.stem.endswith(".test")
    )


def test_the_rules_of_lint_are_in_the_wheel(installed: Path) -> None:
    assert run(installed / "rmqkit", "validate", "--explain", "nothing-bound").startswith("nothing-bound: warning")


def test_the_wheel_is_marked_as_typed(installed: Path) -> None:
    assert run(installed / "python", "-c", "from importlib.resources import files; print(files('rmqkit') / 'py.typed')")


def test_the_wheel_and_the_sdist_pass_the_checks_before_an_upload(installed: Path) -> None:
    packages = sorted(installed.parents[1].glob("rmqkit-*"))
    assert [each.name for each in packages] == [f"rmqkit-{VERSION}-py3-none-any.whl", f"rmqkit-{VERSION}.tar.gz"]
    run(sys.executable, "-m", "twine", "check", "--strict", *packages)
    run(sys.executable, "-m", "check_wheel_contents", packages[0])


def test_man_pages_and_completions_are_installed(installed: Path) -> None:
    share = installed.parent / "share"
    pages = {page.stem for page in (share / "man" / "man1").iterdir()}
    assert pages == {"rmqkit", *(f"rmqkit-{name}" for name in COMMANDS)}
    scripts = (
        "bash-completion/completions/rmqkit",
        "zsh/site-functions/_rmqkit",
        "fish/vendor_completions.d/rmqkit.fish",
    )
    for script in scripts:
        assert "_RMQKIT_COMPLETE=complete_" in (share / script).read_text()


def test_the_installed_bash_completion_completes(installed: Path) -> None:
    script = installed.parent / "share" / "bash-completion" / "completions" / "rmqkit"
    words = f"source {script}; COMP_WORDS=(rmqkit snaps); COMP_CWORD=1; _rmqkit_completion {installed / 'rmqkit'}"
    assert run("bash", "-c", f'{words}; echo "${{COMPREPLY[@]}}"').split() == ["snapshot"]
