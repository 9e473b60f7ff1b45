"""Interrupt a function wherever Python might run a signal handler."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import rmqkit

RMQKIT = str(Path(rmqkit.__file__).parent)


def interrupt(call: Callable[[], object], step: int) -> bool:
    """Raise KeyboardInterrupt where Python might run a signal handler for the so-many-th time; tell if that was so."""
    calls = 0

    def raise_in(frame: FrameType, event: str, _arg: object) -> None:
        nonlocal calls
        mine = frame.f_code.co_filename.startswith(RMQKIT) or frame.f_code is threading.Thread.start.__code__
        if mine and event in ("call", "c_return"):
            calls += 1
            if calls == step:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(raise_in)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False
