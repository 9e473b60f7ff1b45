"""Messages are counted as printed once they were written whole, and never before."""

import fcntl
import json
import os
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

from rmqkit.errors import OutputError
from rmqkit.handlers.printer import Printer
from rmqkit.message import Delivery
from rmqkit.stop import Stop
from tests.support.origin import FakeOrigin


def _deliveries(*bodies: bytes) -> list[Delivery]:
    return [Delivery(body, tag, False, FakeOrigin()) for tag, body in enumerate(bodies, 1)]


def test_bodies_are_written_byte_for_byte_with_a_newline_each(tmp_path: Path) -> None:
    everything = bytes(range(256))
    with (tmp_path / "out").open("wb") as file:
        assert Printer(file.fileno()).write(_deliveries(everything, b"", b"\x1b[31mred")) == 3
    assert (tmp_path / "out").read_bytes() == everything + b"\n\n\x1b[31mred\n"


def test_envelopes_are_written_one_per_line(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        Printer(file.fileno(), as_json=True).write(_deliveries(b"a\nb", b"\xff"))
    first, second = (tmp_path / "out").read_text().splitlines()
    assert (json.loads(first)["body"], json.loads(second)["body_base64"]) == ("a\nb", "/w==")


def test_a_batch_larger_than_a_block_is_written_whole_and_in_order(tmp_path: Path) -> None:
    bodies = [bytes([65 + number % 26]) * 300_000 for number in range(20)] + [b"x" * 3_000_000]
    with (tmp_path / "out").open("wb") as file:
        assert Printer(file.fileno()).write(_deliveries(*bodies)) == 21
    assert (tmp_path / "out").read_bytes() == b"\n".join(bodies) + b"\n"


def test_a_full_disk_is_an_error_and_nothing_counts_as_written() -> None:
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(OutputError, match="No space left") as caught,
    ):
        Printer(full.fileno()).write(_deliveries(b"a", b"b"))
    assert caught.value.written == 0


def test_a_disk_that_fills_up_in_mid_batch_reports_how_many_were_written_whole(tmp_path: Path) -> None:
    """A file size limit stands in for the disk: the write is short, then fails."""
    script = """
import resource, signal, sys
from tests_printing import _deliveries
from rmqkit.errors import OutputError
from rmqkit.handlers.printer import Printer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (25, 25))
try:
    Printer(1).write(_deliveries(*[b"123456789"] * 5))
except OutputError as exc:
    sys.exit(100 + exc.written)
"""
    (tmp_path / "tests_printing.py").write_text(Path(__file__).read_text())
    with (tmp_path / "out").open("wb") as file:
        process = subprocess.run(
            [sys.executable, "-c", script], stdout=file, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
            timeout=90, check=False,
        )  # fmt: skip
    assert process.returncode == 102
    assert (tmp_path / "out").stat().st_size == 25


def test_a_closed_reader_is_an_error() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        with pytest.raises(OutputError, match="output closed by its reader"):
            Printer(write).write(_deliveries(b"a"))
    finally:
        os.close(write)


def test_a_stop_ends_the_wait_for_an_idle_reader() -> None:
    read, write = os.pipe()
    capacity = fcntl.fcntl(write, fcntl.F_GETPIPE_SZ)
    stop = Stop()
    timer = threading.Timer(0.2, stop.request)
    timer.start()
    try:
        written = Printer(write).write(_deliveries(*[b"x" * 9_999] * 100), stop)
        assert written == capacity // 10_000
    finally:
        timer.join()
        os.close(read)
        os.close(write)


def test_a_closed_output_is_refused_immediately() -> None:
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    with pytest.raises(OutputError, match="cannot write"):
        Printer(write)


def test_control_characters_are_escaped_on_a_terminal() -> None:
    control, terminal = os.openpty()
    attributes = termios.tcgetattr(terminal)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(terminal, termios.TCSANOW, attributes)
    try:
        Printer(terminal).write(_deliveries("\x1b[31m\x07é\x9b\t\xad\r".encode(), b"\xff"))
        Printer(terminal, as_json=True).write(_deliveries("\x9b".encode()))
        shown = b""
        while shown.count(b"\n") < 3:
            shown += os.read(control, 4096)
    finally:
        os.close(control)
        os.close(terminal)
    bodies, envelope = shown.decode().rsplit("\n", 2)[:2]
    assert bodies == "\\u001b[31m\\u0007é\\u009b\t\xad\\u000d\n\\xff"
    assert json.loads(envelope)["body"] == "\x9b"


def test_batches_of_several_processes_never_interleave(tmp_path: Path) -> None:
    script = """
import sys
from tests_printing import _deliveries
from rmqkit.handlers.printer import Printer
printer = Printer(1, lock_fd=int(sys.argv[2]))
for _ in range(50):
    printer.write(_deliveries(*[sys.argv[1].encode() * 2_000] * 10))
"""
    (tmp_path / "tests_printing.py").write_text(Path(__file__).read_text())
    read, write = os.pipe()
    with (tmp_path / "lock").open("wb") as lock:
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", script, letter, str(lock.fileno())], stdout=write, cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": str(tmp_path)}, pass_fds=(lock.fileno(),),
            )
            for letter in "abc"
        ]  # fmt: skip
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            lines = pipe.read().decode().splitlines()
        assert [writer.wait(90) for writer in writers] == [0, 0, 0]
    assert len(lines) == 1500
    for start in range(0, len(lines), 10):
        assert len(set(lines[start : start + 10])) == 1
        assert len(lines[start]) == 2_000
