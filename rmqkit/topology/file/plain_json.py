"""A text of JSON becomes plain data."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from rmqkit.errors import Location, Problem
from rmqkit.topology.file.text import failed


def parse(text: str, file: str) -> Any:
    """Read JSON; raise DocumentError for what is none, a name twice in an object, and numbers that are infinite."""
    try:
        data = json.loads(text, object_pairs_hook=_object, parse_constant=_number, parse_float=_number)
        json.dumps(data, ensure_ascii=False).encode()  # finds half surrogate pairs
    except json.JSONDecodeError as error:
        problem = Problem(Location(file, error.lineno, error.colno), f"this is not JSON: {error.msg.lower()}")
    except UnicodeEncodeError:
        problem = Problem(Location(file), "a text holds half a surrogate pair, which is no character")
    except RecursionError:
        problem = Problem(Location(file), "the nesting is too deep")
    except ValueError as error:
        problem = Problem(Location(file), str(error))
    else:
        return data
    raise failed([problem])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the name {name!r} is twice in one object, and nobody can tell which counts")
    return found


def _number(word: str) -> float:
    if not math.isfinite(number := float(word)):
        raise ValueError(f"{word} is not a number of JSON, or too large for one")
    return number
