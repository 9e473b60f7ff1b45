"""Switch the firehose of a virtual host on for a run, and off again, after a killed run, too.

A file in the user's state folder holds whether rmqkit switched it on. Each run has a shared lock on the file: the last
one switches the firehose off, and the kernel releases the lock of a run that was killed.
"""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rmqkit.cli import output
from rmqkit.cli.last_applied import state_file
from rmqkit.errors import HTTP_API_UNAVAILABLE, BrokerError, InputError, Unreachable
from rmqkit.http_api import virtual_hosts
from rmqkit.http_api.client import HttpApiClient
from rmqkit.settings import Settings

_OURS = b"on"


@contextmanager
def switched_on(api: HttpApiClient, settings: Settings) -> Iterator[Callable[[], None]]:
    """Switch the firehose on while the block runs, and yield the function that makes sure that it is on.

    If it was on already, and no killed run of rmqkit had switched it on, it stays on. Raises AccessRefused,
    AuthenticationFailed, Unreachable, InputError.
    """
    path = state_file(settings, "traced")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"cannot remember that tracing must be switched off: {path}: {error.strerror}"
        raise InputError(message, advice=_advice("on", api)) from error

    def ensure() -> None:
        if not virtual_hosts.is_traced(api):
            os.pwrite(descriptor, _OURS, 0)  # first, so that a killed run leaves the mark
            virtual_hosts.trace(api, on=True)

    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        try:
            ensure()
        except HTTP_API_UNAVAILABLE as error:
            if not isinstance(error, Unreachable):  # it was not switched on
                os.ftruncate(descriptor, 0)
            error.advice = f"{error.advice}\n{_advice('on', api)}".strip()
            raise
        yield ensure
    finally:
        with suppress(BlockingIOError):  # another run still traces
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _switch_off(api, descriptor)
        os.close(descriptor)


def _switch_off(api: HttpApiClient, descriptor: int) -> None:
    """Switch the firehose off if rmqkit switched it on; after a failure the next run does so."""
    if os.pread(descriptor, len(_OURS), 0) != _OURS:
        return
    try:
        virtual_hosts.trace(api, on=False)
    except BrokerError as error:
        output.warn(f"tracing could not be switched off: {error.message}. {_advice('off', api)}")
    else:
        os.ftruncate(descriptor, 0)


def _advice(state: str, api: HttpApiClient) -> str:
    command = f"`rabbitmqctl trace_{state} -p {shlex.quote(api.vhost)}`"
    if state == "off":
        return f"Run {command}, or trace again."
    return f"Log in as an administrator, or have {command} run and add --no-switch."
