"""Why YAML could not be read on, in plain words."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TRAP = re.compile(r"""(?P<key>[\w-]+)["']?:[ \t]+(?P<word>[#*][^\s,\]}]*)""")
MAX_DEPTH = 64
TOO_DEEP = f"the nesting is deeper than {MAX_DEPTH} levels", "Flatten it."
_LOOK_BACK = 2_000  # characters before the place where reading stopped: a trap is near

_QUOTE = "Check that every quote, bracket and brace is closed."
_INDENT = "Check the indentation: entries of one list or mapping begin in the same column."
# What libyaml and PyYAML say, in part, and how to say it to somebody who writes a topology.
_MEANINGS: tuple[tuple[str, str, str], ...] = (
    (
        "mapping values are not allowed",
        "a colon is not expected here",
        'Quote a text that holds ": ", and check the indentation.',
    ),
    ("did not find expected key", "something is not where a key should be", f"{_INDENT} {_QUOTE}"),
    ("expected <block end>", "something is not where a key should be", f"{_INDENT} {_QUOTE}"),
    ("could not find expected ':'", "a key lacks its colon", "Write `key: value`, with a space after the colon."),
    ("'-' indicator", "something is not where a list entry should be", _INDENT),
    ("',' or '}'", "a brace { is not closed, or a comma is missing", "Write {key: value, key: value}."),
    ("',' or ']'", "a bracket [ is not closed, or a comma is missing", "Write [value, value]."),
    ("end of stream", "a quote is not closed before the end of the file", _QUOTE),
    ("unexpected document indicator", "a quote is not closed before the end of the document", _QUOTE),
    ("invalid Unicode", "this escape is no character", "Write the character itself."),
    ("escape", "this backslash means nothing in double quotes", "Write two backslashes, or use single quotes."),
    (
        "block sequence entries",
        "a list entry is not expected here",
        "Begin the list on a line of its own, below its key.",
    ),
    ("tab character", "a tab cannot indent YAML", "Indent with spaces."),
    ("nesting depth", *TOO_DEEP),  # the reader itself gives up, a thousand levels down
    ("tag", "a YAML tag cannot be read, and topology files have none", "Leave it out, or quote the text."),
    ("directive", "a YAML directive (%) cannot be read", "Leave it out, or quote the text."),
    ("document start", "something stands where a new YAML document could begin", _INDENT),
    ("node content", "a value is missing here", _QUOTE),
    ("alphabetic or numeric", "& and * begin a YAML anchor or alias", "Quote the text."),
)


@dataclass(frozen=True, slots=True)
class Trap:
    """A routing key that YAML takes for something else; `index` is where its first character stands in the text."""

    index: int
    word: str
    message: str
    advice: str


def find_trap(text: str, index: int) -> Trap | None:
    """Return the first `key: #...` or `key: *...` that may have ended the reading at `index`, if there is one."""
    start = text.rfind("\n", 0, max(0, index - _LOOK_BACK)) + 1
    end = text.find("\n", index)
    for match in _TRAP.finditer(text, start, end if end >= 0 else len(text)):
        word = match["word"]
        if word[0] == "*" and match.start("word") != text.rfind("*", 0, index + 1):
            continue
        if word[0] == "#" and not _in_flow(text, match.start("word")):
            continue  # a comment after a key of a block is as good as any
        what = (
            "begins a comment in YAML, so the rest of the line is lost" if word[0] == "#" else "begins an alias in YAML"
        )
        return Trap(match.start("word"), word, f"{word[0]} {what}", f'Quote it: {match["key"]}: "{word}".')
    return None


def _in_flow(text: str, index: int) -> bool:
    """Tell whether a brace or bracket is open on the line at `index`."""
    line = text[text.rfind("\n", 0, index) + 1 : index]
    return line.count("{") + line.count("[") > line.count("}") + line.count("]")


def explain(complaint: str, text: str, index: int) -> tuple[str, str]:
    """Put a YAML reader's complaint into plain words: what is wrong, and what to write instead."""
    character = text[index : index + 1]
    if "cannot start any token" in complaint:
        if character == "\t":
            return "a tab cannot indent YAML", "Indent with spaces."
        return f"a text cannot begin with {character} in YAML", "Quote it."
    for fragment, message, advice in _MEANINGS:
        if fragment in complaint:
            return message, advice
    return f"this is not YAML: {complaint}", _QUOTE
