"""Passwords that another program keeps: one that a command prints, or one in the system's keyring."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from rmqkit.errors import SettingsError

SERVICE = "rmqkit"  # under which the keyring keeps the passwords, by the name of the context
COMMAND_S = 60.0  # for a command, which may ask for a passphrase
_KEPT_S = 60.0  # both connections and the HTTP API use it, and a command may be slow
_lock = threading.Lock()


@dataclass(slots=True)
class PasswordSource:
    """A command that prints a password on its first line, or else the entry of a context in the system's keyring.

    The password is kept for a minute: a later connection uses a changed one.
    """

    context: str
    command: tuple[str, ...] = field(default=(), repr=False)  # may hold a secret
    _password: str = field(default="", repr=False, compare=False)
    _fetched_at: float = field(default=float("-inf"), repr=False, compare=False)  # of the monotonic clock

    def __call__(self) -> str:
        """Return the password; raise SettingsError, which names the program and holds nothing that it printed."""
        with _lock:
            if time.monotonic() - self._fetched_at > _KEPT_S:
                self._password = self._run() if self.command else from_keyring(self.context)
                self._fetched_at = time.monotonic()
            return self._password

    def _run(self) -> str:
        import subprocess  # noqa: PLC0415 - start-up time

        program = f"context {self.context!r}: password_command {self.command[0]!r}"
        try:
            done = subprocess.run(  # noqa: S603 - the user's own, without a shell; it may ask on the terminal
                self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=COMMAND_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise SettingsError(f"{program} did not end within {COMMAND_S:g} s") from None
        except (OSError, ValueError) as error:  # ValueError: a NUL
            raise SettingsError(f"{program}: {getattr(error, 'strerror', None) or 'invalid argument'}") from None
        if done.returncode:
            raise SettingsError(f"{program} failed with exit code {done.returncode}")
        try:
            secret = done.stdout.decode().partition("\n")[0].removesuffix("\r")
        except UnicodeDecodeError:
            raise SettingsError(f"{program} printed text that is not UTF-8") from None
        if not secret or "\0" in secret:
            raise SettingsError(f"{program} printed no password on its first line")
        return secret


def from_keyring(context: str) -> str:
    """Return the password of a context in the system's keyring; raise SettingsError if there is none."""
    password = _keyring("read", context)
    if not password:
        advice = f"Store it with `rmqkit context edit {context}`."
        raise SettingsError(f"context {context!r}: the system's keyring holds no password for it", advice=advice)
    return password


def into_keyring(context: str, password: str) -> None:
    """Store the password of a context in the system's keyring. Raises SettingsError."""
    _keyring("change", context, password)


def forget(context: str) -> None:
    """Delete the password of a context from the system's keyring, if there is one. Raises SettingsError."""
    if _keyring("read", context):
        _keyring("delete", context)


def _keyring(action: str, context: str, password: str = "") -> str | None:
    try:
        import keyring  # noqa: PLC0415 - an extra, and slow to import
        from keyring.errors import KeyringError  # noqa: PLC0415
    except ImportError:
        raise SettingsError("the package keyring is missing", advice="Run `pip install 'rmqkit[keyring]'`.") from None
    try:
        if action == "read":
            found: str | None = keyring.get_password(SERVICE, context)
            return found
        if action == "change":
            keyring.set_password(SERVICE, context, password)
        else:
            keyring.delete_password(SERVICE, context)
    except KeyringError as error:
        advice = "Use password_command or password_file instead."
        raise SettingsError(f"the system's keyring cannot be used: {type(error).__name__}", advice=advice) from None
    return None
