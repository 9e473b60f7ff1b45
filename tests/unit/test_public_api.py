"""The public names: each listed once, found where it says, and typed for those who check their own code strictly."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rmqkit

ROOT = Path(__file__).parents[2]
PUBLIC: list[str] = vars(rmqkit)["__all__"]  # hidden from type checkers, which see the imports


def _declared_for_type_checkers() -> set[str]:
    tree = ast.parse(Path(rmqkit.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_exports_equal_the_names_type_checkers_see() -> None:
    assert len(PUBLIC) == len(set(PUBLIC))
    assert set(PUBLIC) - {"__version__"} == _declared_for_type_checkers()


@pytest.mark.parametrize("name", sorted(set(PUBLIC) - {"__version__"}))
def test_an_exported_name_exists_and_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(getattr(rmqkit, name))


def test_an_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Connetion'"):
        _ = rmqkit.Connetion  # type: ignore[attr-defined]


def test_dir_lists_every_public_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(PUBLIC) - {"__version__"}:  # as long as it was not used
        monkeypatch.delitem(vars(rmqkit), name, raising=False)
    assert set(PUBLIC) <= set(dir(rmqkit))


def test_importing_rmqkit_imports_no_slow_module() -> None:
    heavy = {"pika", "yaml", "jsonschema", "typer", "rich", "ssl"}
    code = f"import sys, rmqkit, rmqkit.cli.app; print(*({heavy} - {{'typer'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


APP = """
from collections.abc import Iterator, Sequence

from rmqkit import App, Delivery, Message, Target, Topology, Verdict

app = App()


@app.handler("orders", concurrency=4, prefetch=10)
def bill(order: Delivery) -> None: ...


@app.handler("judged")
async def judge(order: Delivery) -> Verdict | None: ...


@app.pipe("raw", to=Target("", "priced"))
def split(order: Delivery) -> Iterator[Message]:
    yield Message(order.body)


@app.pipe("priced")
async def send(order: Delivery) -> Message | None: ...


@app.batch_handler("batches", size=100)
def store(batch: Sequence[Delivery]) -> None:
    app.connection.publish(Message(each.body, "raw") for each in batch)


@app.batch_handler("more batches", within_s=1)
async def store_on_loop(batch: Sequence[Delivery]) -> list[Verdict | None]:
    await app.aio_connection.publish(Message(b"x", "raw"))
    return [None] * len(batch)


@app.batch_handler("wrong batches")  # type: ignore[type-var]
def store_one(order: Delivery) -> None: ...


@app.server("totals", reject_failed=True)
def total(request: Delivery) -> str:
    return "7"


@app.server("names")
async def name(request: Delivery) -> bytes:
    return b"tea"


@app.handler("wrong")  # type: ignore[type-var]
def wrong(order: Delivery) -> bool:
    return True


@app.pipe("wrong results")  # type: ignore[type-var]
async def wrong_message(order: Delivery) -> str:
    return ""


@app.server("wrong replies")  # type: ignore[type-var]
def wrong_reply(request: Delivery) -> int:
    return 7


def use(order: Delivery) -> tuple[None, str]:  # a decorated function keeps its type
    return bill(order), total(order)


async def use_coroutines(order: Delivery) -> tuple[Message | None, bytes]:
    return await send(order), await name(order)


app.run("amqp://localhost", topology=Topology(), apply=True)["orders"].seconds
"""


def test_the_documented_examples_pass_mypy_strict(tmp_path: Path) -> None:
    text = "".join((ROOT / "docs" / page).read_text() for page in ("library.md", "README.md"))
    examples = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(examples) > 5
    examples += [APP, "import rmqkit\n\nrmqkit.conect()  # type: ignore[attr-defined]\n"]  # unused ignores are errors
    files = [tmp_path / f"example_{number}.py" for number in range(len(examples))]
    for file, example in zip(files, examples, strict=True):
        file.write_text(example)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout
