"""A file is replaced in one step, and a failure leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmqkit.atomic_file import replace_file
from rmqkit.plural import plural


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


def test_a_new_file_is_written_and_an_old_one_keeps_its_permissions(tmp_path: Path) -> None:
    file = tmp_path / "f"
    replace_file(file, "é")
    assert file.read_bytes() == "é".encode()
    file.chmod(0o640)
    replace_file(file, "new")
    assert (file.read_text(), mode(file)) == ("new", 0o640)
    assert list(tmp_path.iterdir()) == [file]


def test_a_private_file_can_be_read_only_by_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("old")
    file.chmod(0o666)
    replace_file(file, "new", private=True)
    assert mode(file) == 0o600


def test_a_failure_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        replace_file(file, "\ud800")
    assert (file.read_text(), list(tmp_path.iterdir())) == ("old", [file])


def test_a_temporary_file_of_a_killed_run_is_reused_under_a_lock(tmp_path: Path) -> None:
    (tmp_path / ".f.part").write_text("half of a longer te")
    replace_file(tmp_path / "f", "whole", locked=True)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("f", "whole")]


def test_nouns_are_counted_in_english() -> None:
    assert [plural(count, "message") for count in (0, 1, 2000)] == ["0 messages", "1 message", "2,000 messages"]
    assert [plural(2, noun) for noun in ("policy", "key", "virtual host")] == [
        "2 policies",
        "2 keys",
        "2 virtual hosts",
    ]
