"""Fuzzing: inputs that are nearly valid, and the time and memory that reading one may take."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_T = TypeVar("_T")
_CPU_S = 5.0  # for an input of a few thousand bytes; a machine's other work does not count
_MEMORY_KB = 100_000
_STATUS = Path("/proc/self/status")


def examples(number: int) -> settings:
    """Return the number of examples to try: `number`, unless RMQKIT_TEST_EXAMPLES is set."""
    return settings(
        max_examples=int(os.environ.get("RMQKIT_TEST_EXAMPLES", number)),
        deadline=None,
        derandomize="RMQKIT_TEST_EXAMPLES" not in os.environ,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    )


@contextmanager
def bounded() -> Iterator[None]:
    """Fail if the block takes more time or memory than a small input justifies."""
    if _STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before_kb, started_s = _kb("VmRSS:"), time.thread_time()
    yield
    used_s, used_kb = time.thread_time() - started_s, _kb("VmHWM:") - before_kb
    assert used_s < _CPU_S, f"it took {used_s:.1f} s"
    assert used_kb < _MEMORY_KB, f"it took {used_kb} kB"


def _kb(name: str) -> int:
    if not _STATUS.exists():
        return 0
    return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(name))


@st.composite
def mutated(draw: st.DrawFn, samples: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """Return a sample that is cut, doubled, spliced with another, or strewn with tokens, bytes and flipped bits."""
    data = draw(st.sampled_from(samples))
    pieces = st.binary(max_size=4) | (st.sampled_from(tokens) if tokens else st.nothing())
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 40)) | st.integers(start, len(data)))
        match draw(st.sampled_from(["replace", "insert", "remove", "double", "flip", "splice"])):
            case "replace":
                data = data[:start] + draw(pieces) + data[end:]
            case "insert":
                data = data[:start] + draw(pieces) * draw(st.sampled_from([1, 1, 1, 2, 300])) + data[start:]
            case "remove":
                data = data[:start] + data[end:]
            case "double":
                data = data[:end] + data[start:]
            case "flip" if start < len(data):
                data = data[:start] + bytes([data[start] ^ 1 << draw(st.integers(0, 7))]) + data[start + 1 :]
            case "splice":
                other = draw(st.sampled_from(samples))
                data = data[:start] + other[draw(st.integers(0, len(other))) :]
    return data


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "x", "classic", "quorum", "queue", "exchange", "topic", 0, 1, -1, 10**400]),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=6), each, max_size=3),
    max_leaves=6,
)


@st.composite
def tampered(draw: st.DrawFn, sample: Any, strange: st.SearchStrategy[Any] = JSON_VALUES) -> Any:
    """Return a structure of dicts and lists in which up to three values are strange, missing or twice."""
    sample = {"": deepcopy(sample)}
    for _ in range(draw(st.integers(0, 3))):
        if places := list(_places(sample)):
            container, key = draw(st.sampled_from(places))
            match draw(st.sampled_from(["replace", "replace", "remove", "double"])):
                case "remove" if container is not sample:
                    del container[key]
                case "double" if isinstance(container, list):
                    container.append(container[key])
                case _:
                    container[key] = draw(strange)
    return sample[""]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def outcome(read: Callable[[], _T], *ours: type[Exception]) -> _T | Exception:
    """Read within bounds; return what was read, or the error if it is one of ours."""
    with bounded():
        try:
            return read()
        except ours as error:
            return error
