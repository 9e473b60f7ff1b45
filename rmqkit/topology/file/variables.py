"""Variables in YAML files: `${NAME}`, `${NAME:-default}`, and `$${` for a literal `${`.

The syntax is that of Docker Compose
(https://docs.docker.com/reference/compose-file/interpolation/), without its other forms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from rmqkit.model import Variable
from rmqkit.topology.names import Fault

_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}?")
_VALID = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}")
_UNQUOTED = re.compile(r"""\$\{[^{}\n"']*\}""")
_PRIVATE_USE = (*range(0xE000, 0xF900), *range(0x10_0000, 0x10_FFFE))
_FORMS = "Write ${NAME} or ${NAME:-default} for a variable, or $${ for a literal ${."


def hide_braces(text: str) -> tuple[str, Mapping[int, str]]:
    """Replace the braces of variables by other characters, because YAML gives braces a meaning in unquoted text.

    Return with it what `str.translate` needs to undo this. The characters are in the text neither as such nor escaped.
    """
    if "${" not in text:
        return text, {}
    lower = text.lower()
    unused = (code for code in _PRIVATE_USE if chr(code) not in text and f"{code:x}" not in lower)
    opening, closing = next(unused), next(unused)
    hidden = str.maketrans({"{": chr(opening), "}": chr(closing)})
    return _UNQUOTED.sub(lambda found: found[0].translate(hidden), text), {opening: "{", closing: "}"}


def escape(text: str) -> str:
    """Write a text so that reading it returns the same text."""
    return text.replace("${", "$${")


def is_variable(text: str) -> bool:
    """Tell whether a text is a single variable and nothing else."""
    return bool(_VALID.fullmatch(text))


def resolve(
    text: str, environ: Mapping[str, str], on_use: Callable[[Variable], None], on_fault: Callable[[Fault], None]
) -> str:
    """Replace the variables of a text by their values, and report each variable and each fault."""

    def value_of(found: re.Match[str]) -> str:
        if found[1] is None:
            return "${"
        if not (reference := _VALID.fullmatch(found[0])):
            on_fault((f"{found[0]} is not a variable", _FORMS))
            return found[0]
        name, default = reference.groups()
        value = environ.get(name)
        if default is not None and not value:
            on_use(Variable(name, default, "default"))
            return default
        if value is None:
            on_fault((f"variable {name} is not set", f"Set it in the environment, or write ${{{name}:-default}}."))
            return found[0]
        on_use(Variable(name, value, "environment"))
        return value

    return _REFERENCE.sub(value_of, text)
