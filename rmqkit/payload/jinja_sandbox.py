"""Expressions over messages, in Jinja2's language, that can neither reach out nor grow without end.

What is missing is undefined, which is false, and so is what it has inside: `body.customer.name` is safe to ask for. To
compare it with `<` is no error either, but false as a whole. A key of a mapping goes before a method of that name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jinja2 import ChainableUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rmqkit.errors import Location, PayloadError, Problem

_AT = re.compile(r" at (\d+)$", re.ASCII)  # where Jinja2's lexer stopped
MAX_LENGTH = 1_000_000  # of a text or list that an operator makes
MAX_BITS = 100_000  # of a number, likewise
MAX_DEPTH = 100  # of nested operators; compiling takes time by its cube, and Python itself fails at 200
_PADDING_FILTERS = ("batch", "center", "format", "indent", "slice")  # any of these can fill the memory
_PADDING_METHODS = frozenset(("center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill"))


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, with bounds for what grows: `*`, `**`, `%`, padding."""

    intercepted_binops = frozenset(("*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(undefined=ChainableUndefined, autoescape=False)
        self.globals.clear()
        for name in _PADDING_FILTERS:
            del self.filters[name]
        self.filters["tojson"] = _to_json

    def _generate(self, source: nodes.Template, *names: Any, **options: Any) -> str:
        """Refuse to compile what is nested too deeply."""
        level: list[nodes.Node] = [source]
        for _ in range(MAX_DEPTH):
            level = [inner for node in level for inner in node.iter_child_nodes()]
        if level:
            raise TemplateSyntaxError("nested too deeply", level[0].lineno)
        return super()._generate(source, *names, **options)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Look for a key first: in JSON `items` is a name like any other."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def wrap_str_format(self, _value: Any) -> None:
        """Leave `str.format` to `is_safe_attribute`."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuse what pads a text to any length."""
        padding = isinstance(obj, str | bytes) and attr in _PADDING_METHODS
        return not padding and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Calculate, unless the result would be too large."""
        if _size(operator, left, right) > 1:
            raise SecurityError(f"the result of {operator} would be too large")
        return super().call_binop(context, operator, left, right)


def _to_json(value: Any) -> str:
    """Write JSON as it is, and not for HTML, as Jinja2's own filter of that name."""
    return json.dumps(value, ensure_ascii=False)


def _size(operator: str, left: Any, right: Any) -> float:
    """Estimate a result's size as a share of what is allowed."""
    if operator == "%":
        return 2 if isinstance(left, str | bytes) else 0  # formatting, with any width
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(right, 0) if operator == "**" else left.bit_length() + right.bit_length()
        return bits / MAX_BITS
    for one, times in ((left, right), (right, left)):
        if hasattr(one, "__len__") and isinstance(times, int):
            return len(one) * max(times, 0) / MAX_LENGTH
    return 0


class Expression:
    """An expression, compiled once; `names` are the variables it may use, and `uses` those that it does.

    Raises PayloadError with the place of the fault; `origin` names the text in it, as `--filter`.
    """

    def __init__(self, text: str, *, names: Iterable[str], origin: str) -> None:
        sandbox = Sandbox()
        try:
            self._evaluate = sandbox.compile_expression(text)
            self.uses = frozenset(meta.find_undeclared_variables(sandbox.parse("{{(" + text + "\n)}}")))
        except (TemplateError, RecursionError) as exc:
            position, said = find_fault(sandbox, text, exc, sandbox.compile_expression, "variable")
            raise PayloadError("Bad expression", problems=[Problem(Location(origin, 1, position + 1), said)]) from None
        for name in sorted(self.uses - set(names)):
            known = ", ".join(sorted(names))
            problem = Problem(Location(origin, 1, text.find(name) + 1), f"{name!r} is not known", f"There are {known}.")
            raise PayloadError("Bad expression", problems=[problem])

    def evaluate(self, variables: Mapping[str, Any]) -> Any:
        """Return the value; None for what is undefined.

        Raises PayloadError when there is none, as of 1/0; the error tells nothing of the variables.
        """
        try:
            return self._evaluate(**variables)
        except UndefinedError:
            return None
        except SecurityError as exc:
            raise PayloadError(f"the expression was stopped: {exc.message}") from exc
        except Exception as exc:
            raise PayloadError(f"the expression has no value for a message: {type(exc).__name__}") from exc


def find_fault(
    sandbox: Sandbox, text: str, exc: Exception, compile_again: Callable[[str], object], state: str | None = None
) -> tuple[int, str]:
    """Return the position of a fault, from 0, and what it is; Jinja2 itself tells only the line.

    `state` is "variable" for an expression, None for a template; `compile_again` raises the same for other text.
    """
    said = exc.message or "" if isinstance(exc, TemplateError) else "nested too deeply"
    if found := _AT.search(said):
        return int(found[1]), said[: found.start()]
    if not isinstance(exc, TemplateSyntaxError):
        return 0, said
    # A token a line, and the line tells the token.
    tokens: list[str] = []
    starts = [0]
    position = 0
    try:
        for _, kind, token in sandbox.lexer.tokeniter(text, None, None, state):
            if kind not in ("data", "whitespace"):
                tokens.append(token.replace("\n", " "))
                starts.append(position)
            position += len(token)
    except TemplateSyntaxError:
        return position, said
    try:
        compile_again("\n".join(tokens))
    except TemplateSyntaxError as again:
        return starts[min(again.lineno, len(tokens))], said
    return 0, said
