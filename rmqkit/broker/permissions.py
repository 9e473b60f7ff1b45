"""Which permission a user lacked, and what grants it.

Comes in: the broker's words about a refusal (403), and the AMQP method that was refused. Goes out: advice. Room:
broker.

What a method takes stands in https://www.rabbitmq.com/docs/access-control#authorisation; RabbitMQ up to 3.10 does not
say it, newer ones do.
"""

from __future__ import annotations

import re
import shlex

PUBLISH = (60, 40)  # class and method of AMQP 0-9-1
_DECLARES = {(40, 10), (50, 10)}
_READS = {(50, 30), (60, 20), (60, 70)}  # queue.purge, basic.consume, basic.get
_QUEUE_BINDINGS = {(50, 20), (50, 50)}
_EXCHANGE_BINDINGS = {(40, 30), (40, 40)}
_WORDS = re.compile(
    r"ACCESS_REFUSED - (?:(?P<permission>configure|write|read) )?access to (?:topic '(?P<topic>.*)' in (?:exchange )?)?"
    r"(?P<kind>exchange|queue) '(?P<name>.*)' in vhost '(?P<vhost>.*)' refused for user '(?P<user>.*?)'"
)

_RANDOM = re.compile(r"[0-9a-f]{32}$")  # how the names of our own temporary queues end


def advice(reply_text: str, method: tuple[int, int], subject: str) -> str:
    """Say which permission is missing and what grants it; empty if it is no permission that is missing.

    `subject` is what the method was about, like `queue 'orders'` or `binding a -> b`.
    """
    found = _WORDS.match(reply_text)
    if found is None:
        return ""
    kind, name, topic = found["kind"], found["name"], found["topic"]
    permission = found["permission"] or _permission(kind, name, topic, method, subject)
    vhost = f"-p {shlex.quote(found['vhost'])}"
    who = f"{vhost} {shlex.quote(found['user'])}"
    if topic is not None:
        what = f"the topic permission {permission} for {topic!r} in exchange {name!r}"
        line = f"set_topic_permissions {who} {shlex.quote(name)} {_patterns(permission, topic, 'write', 'read')}"
    else:
        what = f"the permission {permission} on {kind} {name!r}"
        line = f"set_permissions {who} {_patterns(permission, name, 'configure', 'write', 'read')}"
        if permission == "configure" and not found["permission"] and method in _DECLARES:
            what += ", or read, which a dead-letter or alternate exchange takes too"
    there = f"list_{'topic_' if topic is not None else ''}permissions {vhost}"
    return f"The user lacks {what}:\n`rabbitmqctl {line}`\nIt sets all at once; `rabbitmqctl {there}` shows the others."


def _permission(kind: str, name: str, topic: str | None, method: tuple[int, int], subject: str) -> str:
    if method == PUBLISH:
        return "write"
    if method in _READS:
        return "read"
    if method in _QUEUE_BINDINGS:
        return "read" if kind == "exchange" else "write"
    if method in _EXCHANGE_BINDINGS:
        return "read" if topic is not None or f"binding {name} -> " in subject else "write"
    if method in _DECLARES and not subject.endswith(f"{kind} {name!r}"):
        return "write"  # on another exchange: its dead-letter or alternate exchange
    return "configure"


def _patterns(wanted: str, name: str, *permissions: str) -> str:
    """Write the patterns in the order of the command; those that are to be kept in capitals."""
    stem = _RANDOM.sub("", name)
    pattern = shlex.quote(f"^{re.escape(stem)}{'$' if stem == name else ''}")
    return " ".join(pattern if each == wanted else each.upper() for each in permissions)
