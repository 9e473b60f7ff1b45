"""Sources yield what was named, byte for byte, check it beforehand, and lose nothing when input fails."""

import os
import threading
import time
from pathlib import Path

import pytest

from rmqkit.errors import PayloadError
from rmqkit.message import Message, Properties
from rmqkit.payload import sources
from rmqkit.payload.formats import Format
from rmqkit.payload.input_stream import InputStream
from rmqkit.payload.sources import EnvelopeReplay, MessageDefaults
from rmqkit.stop import Stop, StopRequested


def _bodies(messages: object) -> list[bytes]:
    return [each.body for each in messages if each is not None]  # type: ignore[attr-defined]


def _lines(path: Path, **defaults: object) -> list[bytes]:
    return _bodies(sources.lines(MessageDefaults(**defaults), InputStream(str(path), Stop())))  # type: ignore[arg-type]


def test_numbers_are_the_bodies_0_to_n_minus_1_in_order() -> None:
    messages = list(sources.numbers(MessageDefaults(routing_key="q"), 20_000))
    assert _bodies(messages) == [str(number).encode() for number in range(20_000)]
    assert len({id(each.properties) for each in messages}) == 1
    assert messages[0].properties.content_type == "text/plain"
    assert list(sources.numbers(MessageDefaults(), 0)) == []


def test_arguments_keep_their_bytes_and_a_given_content_type() -> None:
    defaults = MessageDefaults("ex", "key", Properties(content_type="x/y", priority=1))
    messages = sources.arguments(defaults, ["", "grüße", os.fsdecode(b"\xff\0")])
    assert _bodies(messages) == [b"", "grüße".encode(), b"\xff\0"]
    assert {each.properties.content_type for each in messages} == {"x/y"}
    assert (messages[0].exchange, messages[0].routing_key) == ("ex", "key")


def test_all_bad_arguments_are_reported_at_once() -> None:
    with pytest.raises(PayloadError) as caught:
        sources.arguments(MessageDefaults(format=Format.JSON), ["{}", "[", "nope"])
    assert [str(problem.where) for problem in caught.value.problems] == ["payload 2:1:2", "payload 3:1:1"]


def test_defaults_that_amqp_cannot_carry_are_refused() -> None:
    with pytest.raises(PayloadError, match="routing key has 256 bytes"):
        MessageDefaults(routing_key="k" * 256)


def test_a_file_is_one_message_byte_for_byte_named_by_its_suffix(tmp_path: Path) -> None:
    everything = bytes(range(256)) * 1000
    (tmp_path / "a.png").write_bytes(everything)
    (tmp_path / "b.json").write_bytes(b'{"a":1}\r\n')
    messages = list(sources.InputFiles(MessageDefaults(), [str(tmp_path / "a.png"), str(tmp_path / "b.json")], Stop()))
    assert _bodies(messages) == [everything, b'{"a":1}\r\n']
    assert [each.properties.content_type for each in messages] == ["image/png", "application/json"]


def test_a_folder_yields_its_files_sorted_with_subfolders_but_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "c/d/e.txt", ".hidden", ".git/config"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert _bodies(sources.InputFiles(MessageDefaults(), [str(tmp_path)], Stop())) == [
        b"a/z.txt",
        b"b.txt",
        b"c/d/e.txt",
    ]


def test_all_files_that_cannot_be_sent_are_reported_before_any_is_sent(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text("[1,\n nope]")
    (tmp_path / "good.txt").write_text("x")
    with pytest.raises(PayloadError) as caught:
        sources.InputFiles(MessageDefaults(), [str(tmp_path), str(tmp_path / "empty"), str(tmp_path / "gone")], Stop())
    told = "\n".join(map(str, caught.value.problems))
    assert f"{tmp_path}/bad.json:2:2: not JSON" in told
    assert f"{tmp_path}/empty: no file in this folder" in told
    assert f"{tmp_path}/gone: cannot be read: No such file" in told


def test_a_file_removed_after_the_check_is_an_error_after_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_HELD_BYTES", 1)
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name * 10)
    messages = iter(sources.InputFiles(MessageDefaults(), [str(tmp_path)], Stop()))
    assert next(messages).body == b"a" * 10
    (tmp_path / "b").unlink()
    with pytest.raises(PayloadError, match="b: cannot be read"):
        next(messages)


