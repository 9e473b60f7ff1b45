"""Work that is shared among threads; the first that fails ends the others in good order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from rmqkit.errors import RmqkitError
from rmqkit.stop import Stop

_WAIT_S = 0.5  # an endless wait, in slices: a signal that comes just before a wait does not end it


def run_all(pieces: Sequence[Callable[[], None]], stop: Stop) -> None:
    """Do each piece on a thread of its own; a single one on the caller's.

    When one raises, a stop is requested of the others; it is raised once they have ended, a bug before all others.
    """
    if len(pieces) == 1:
        pieces[0]()
        return
    errors: list[BaseException] = []

    def do(piece: Callable[[], None]) -> None:
        try:
            piece()
        except BaseException as exc:  # noqa: BLE001 - raised again below, on the caller's thread
            errors.append(exc)
            stop.request()

    threads = [threading.Thread(target=do, args=(piece,), daemon=True) for piece in pieces]
    for thread in threads:
        thread.start()
    try:
        _join(threads)
    except KeyboardInterrupt:
        stop.request()
        _join(threads)
        raise
    if errors:
        raise min(errors, key=lambda each: isinstance(each, RmqkitError))


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        while thread.is_alive():
            thread.join(_WAIT_S)
