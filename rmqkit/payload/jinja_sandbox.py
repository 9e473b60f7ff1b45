"""Expressions and templates in Jinja2's language that can neither reach out nor grow without bound.

In an expression, a missing name is undefined, which is false, and so is everything in it: `body.customer.name` is safe
to write. Comparing it with `<` is not an error either, but false as a whole. A key of a mapping hides a method of that
name.

A template has `{{ expressions }}`, `{% if %}`, `{% for %}` and `{% set %}`, and no other statement, so that it cannot
read files or call itself. The size of variables, the number of loop iterations and the output are bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn, cast

from jinja2 import ChainableUndefined, StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rmqkit.errors import Location, PayloadError
from rmqkit.payload.formats import error_at

_AT = re.compile(r" at (\d+)$", re.ASCII)  # where Jinja2's lexer stopped
MAX_LENGTH = 1_000_000  # of a text or list that an operator makes
MAX_BITS = 100_000  # of a number that an operator makes
MAX_DEPTH = 100  # of nested operators; compile time grows with its cube, and Python itself fails at 200


class ExpressionSandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, with limits on operations whose result can grow: `*`, `**`, `%`, padding."""

    intercepted_binops = frozenset(("*", "**", "%"))
    # Any of these can exhaust memory: the filters, and the methods of a text.
    refused_filters = frozenset(("batch", "center", "format", "indent", "slice"))
    refused_methods = frozenset(("center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill"))

    def __init__(self) -> None:
        super().__init__(undefined=ChainableUndefined, autoescape=False)
        self.globals.clear()
        for name in self.refused_filters:
            self.filters.pop(name, None)
        # Jinja2's own filter of this name escapes for HTML.
        self.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)

    def _generate(self, source: nodes.Template, *names: Any, **options: Any) -> str:
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
        """Refuse methods that make a text of any length."""
        refused = isinstance(obj, str | bytes) and attr in self.refused_methods
        return not refused and super().is_safe_attribute(obj, attr, value)

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


_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_HYPHENATED = re.compile(r"([\w.]*\w)\.(\w+(?:-[^\W\d]\w*)+)")


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
        unknown = self.uses - set(names)
        for found in _HYPHENATED.finditer(_QUOTED.sub(lambda quoted: "_" * len(quoted[0]), text)):
            outer, key = found.groups()
            if key.startswith("x-") or not unknown.isdisjoint(key.split("-")):
                where, advice = Location(origin, 1, found.start() + 1), f'Write {outer}["{key}"].'
                raise error_at(where, f"{outer}.{key} is a subtraction", advice, summary="Bad expression")
        for name in sorted(unknown):
            where, known = Location(origin, 1, text.find(name) + 1), ", ".join(sorted(names))
            raise error_at(where, f"{name!r} is not known", f"The variables are {known}.", summary="Bad expression")

    def evaluate(self, variables: Mapping[str, Any]) -> Any:
        """Return the value, None if undefined. Raises PayloadError for none, as of 1/0; it shows no variables."""
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


MAX_OUTPUT = 16 * 1024 * 1024  # characters; newer brokers accept no larger message (their max_message_size)
MAX_ITERATIONS = 100_000  # of all loops together, for one message
_STATEMENTS = (nodes.Output, nodes.If, nodes.For, nodes.Assign)


