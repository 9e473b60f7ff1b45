"""Expressions over messages, in Jinja2's language, that can neither reach out nor grow without bound.

A missing name is undefined, which is false, and so is everything in it: `body.customer.name` is safe to write.
Comparing it with `<` is not an error either, but false as a whole. A key of a mapping hides a method of that name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jinja2 import ChainableUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rmqkit.errors import Location, PayloadError
from rmqkit.payload.formats import error_at

_AT = re.compile(r" at (\d+)$", re.ASCII)  # where Jinja2's lexer stopped
MAX_LENGTH = 1_000_000  # of a text or list that an operator makes
MAX_BITS = 100_000  # of a number that an operator makes
MAX_DEPTH = 100  # of nested operators; compile time grows with its cube, and Python itself fails at 200
_PADDING_FILTERS = ("batch", "center", "format", "indent", "slice")  # any of these can exhaust memory
_PADDING_METHODS = frozenset(("center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill"))


class ExpressionSandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, with limits on operations whose result can grow: `*`, `**`, `%`, padding."""

    intercepted_binops = frozenset(("*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(undefined=ChainableUndefined, autoescape=False)
        self.globals.clear()
        for name in _PADDING_FILTERS:
            del self.filters[name]
        # Jinja2's own filter of this name escapes for HTML.
        self.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)

    def _generate(self, source: nodes.Template, *names: Any, **options: Any) -> str:
        """Refuse to compile an expression that is nested too deeply."""
        level: list[nodes.Node] = [source]
        for _ in range(MAX_DEPTH):
            level = [inner for node in level for inner in node.iter_child_nodes()]
        if level:
            raise TemplateSyntaxError("nested too deeply", level[0].lineno)
        return super()._generate(source, *names, **options)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Prefer a key: in JSON `items` is a name like any other."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def wrap_str_format(self, _value: Any) -> None:
        """Leave `str.format` to `is_safe_attribute`."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuse methods that pad a text to any length."""
        padding = isinstance(obj, str | bytes) and attr in _PADDING_METHODS
        return not padding and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Calculate, unless the result would be too large."""
        if _size(operator, left, right) > 1:
            raise SecurityError(f"the result of {operator} would be too large")
        return super().call_binop(context, operator, left, right)


def _size(operator: str, left: Any, right: Any) -> float:
    """Estimate a result's size as a fraction of the limit."""
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
    """A compiled expression; `names` are the variables it may use, and `uses` those that it does.

    Raises PayloadError with the place of the fault, in which `origin` names the text, like `--filter`.
    """

    def __init__(self, text: str, *, names: Iterable[str], origin: str) -> None:
        sandbox = ExpressionSandbox()
        try:
            self._evaluate = sandbox.compile_expression(text)
            self.uses = frozenset(meta.find_undeclared_variables(sandbox.parse("{{(" + text + "\n)}}")))
        except (TemplateError, RecursionError) as exc:
            position, message = find_fault(sandbox, text, exc, sandbox.compile_expression, "variable")
            raise error_at(Location(origin, 1, position + 1), message, summary="Bad expression") from None
        for name in sorted(self.uses - set(names)):
            where, known = Location(origin, 1, text.find(name) + 1), ", ".join(sorted(names))
            raise error_at(where, f"{name!r} is not known", f"The variables are {known}.", summary="Bad expression")

    def evaluate(self, variables: Mapping[str, Any]) -> Any:
        """Return the value; None if it is undefined.

        Raises PayloadError when it has none, like 1/0; the error shows nothing of the variables.
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
    sandbox: ExpressionSandbox,
    text: str,
    exc: Exception,
    compile_again: Callable[[str], object],
    state: str | None = None,
) -> tuple[int, str]:
    """Return the position of a fault, from 0, and a description; Jinja2 itself reports only the line.

    `state` is "variable" for an expression, None for a template; `compile_again` raises the same error for other text.
    """
    message = exc.message or "" if isinstance(exc, TemplateError) else "nested too deeply"
    if found := _AT.search(message):
        return int(found[1]), message[: found.start()]
    if not isinstance(exc, TemplateSyntaxError):
        return 0, message
    # Compiled again with each token on its own line, the line number identifies the token.
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
        return position, message
    try:
        compile_again("\n".join(tokens))
    except TemplateSyntaxError as again:
        return starts[min(again.lineno, len(tokens))], message
    return 0, message
