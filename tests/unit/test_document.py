"""What a file may hold, down to its bytes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rmqkit.errors import DocumentError, InputError
from rmqkit.model import Topology
from rmqkit.topology.file import document as document_module
from rmqkit.topology.file.document import parse, read
from rmqkit.topology.file.loader import load, loads


def refusal(path: Path) -> str:
    """Return the only problem with a file, without its path."""
    with pytest.raises(DocumentError) as caught:
        load(path)
    (problem,) = caught.value.problems
    return str(problem).removeprefix(str(path))


def test_values_and_keys_have_their_line_and_column() -> None:
    document = parse("queues:\n  é: {durable: true}\n  b: [1, 2]\n", "x.yaml")
    assert str(document.where(("queues", "é", "durable"))) == "x.yaml:2:16"
    assert str(document.where_key(("queues", "é", "durable"))) == "x.yaml:2:7"
    assert str(document.where(("queues", "b", 1))) == "x.yaml:3:10"
    assert document.where(("queues", "b", 1, "nowhere")) == document.where(("queues", "b", 1))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"queues: {caf\xe9: {}}\n", ":1:13: the byte 0xe9 is not UTF-8\n  Save the file as UTF-8; it may be Latin-1."),
        (b"queues:\n  caf\xc3", ":2:6: the byte 0xc3 is not UTF-8\n  Save the file as UTF-8; it may be Latin-1."),
        ("queues: {}".encode("utf-16"), ":1:1: the file is UTF-16, not UTF-8\n  Save it as UTF-8."),
        (
            b"queues:\n  \xed\xa0\x80: {}",
            ":2:3: the byte 0xed is not UTF-8\n  Save the file as UTF-8; it may be Latin-1.",
        ),
    ],
)
def test_a_file_that_is_not_utf_8_is_refused_at_the_byte(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    assert refusal(path) == expected


@pytest.mark.parametrize("character", ["\0", "\x07", "\x1b", "\x7f", "\x9f", "\ufffe", "\uffff"])
def test_a_control_character_is_refused_with_its_name_and_place(tmp_path: Path, character: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"queues:\n  a{character}: {{}}\n", "utf-8")
    assert refusal(path).startswith(f":2:4: the character U+{ord(character):04X} is not allowed in YAML\n")


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(DocumentError, match=r"U\+D800 is not allowed"):
        loads("queues: {\ud800: {}}")


def test_a_byte_order_mark_of_utf_8_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfqueues: {a: {}}\n")
    assert [str(queue.where) for queue in load(path).queues] == [f"{path}:1:10"]


def test_windows_line_endings_are_accepted() -> None:
    assert [queue.where.line for queue in loads("queues:\r\n  a: {}\r\n  b: {}\r\n").queues if queue.where] == [2, 3]


@pytest.mark.timeout(10)
def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    with path.open("wb") as stream:
        stream.truncate(100_000_000)  # sparse: takes no room
    assert refusal(path) == ": the file is larger than 5,000,000 bytes\n  Check that this is the right file."


def test_an_endless_device_is_refused() -> None:
    assert refusal(Path("/dev/zero")).startswith(": the file is larger than 5,000,000 bytes")


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "text", ["a: " + "[" * 5000, "a: " + "{a: " * 5000, "".join(f"{' ' * n}a:\n" for n in range(3000))]
)
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(DocumentError, match="deeper than 64 levels"):
        loads(text)


@pytest.mark.timeout(10)
def test_an_alias_bomb_is_refused_without_being_built() -> None:
    levels = [f"  x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 30)]
    with pytest.raises(DocumentError) as caught:
        loads("queues:\n  x0: &x0 [1]\n" + "\n".join(levels))
    assert len(caught.value.problems) <= document_module.MAX_PROBLEMS + 1


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == ": this is a directory, not a file\n  Name the files in it."


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "x.yaml") == ": the file cannot be read: No such file or directory"


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "x.yaml"  # unreadable even for root, whom permissions do not stop
    loop.symlink_to(loop)
    assert refusal(loop).startswith(": the file cannot be read: ")


def test_a_path_with_a_nul_is_refused() -> None:
    with pytest.raises(DocumentError, match="invalid path"):
        load("x\0.yaml")


def test_a_pipe_is_read_like_a_file() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"queues: {a: {}}\n")
    os.close(writer)
    assert [queue.name for queue in load(f"/dev/fd/{reader}").queues] == ["a"]
    os.close(reader)


def test_both_yaml_readers_yield_the_same_document(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = sorted((Path(__file__).parents[1] / "cases" / "valid").glob("*.yaml"))
    assert cases
    fast = [read(path) for path in cases]
    monkeypatch.setattr(document_module, "_Loader", yaml.BaseLoader)
    for one, other in zip(fast, [read(path) for path in cases], strict=True):
        assert (one.data, one.keys, one.sources, one.problems) == (
            other.data,
            other.keys,
            other.sources,
            other.problems,
        )
        # Where nothing is written, they differ by a column on where it begins.
        assert {path: place for path, place in one.values.items() if one.sources.get(path) != ""} == {
            path: place for path, place in other.values.items() if other.sources.get(path) != ""
        }


_KEYS = ("queues", "exchanges", "bindings", "source", "destination", "routing_key", "type", "arguments", "publish", "a")
_SIGNS = ("*.x", "null", "017", "on", "--- ", "...", "<<", "%YAML", "amq.x", "1e999", "x-max-length: ", "external: ")
_WORDS = st.sampled_from([*"-,:#*&!|>'\"[]{}?\t\n ", "\n  ", "topic", *(f"{key}: " for key in _KEYS), *_SIGNS])


def check_that_it_loads_or_is_refused(load: Callable[[], Topology]) -> None:
    try:
        topology = load()
    except InputError as error:
        problems = error.problems
    else:
        assert isinstance(topology, Topology)
        return
    assert problems
    assert all(problem.message for problem in problems)


@given(st.one_of(st.text(), st.lists(_WORDS, max_size=40).map(" ".join), st.lists(_WORDS, max_size=40).map("".join)))
def test_any_text_is_a_topology_or_an_input_error(text: str) -> None:
    check_that_it_loads_or_is_refused(lambda: loads(text))


@given(content=st.binary())
def test_any_bytes_are_a_topology_or_an_input_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    check_that_it_loads_or_is_refused(lambda: load(path))