class TemplateSandbox(ExpressionSandbox):
    """The sandbox of templates: stricter than that of expressions, and a missing name is an error."""

    intercepted_binops = ExpressionSandbox.intercepted_binops | {"+"}
    refused_filters = ExpressionSandbox.refused_filters | {
        "forceescape", "pprint", "random", "replace", "urlize", "wordwrap", "xmlattr",
    }  # fmt: skip
    refused_methods = ExpressionSandbox.refused_methods | {"join", "replace", "translate"}

    def __init__(self) -> None:
        super().__init__()
        self.undefined = StrictUndefined
        self.keep_trailing_newline = True
        self.iterations_left = 0
        self.finalize = _measured
        self.filters |= {"_measured": _measured, "_counted": self._counted}

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Calculate, and measure the result of `+`."""
        result = super().call_binop(context, operator, left, right)
        return _measured(result) if operator == "+" else result

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.iterations_left -= 1
            if self.iterations_left < 0:
                raise SecurityError(f"its loops run more than {MAX_ITERATIONS:,} times")
            yield _measured(item)


def _measured(value: Any) -> Any:
    """Return a value, unless it is too large when written out: a list may contain the same list many times."""
    if isinstance(value, list | tuple | dict):
        left, pending = MAX_LENGTH, [value]
        while pending:
            outer = pending.pop()
            for each in (*outer, *outer.values()) if isinstance(outer, dict) else outer:
                left -= len(each) if isinstance(each, str) else 1
                if isinstance(each, list | tuple | dict):
                    pending.append(each)
            if left < 0:
                raise SecurityError("a value is too large")
    elif isinstance(value, str) and len(value) > MAX_OUTPUT:
        raise SecurityError("a text is too large")
    return value


class JinjaTemplate:
    """A compiled template; `uses` are the names it needs.

    `variables` are looked up at every rendering. Raises PayloadError with the place of the fault, in which `origin`
    names the text.
    """

    def __init__(self, sandbox: TemplateSandbox, variables: dict[str, Any], text: str, origin: str) -> None:
        self.text, self.origin = text, origin
        try:
            text.encode()
            tree = sandbox.parse(text)
            _limit(tree)
            tree.set_environment(sandbox)
            self.uses = frozenset(meta.find_undeclared_variables(tree))
            self._assigned = {each.name for each in tree.find_all(nodes.Name) if each.ctx == "store"}
            template = sandbox.from_string(tree)
        except UnicodeEncodeError:
            self._refuse(0, "not UTF-8, which a template must be")
        except (TemplateError, RecursionError) as exc:
            self._refuse(*find_fault(sandbox, text, exc, lambda other: _limit(sandbox.parse(other))))
        self._sandbox = sandbox
        self._pieces = template.root_render_func
        self._context = template.new_context(variables, shared=True)

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse a name that is neither given nor assigned in the template."""
        for name in sorted(self.uses - self._assigned - set(names)):
            found = re.search(rf"\{{[{{%](?:(?!\}}\}}|%\}}).)*?\b{re.escape(name)}\b", self.text, re.DOTALL)
            position = found.end() - len(name) if found else 0
            self._refuse(position, f"{name!r} is not known", f"The variables are {', '.join(sorted(names))}.")

    def render(self) -> str:
        """Render the template. Raises ValueError with the reason it cannot be, which shows nothing of a row."""
        self._sandbox.iterations_left = MAX_ITERATIONS
        try:
            return "".join(_bounded(self._pieces(self._context)))
        except (UndefinedError, SecurityError) as exc:
            raise ValueError(f"{self.origin}: {exc.message}") from exc
        except Exception as exc:  # whatever an operator raises; its text may hold a piece of a row
            raise ValueError(f"{self.origin} has no value: {type(exc).__name__}") from exc
        finally:
            self._context.vars.clear()  # assignments of one message are not seen by the next

    def _refuse(self, position: int, message: str, advice: str = "") -> NoReturn:
        where = Location(self.origin).after(self.text[:position])
        raise error_at(where, message, advice, summary="Bad template")


def _bounded(pieces: Iterable[str]) -> Iterator[str]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_OUTPUT:
            raise SecurityError(f"it writes more than {MAX_OUTPUT:,} characters")
        yield piece


def _limit(tree: nodes.Template) -> None:
    """Refuse statements that can run without end, and have loops counted and assignments measured."""
    for statement in tree.find_all(nodes.Stmt):
        if not isinstance(statement, _STATEMENTS) or getattr(statement, "recursive", False):
            message = "a template may contain if, for (not recursive) and set, and no other statement"
            raise TemplateSyntaxError(message, statement.lineno)
        if isinstance(statement, nodes.For):
            statement.iter = _filtered(statement.iter, "_counted")
        elif isinstance(statement, nodes.Assign):
            statement.node = _filtered(statement.node, "_measured")


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(cast("nodes.Expr", node), name, [], [], None, None, lineno=node.lineno)
