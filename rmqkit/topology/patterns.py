"""Whether one topic pattern takes all that another takes.

Comes in: two patterns. Goes out: yes or no. Room: topology, pure.

A pattern is read as a finite automaton over words: `*` is one step on any word, `#` a loop. There are more words than
any two patterns name, so all that the wider one does not name behave alike: one word stands for them.
"""

from __future__ import annotations

from itertools import zip_longest

MAX_STATES = 2_000  # patterns like #.a.*.*.*... have a state for each set of places: beyond this many, say no

_OTHER = "."  # a word that neither names: no word holds a dot
States = frozenset[int]


def words(key: str) -> tuple[str, ...]:
    """Split a routing key or pattern into words; the empty one has none."""
    return tuple(key.split(".")) if key else ()


def includes(wide: str, narrow: str) -> bool:
    """Tell whether every routing key that matches `narrow` matches `wide`."""
    if wide in (narrow, "#"):
        return True
    outer, inner = words(wide), words(narrow)
    if not ({"*", "#"} & {*outer}) or not _may_include(outer, inner):
        return False
    named = {*outer} - {"*", "#"}
    todo = [(_closed(inner, frozenset({0})), _closed(outer, frozenset({0})))]
    seen = {*todo}
    while todo:
        inside, outside = todo.pop()
        if len(inner) in inside and len(outer) not in outside:
            return False
        for word in _next_words(inner, inside, named):
            pair = _step(inner, inside, word), _step(outer, outside, word if word in named else _OTHER)
            if pair not in seen:
                seen.add(pair)
                todo.append(pair)
        if len(seen) > MAX_STATES:
            return False
    return True


def _next_words(pattern: tuple[str, ...], states: States, named: set[str]) -> set[str]:
    """Return a word of every kind that leads on from the states."""
    tokens = {pattern[state] for state in states if state < len(pattern)}
    return tokens - {"*", "#"} | ({*named, _OTHER} if tokens & {"*", "#"} else set())


def _step(pattern: tuple[str, ...], states: States, word: str) -> States:
    reached = set()
    for state in states:
        if state < len(pattern):
            if pattern[state] == "#":
                reached.add(state)
            elif pattern[state] in ("*", word):
                reached.add(state + 1)
    return _closed(pattern, frozenset(reached))


def _closed(pattern: tuple[str, ...], states: States) -> States:
    """Add the states that are reached without a word: a `#` may stand for none."""
    reached = set(states)
    for state in sorted(states):
        following = state
        while following < len(pattern) and pattern[following] == "#":
            following += 1
            reached.add(following)
    return frozenset(reached)


def _may_include(outer: tuple[str, ...], inner: tuple[str, ...]) -> bool:
    """Tell whether what `outer` begins and ends with stands in `inner` too: a quick way to say no."""
    for one, other in ((outer, inner), (outer[::-1], inner[::-1])):
        for word, same in zip_longest(one, other):
            if word in ("*", "#"):
                break
            if word != same:
                return False
    return True