def test_only_newlines_end_lines_and_the_last_line_needs_none(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes("a\r\n\n\u2028b\x0bc\n\0\xff".encode("latin-1", "ignore") + b"\nlast")
    assert _lines(path) == path.read_bytes().split(b"\n")
    path.write_bytes(b"a\nb\n")
    assert _lines(path) == [b"a", b"b"]
    path.write_bytes(b"")
    assert _lines(path) == []


def test_a_line_of_200_mb_takes_linear_time(tmp_path: Path) -> None:
    path = tmp_path / "long"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    started_s = time.process_time()
    [line] = _lines(path)
    assert len(line) == 200_000_000
    assert time.process_time() - started_s < 10


def test_a_line_is_sent_as_soon_as_it_arrives(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    opened: list[int] = []
    writer = threading.Thread(target=lambda: opened.append(os.open(path, os.O_WRONLY)))
    writer.start()
    messages = sources.lines(MessageDefaults(), InputStream(str(path), Stop()))
    writer.join()
    try:
        assert next(messages) is None  # about to wait: the publisher confirms what it has
        for body in (b"1", b"2"):
            os.write(opened[0], body + b"\n")
            assert _next_body(messages) == body
        os.write(opened[0], b"no newline")
    finally:
        os.close(opened[0])
    assert _bodies(messages) == [b"no newline"]


def _next_body(messages: object) -> bytes:
    return next(each.body for each in messages if each is not None)  # type: ignore[attr-defined]


def test_a_stop_ends_the_wait_for_input_and_drops_an_unfinished_line() -> None:
    read, write = os.pipe()
    stop = Stop()
    try:
        messages = sources.lines(MessageDefaults(), InputStream(f"/dev/fd/{read}", stop))
        os.write(write, b"whole\nhal")
        assert _next_body(messages) == b"whole"
        stop.request()
        assert _bodies(messages) == []
    finally:
        os.close(read)
        os.close(write)


def test_a_stop_ends_the_wait_for_a_fifo_without_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    stop = Stop()
    stop.request()
    with pytest.raises(StopRequested):
        InputStream(str(path), stop)


def test_the_error_of_a_file_cut_short_while_it_is_read_names_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "shrinks"
    path.write_bytes(b"line\n" * 100_000)
    messages = sources.lines(MessageDefaults(), InputStream(str(path), Stop()))
    assert _next_body(messages) == b"line"
    os.truncate(path, 70_001)
    read: list[bytes] = []
    with pytest.raises(PayloadError, match=r"cut short while it was read; it ended after line 14000 \(byte 70001\)"):
        read.extend(each.body for each in messages if each is not None)
    assert len(read) == 13_999  # the whole ones; half a line is no message


def test_the_first_bad_line_is_placed_and_those_before_it_are_good(tmp_path: Path) -> None:
    path = tmp_path / "in.ndjson"
    path.write_bytes(b'{"a": 1}\n[2,\n{}\n')
    messages = sources.lines(MessageDefaults(format=Format.JSON), InputStream(str(path), Stop()))
    assert _next_body(messages) == b'{"a": 1}'
    with pytest.raises(PayloadError, match=r"in\.ndjson:2:4: not JSON"):
        next(messages)


def test_envelopes_go_to_the_targets_they_name_unless_overridden(tmp_path: Path) -> None:
    path = tmp_path / "envelopes"
    path.write_bytes(b'{"body": "a", "exchange": "x", "routing_key": "k"}\n\n{"body": "b"}\n')
    defaults = MessageDefaults(routing_key="default")

    def targets(*, override: bool) -> list[tuple[str, str]]:
        stream = InputStream(str(path), Stop())
        messages = EnvelopeReplay(defaults, Stop(), override=override).lines(stream)
        return [(each.exchange, each.routing_key) for each in messages if isinstance(each, Message)]

    assert targets(override=False) == [("x", "k"), ("", "default")]
    assert targets(override=True) == [("", "default"), ("", "default")]


@pytest.mark.parametrize("name", ["folder", "missing"])
def test_a_stream_that_cannot_be_opened_is_refused_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(PayloadError, match=f"{name}: cannot be read"):
        InputStream(str(tmp_path / name), Stop())
