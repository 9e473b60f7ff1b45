"""Templates in Jinja2's language that can neither reach out nor go on for ever.

A template has `{{ expressions }}`, `{% if %}`, `{% for %}` and `{% set %}`, and no other statement: so it cannot read
files or call itself. What a variable holds, how often loops turn and how much is written is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, cast

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError

from rmqkit.errors import Location, PayloadError, Problem
from rmqkit.payload.jinja_sandbox import MAX_LENGTH, Sandbox, find_fault

MAX_OUTPUT = 16 * 1024 * 1024  # characters; newer brokers take no larger message (their max_message_size)
MAX_TURNS = 100_000  # of all loops together, for one message
_STATEMENTS = (nodes.Output, nodes.If, nodes.For, nodes.Assign)
_GROWING_FILTERS = ("forceescape", "pprint", "random", "replace", "urlize", "wordwrap", "xmlattr")
_GROWING_METHODS = frozenset(("join", "replace", "translate"))


class Strict(Sandbox):
    """The sandbox of expressions, stricter: a name that is not there is an error."""

    intercepted_binops = Sandbox.intercepted_binops | {"+"}

    def __init__(self) -> None:
        super().__init__()
        self.undefined = StrictUndefined
        self.keep_trailing_newline = True
        self.turns = 0
        self.finalize = _measured
        for name in _GROWING_FILTERS:
            self.filters.pop(name, None)
        self.filters |= {"_measured": _measured, "_counted": self._counted}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuse also what makes one long text of many."""
        growing = isinstance(obj, str | bytes) and attr in _GROWING_METHODS
        return not growing and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Calculate; what was joined is measured."""
        result = super().call_binop(context, operator, left, right)
        return _measured(result) if operator == "+" else result

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.turns -= 1
            if self.turns < 0:
                raise SecurityError(f"its loops turn more than {MAX_TURNS:,} times")
            yield _measured(item)


def _measured(value: Any) -> Any:
    """Return a value, unless it is too large when written out: lists may hold the same list many times."""
    if isinstance(value, list | tuple | dict):
        left, pending = MAX_LENGTH, [value]
        while pending:
            outer = pending.pop()
            for each in (*outer, *outer.values()) if isinstance(outer, dict) else outer:
                left -= len(each) if isinstance(each, str) else 1
                if isinstance(each, list | tuple | dict):
                    pending.append(each)
            if left < 0:
                raise SecurityError("a value becomes too large")
    elif isinstance(value, str) and len(value) > MAX_OUTPUT:
        raise SecurityError("a text becomes too large")
    return value


class JinjaTemplate:
    """A template, compiled once; `uses` are the names it takes from outside.

    `variables` are looked up whenever it is filled in. Raises PayloadError with the place of the fault; `origin` names
    the text in it.
    """

    def __init__(self, sandbox: Strict, variables: dict[str, Any], text: str, origin: str) -> None:
        self.text, self.origin = text, origin
        try:
            text.encode()
            tree = sandbox.parse(text)
            _bound(tree)
            tree.set_environment(sandbox)
            self.uses = frozenset(meta.find_undeclared_variables(tree))
            self._own = {each.name for each in tree.find_all(nodes.Name) if each.ctx == "store"}
            template = sandbox.from_string(tree)
        except UnicodeEncodeError:
            self._refuse(1, 1, "not UTF-8, which a template has to be")
        except (TemplateError, RecursionError) as exc:
            position, said = find_fault(sandbox, text, exc, lambda other: _bound(sandbox.parse(other)))
            self._refuse(*_line_and_column(text, position), said)
        self._sandbox = sandbox
        self._pieces = template.root_render_func
        self._context = template.new_context(variables, shared=True)

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse a name that nothing has."""
        for name in sorted(self.uses - self._own - set(names)):
            found = re.search(rf"\{{[{{%](?:(?!\}}\}}|%\}}).)*?\b{re.escape(name)}\b", self.text, re.DOTALL)
            place = _line_and_column(self.text, found.end() - len(name) if found else 0)
            self._refuse(*place, f"{name!r} is not known", f"There are {', '.join(sorted(names))}.")

    def render(self) -> str:
        """Fill it in. Raises ValueError that tells why it cannot be, and nothing of a row."""
        self._sandbox.turns = MAX_TURNS
        try:
            return "".join(_bounded(self._pieces(self._context)))
        except (UndefinedError, SecurityError) as exc:
            raise ValueError(f"{self.origin}: {exc.message}") from exc
        except Exception as exc:  # whatever an operator raises; its text may hold a piece of a row
            raise ValueError(f"{self.origin} has no value: {type(exc).__name__}") from exc
        finally:
            self._context.vars.clear()  # what one message's `set` left

    def _refuse(self, line: int, column: int, message: str, advice: str = "") -> NoReturn:
        raise PayloadError("Bad template", problems=[Problem(Location(self.origin, line, column), message, advice)])


def _bounded(pieces: Iterable[str]) -> Iterator[str]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_OUTPUT:
            raise SecurityError(f"it writes more than {MAX_OUTPUT:,} characters")
        yield piece


def _bound(tree: nodes.Template) -> None:
    """Refuse statements that can go on for ever, and have what the others make counted and measured."""
    for statement in tree.find_all(nodes.Stmt):
        if not isinstance(statement, _STATEMENTS) or getattr(statement, "recursive", False):
            raise TemplateSyntaxError("a template has if, for (not recursive) and set, and no other statement",
                                      statement.lineno)  # fmt: skip
        if isinstance(statement, nodes.For):
            statement.iter = _filtered(statement.iter, "_counted")
        elif isinstance(statement, nodes.Assign):
            statement.node = _filtered(statement.node, "_measured")


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(cast("nodes.Expr", node), name, [], [], None, None, lineno=node.lineno)


def _line_and_column(text: str, position: int) -> tuple[int, int]:
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
