"""Which topic patterns swallow which, by the words of every short key."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from rmqkit.topology.matching import includes, matches_topic

words = st.lists(st.sampled_from(["a", "b", "*", "#", ""]), max_size=6)


def joined(alphabet: str, longest: int) -> list[str]:
    return [".".join(parts) for length in range(longest + 1) for parts in product(alphabet, repeat=length)]


def test_a_short_pattern_includes_another_exactly_if_it_matches_all_its_keys() -> None:
    keys = joined("abz", 6)  # z is a word that no pattern names
    patterns = joined("ab*#", 3)
    takes = {pattern: {key for key in keys if matches_topic(pattern, key)} for pattern in patterns}
    for wide, narrow in product(patterns, repeat=2):
        assert includes(wide, narrow) == (takes[narrow] <= takes[wide]), (wide, narrow)


@given(words, words, st.data())
def test_a_pattern_matches_the_keys_of_patterns_it_includes(
    wide: list[str], narrow: list[str], data: st.DataObject
) -> None:
    any_word = st.sampled_from(["a", "b", "z", ""])
    key: list[str] = []
    for word in narrow:
        some = {"*": (1, 1), "#": (0, 3)}.get(word)
        key += data.draw(st.lists(any_word, min_size=some[0], max_size=some[1])) if some else [word]
    outer, inner, taken = (".".join(each) for each in (wide, narrow, key))
    if includes(outer, inner) and matches_topic(inner, taken):
        assert matches_topic(outer, taken)


@given(words)
def test_a_pattern_includes_itself_and_narrower_ones(pattern: list[str]) -> None:
    text = ".".join(pattern)
    assert includes(text, text)
    assert includes("#", text)
    for index, word in enumerate(pattern):
        if word in ("*", "#"):
            assert includes(text, ".".join([*pattern[:index], "z", *pattern[index + 1 :]]))


def test_patterns_with_too_many_states_are_compared_quickly() -> None:
    stars = ".".join("*" * 100)
    assert not includes(f"#.a.{stars}", f"#.b.{stars}")
    assert not includes(f"#.a.{stars}", f"b.a.{stars}")  # it does, but to prove it would take too long
