"""Explain in plain words why YAML cannot be read."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TRAP = re.compile(r"""(?P<key>[\w-]+)["']?:[ \t]+(?P<word>[#*][^\s,\]}]*)""")
MAX_DEPTH = 64
TOO_DEEP = f"the nesting is deeper than {MAX_DEPTH} levels", "Flatten it."
_LOOK_BACK = 2_000  # characters before the place where reading stopped: a trap is close to it

_QUOTE = "Check that every quote, bracket and brace is closed."
_INDENT = "Check the indentation: entries of one list or mapping begin in the same column."
# Parts of the messages of libyaml and PyYAML, and their meaning for the author of a topology.
_MEANINGS: tuple[tuple[str, str, str], ...] = (
    ("mapping values are not allowed", "unexpected colon", 'Quote text with ": " in it, and check the indentation.'),
    ("did not find expected key", "expected a key here", f"{_INDENT} {_QUOTE}"),
    ("expected <block end>", "expected a key here", f"{_INDENT} {_QUOTE}"),
    ("could not find expected ':'", "a key lacks its colon", "Write `key: value`, with a space after the colon."),
    ("'-' indicator", "expected a list entry here", _INDENT),
    ("',' or '}'", "a brace { is not closed, or a comma is missing", "Write {key: value, key: value}."),
    ("',' or ']'", "a bracket [ is not closed, or a comma is missing", "Write [value, value]."),
    ("end of stream", "a quote is not closed before the end of the file", _QUOTE),
    ("unexpected document indicator", "a quote is not closed before the end of the document", _QUOTE),
    ("invalid Unicode", "this escape is not a character", "Write the character itself."),
    ("escape", "unknown escape in double quotes", "Write two backslashes, or use single quotes."),
    ("block sequence entries", "unexpected list entry", "Begin the list on a separate line, below its key."),
    ("tab character", "YAML cannot be indented with tabs", "Indent with spaces."),
    ("nesting depth", *TOO_DEEP),  # raised by the reader, at a thousand levels
    ("tag", "YAML tags are not supported", "Remove it, or quote the text."),
    ("directive", "YAML directives (%) are not supported", "Remove it, or quote the text."),
    ("document start", "text where a new YAML document could begin", _INDENT),
    ("node content", "a value is missing here", _QUOTE),
    ("alphabetic or numeric", "& and * begin a YAML anchor or alias", "Quote the text."),
)


@dataclass(frozen=True, slots=True)
class Trap:
    """A routing key that YAML reads as a comment or an alias; `index` is the position of its first character."""

    index: int
    word: str
    fault: tuple[str, str]


def find_trap(text: str, index: int) -> Trap | None:
    """Return the first `key: #...` or `key: *...` that may have stopped the reading at `index`."""
    start = text.rfind("\n", 0, max(0, index - _LOOK_BACK)) + 1
    end = text.find("\n", index)
    for match in _TRAP.finditer(text, start, end if end >= 0 else len(text)):
        word = match["word"]
        if word[0] == "*" and match.start("word") != text.rfind("*", 0, index + 1):
            continue
        if word[0] == "#" and not _in_flow(text, match.start("word")):
            continue  # a comment after a key of a block does no harm
        comment = "# begins a comment in YAML, so the rest of the line is ignored"
        message = comment if word[0] == "#" else "* begins an alias in YAML"
        return Trap(match.start("word"), word, (message, f'Quote it: {match["key"]}: "{word}".'))
    return None


def _in_flow(text: str, index: int) -> bool:
    """Tell whether a brace or bracket is open on the line at `index`."""
    line = text[text.rfind("\n", 0, index) + 1 : index]
    return line.count("{") + line.count("[") > line.count("}") + line.count("]")


def explain(error: str, text: str, index: int) -> tuple[str, str]:
    """Return a message and advice for an error of the YAML reader."""
    character = text[index : index + 1]
    if "cannot start any token" in error:
        if character == "\t":
            return "YAML cannot be indented with tabs", "Indent with spaces."
        return f"text cannot begin with {character} in YAML", "Quote it."
    for fragment, message, advice in _MEANINGS:
        if fragment in error:
            return message, advice
    return f"invalid YAML: {error}", _QUOTE
