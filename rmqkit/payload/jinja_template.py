"""Templates in Jinja2's language that can neither reach out nor run without end.

A template has `{{ expressions }}`, `{% if %}`, `{% for %}` and `{% set %}`, and no other statement, so that it cannot
read files or call itself. The size of variables, the number of loop iterations and the output are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, cast

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError

from rmqkit.errors import Location
from rmqkit.payload.formats import error_at, place
from rmqkit.payload.jinja_sandbox import MAX_LENGTH, ExpressionSandbox, find_fault

MAX_OUTPUT = 16 * 1024 * 1024  # characters; newer brokers accept no larger message (their max_message_size)
MAX_ITERATIONS = 100_000  # of all loops together, for one message
_STATEMENTS = (nodes.Output, nodes.If, nodes.For, nodes.Assign)
_GROWING_FILTERS = ("forceescape", "pprint", "random", "replace", "urlize", "wordwrap", "xmlattr")
_GROWING_METHODS = frozenset(("join", "replace", "translate"))


class TemplateSandbox(ExpressionSandbox):
    """The sandbox of templates: stricter than that of expressions, and a missing name is an error."""

    intercepted_binops = ExpressionSandbox.intercepted_binops | {"+"}

    def __init__(self) -> None:
        super().__init__()
        self.undefined = StrictUndefined
        self.keep_trailing_newline = True
        self.iterations_left = 0
        self.finalize = _measured
        for name in _GROWING_FILTERS:
            self.filters.pop(name, None)
        self.filters |= {"_measured": _measured, "_counted": self._counted}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuse also methods that join or multiply texts."""
        growing = isinstance(obj, str | bytes) and attr in _GROWING_METHODS
        return not growing and super().is_safe_attribute(obj, attr, value)

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
        where = place(self.text[:position], Location(self.origin, 1, 1))
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
