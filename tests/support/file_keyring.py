"""A backend of keyring that keeps its passwords in a file: a test has no desktop."""

from __future__ import annotations

import json
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError


class FileKeyring(KeyringBackend):
    """Passwords by service and user."""

    priority = 1

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def _load(self) -> dict[str, str]:
        return dict(json.loads(self._file.read_text())) if self._file.exists() else {}

    def get_password(self, service: str, username: str) -> str | None:
        return self._load().get(f"{service} {username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self._file.write_text(json.dumps(self._load() | {f"{service} {username}": password}))

    def delete_password(self, service: str, username: str) -> None:
        known = self._load()
        if known.pop(f"{service} {username}", None) is None:
            raise PasswordDeleteError
        self._file.write_text(json.dumps(known))
