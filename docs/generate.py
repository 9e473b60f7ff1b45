#!/usr/bin/env python3
"""Generate the reference pages in docs/ from the schemas, rules, exit codes and command line they document.

Run `python docs/generate.py` after changing any of these; with `--check` it writes nothing, and exits with 1 if a page
is stale.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rmqkit.cli.command_table import COMMANDS

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script finds only the modules beside it
FOLDER = Path(__file__).parent
WIDTH = 80  # characters in a line of help: what fits into a page of the site, and into most terminals
# Files outside docs/ that are on the site, and their places there.
OTHERS = {
    "CONTRIBUTING.md": "architecture.md",
    "CHANGELOG.md": "changes.md",
    "SECURITY.md": "reporting.md",
    "topologies": "shipped",
}
NOTE = "<!-- Written by docs/generate.py: do not edit. -->\n"


def topology_reference() -> Iterator[str]:
    """Yield the page about topology files."""
    from rmqkit.topology.file.schema import schema  # noqa: PLC0415 - each page imports only its subject

    root = schema()
    definitions = root["$defs"]
    yield f"# Topology files\n\n{root['description']}\n"
    yield (FOLDER / "topology-reference.intro.md").read_text("utf-8")
    yield "## Sections\n"
    yield from _fields(root)
    for name in (
        "exchange",
        "queue",
        "contract",
        "retry",
        "binding",
        "policy",
        "publish",
        "external",
        "service",
        "publication",
        "suppression",
    ):
        definition = definitions[name]
        yield f"## {definition['title']}\n\n{definition['description']}\n"
        yield from _fields(definition)
        arguments = definition["properties"].get("arguments", {})
        if "properties" in arguments:
            yield f"### Arguments of {'an' if name == 'exchange' else 'a'} {name}\n\n{arguments['description']}\n"
            yield from _fields(arguments)


def testing_topologies() -> Iterator[str]:
    """Yield the page about scenarios."""
    from rmqkit.topology.file.schema import SCENARIOS, schema  # noqa: PLC0415

    root = schema(SCENARIOS)
    definitions = root["$defs"]
    yield (FOLDER / "testing-topologies.intro.md").read_text("utf-8")
    publish = definitions["scenario"]["properties"]["publish"]
    for definition in (root, definitions["scenario"], publish, definitions["then"]["items"]):
        yield f"### {definition['title']}\n\n{definition['description']}\n"
        fields = definition["properties"].items()
        known = {name: definitions.get(field.get("$ref", "").removeprefix("#/$defs/"), field) for name, field in fields}
        yield from _fields({**definition, "properties": known})


def _fields(definition: Mapping[str, Any]) -> Iterator[str]:
    rows = ["| name | value | default | meaning |", "|---|---|---|---|"]
    for name, field in definition["properties"].items():
        default = f"`{json.dumps(field['default'])}`" if "default" in field else ""
        if name in definition.get("required", ()):
            default = "required"
        meaning = field["description"]
        if "examples" in field:
            meaning += f" For example {', '.join(f'`{json.dumps(each)}`' for each in field['examples'])}."
        rows.append(f"| `{name}` | {_values(field)} | {default} | {meaning} |")
    yield "\n".join(rows) + "\n"


def _values(field: Mapping[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{each}`" for each in field["enum"])
    nouns = {
        "string": "text",
        "integer": "whole number",
        "boolean": "`true` or `false`",
        "object": "mapping",
        "array": "list",
    }
    kind = field.get("type", "object")
    noun = nouns[kind if isinstance(kind, str) else kind[0]]
    if "maximum" in field:
        return f"{noun}, {field['minimum']} to {field['maximum']}"
    return f"{noun}, {field['minimum']} or more" if "minimum" in field else noun


def lint() -> Iterator[str]:
    """Yield the page about the rules of lint, each with its examples."""
    from rmqkit.topology.lint.rule import rules  # noqa: PLC0415

    yield (FOLDER / "lint.intro.md").read_text("utf-8")
    rows = [f"| [`{rule.code}`](#{rule.code}) | {rule.severity} | {rule.why} |" for rule in rules().values()]
    yield "\n".join(["| code | severity | why it matters |", "|---|---|---|", *rows]) + "\n"
    for rule in rules().values():
        page = f" [RabbitMQ's page]({rule.url})" if rule.url else ""
        release = f" The examples are for `--rabbitmq {rule.release}`." if rule.release else ""
        yield f"## {rule.code}\n\n{rule.severity.title()}. {rule.why}{release}{page}\n"
        yield f"Bad:\n\n```yaml\n{rule.bad}```\n\nGood:\n\n```yaml\n{rule.good}```\n"


class _Placeholders(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return key.upper()


def upgrading() -> Iterator[str]:
    """Yield the page about upgrades, with the facts that findings are made of."""
    from rmqkit.topology.lint.releases import facts  # noqa: PLC0415
    from rmqkit.topology.lint.rule import each_of, rules  # noqa: PLC0415

    yield (FOLDER / "upgrading.intro.md").read_text("utf-8")
    rows = ["| versions | what | finding | measured on |", "|---|---|---|---|"]
    for fact in facts():
        effects = {"refused": fact.refused, "changed": fact.changed, "note": fact.noted}
        versions = "; ".join(f"{effect} {each}" for effect, each in effects.items() if each)
        values = ": " + " or ".join(map(str, fact.find["values"])) if "values" in fact.find else ""
        names = each_of([f"`{name}{values}`" for name in fact.find.get("settings", ())])
        text = f"{names} {fact.fault}" if names else fact.message.format_map(_Placeholders())
        text = text or rules()[fact.rule].why
        source = fact.url or rules()[fact.rule].url
        finding = f"[{fact.rule}](lint.md#{fact.rule})"
        rows.append(f"| {versions} | {text} ([source]({source})) | {finding} | {fact.measured or 'read only'} |")
    yield "\n".join(rows) + "\n"


def exit_codes() -> Iterator[str]:
    """Yield the page about exit codes."""
    from rmqkit.exit_codes import MEANINGS  # noqa: PLC0415

    yield "# Exit codes\n\nEvery `rmqkit` command ends with one of these, so that scripts can tell what happened.\n"
    rows = [f"| {code} | {meaning} |" for code, meaning in MEANINGS.items()]
    yield "\n".join(["| code | meaning |", "|---|---|", *rows]) + "\n"


def command_reference() -> Iterator[str]:
    """Yield the page of the help of every command, as `rmqkit COMMAND --help` prints it."""
    import typer  # noqa: PLC0415

    from rmqkit.cli.app import app, load  # noqa: PLC0415
    from rmqkit.cli.command_table import TOPICS  # noqa: PLC0415

    yield "# Commands\n\nWhat `rmqkit --help` prints, and each command's own help.\n"
    yield _help(typer.main.get_command(app), "rmqkit")
    for name in COMMANDS:
        command = load(name)
        yield f"## rmqkit {name}\n"
        yield _help(command, f"rmqkit {name}")
        for inner, subcommand in getattr(command, "commands", {}).items():
            yield f"### rmqkit {name} {inner}\n"
            yield _help(subcommand, f"rmqkit {name} {inner}")
    for name in TOPICS:
        yield f"## rmqkit help {name}\n"
        yield _help(load(name), f"rmqkit help {name}")


def _help(command: Any, path: str) -> str:
    with command.make_context(
        path, [], resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH
    ) as context:
        lines = [line.rstrip() for line in command.get_help(context).splitlines()]
    return "```text\n" + "\n".join(lines) + "\n```\n"


_KINDS = {  # of arguments, by their names in the help, and of options
    "queue": ("QUEUE", "DESTINATION", "FILE|PATTERN", "--queue", "--to-queue", "--durable"),
    "exchange": ("EXCHANGE", "--exchange", "--to-exchange"),
    "vhost": ("--vhost", "--vhost-a", "--vhost-b"),
    "routing_key": ("--routing-key", "--to-routing-key"),
    "context": ("--context",),
}
_NAMES = {"unsubscribe": "queue"} | {f"context {each}": "context" for each in ("edit", "show", "use", "remove")}


def completion() -> Iterator[str]:
    """Yield the table for rmqkit/cli/completion.py: the kinds of arguments, and those of options with a value."""
    from rmqkit.cli.app import load  # noqa: PLC0415
    from rmqkit.cli.command_table import TOPICS  # noqa: PLC0415

    commands: dict[str, Any] = {}
    for name in (*COMMANDS, *TOPICS):
        command = load(name)
        inner = {f"{name} {each}": subcommand for each, subcommand in getattr(command, "commands", {}).items()}
        commands |= inner or {name: command}
    table = {name: _kinds(name, command.params) for name, command in commands.items()}
    common = table["connection"][1].items()
    rows = [f'"connection": {json.dumps(table.pop("connection"))}']
    for name, (arguments, options) in table.items():
        own = dict(sorted(options.items() - common))
        rows.append(f'"{name}": {json.dumps([arguments, own])}')
    yield "{" + ",\n".join(rows) + "}"


def _kinds(name: str, params: Any) -> tuple[list[str], dict[str, str]]:
    connects = any("--url" in param.opts for param in params)
    offline = ("routing_key", "context")
    kinds = {each: kind for kind, names in _KINDS.items() for each in names if connects or kind in offline}
    arguments = [
        kinds.get((param.metavar or param.name).upper().split("]")[0].strip("[]."), _NAMES.get(name, ""))
        for param in params
        if param.param_type_name == "argument"
    ]
    options = {
        option: next((kinds[each] for each in param.opts if each in kinds), "")
        for param in params
        if param.param_type_name == "option" and not param.is_flag and "--yes" not in param.opts
        for option in param.opts
    }
    return arguments, options


def topologies() -> Iterator[str]:
    """Yield the page of diagrams of the topologies shipped with rmqkit."""
    from rmqkit.topology.diagram import graph, mermaid_dot  # noqa: PLC0415
    from rmqkit.topology.examples import example_names  # noqa: PLC0415
    from rmqkit.topology.file.loader import load  # noqa: PLC0415

    yield "# Diagrams\n\nThe topologies shipped with rmqkit, as `rmqkit graph --format mermaid` draws them.\n"
    for name, path in example_names().items():
        topology = load(path)
        yield f"## {name}\n\n{topology.description} ([{path.name}](../topologies/{path.name}))\n"
        yield f"```mermaid\n{mermaid_dot.mermaid(graph.build_diagram(topology))}```\n"


def services() -> Iterator[str]:
    """Yield the page about services, with the programs of docs/services where it names them."""
    text = (FOLDER / "services.intro.md").read_text("utf-8")
    yield re.sub(r"^<!-- ((\w+)\.(\w+)) -->$", _program, text, flags=re.MULTILINE)


def _program(name: re.Match[str]) -> str:
    language = {"py": "python", "yaml": "yaml"}[name[3]]
    text = (FOLDER / "services" / name[1]).read_text("utf-8")
    return f"[{name[1]}](services/{name[1]}):\n\n```{language}\n{text}```"


def man(name: str) -> Iterator[str]:
    """Yield the man page of a command, or of all if the name is empty."""
    import typer  # noqa: PLC0415

    from docs.man_pages import man_page  # noqa: PLC0415
    from rmqkit.cli.app import app, load  # noqa: PLC0415

    if name:
        yield man_page(f"rmqkit {name}", load(name), COMMANDS[name].help)
    else:
        yield man_page("rmqkit", typer.main.get_command(app), "a messaging toolkit for RabbitMQ")


def shell_completion(shell: str) -> Iterator[str]:
    """Yield the script that completes commands in a shell."""
    from docs.man_pages import completions  # noqa: PLC0415

    yield completions()[shell]


def llms() -> Iterator[str]:
    """Yield the list of pages for language models, as https://llmstxt.org describes it."""
    yield "# rmqkit\n"
    yield "> A messaging toolkit for RabbitMQ: YAML topologies, confirmed publishing, consumers that lose nothing.\n"
    pages, last = sources(), ""
    for section, title, place in nav():
        if section != last:
            yield f"{'' if not last else chr(10)}## {section}\n"
        last = section
        yield f"- [{title}]({place}): {_first_sentence(pages[place].read_text('utf-8'))}" if place in pages else ""


def _first_sentence(markdown: str) -> str:
    paragraphs = (each for each in markdown.split("\n\n") if not re.match(r"\s*(#|<!--|```|\||!\[|1\. |- )|$", each))
    plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(next(paragraphs, "").split()))
    return re.split(r"(?<=[.!?]) ", plain, maxsplit=1)[0].removesuffix(":")


def nav() -> list[tuple[str, str, str]]:
    """Return the pages of docs/mkdocs.yml in their order: section, title, and place on the site."""
    import yaml  # noqa: PLC0415

    decisions = [{_title(page): f"decisions/{page.name}"} for page in sorted(FOLDER.glob("decisions/[0-9]*.md"))]
    found = []
    for part in yaml.safe_load((FOLDER / "mkdocs.yml").read_text("utf-8"))["nav"]:
        for section, pages in part.items():
            for page in pages:
                more = decisions if "decisions/README.md" in page.values() else []
                found += [(section, title, place) for each in (page, *more) for title, place in each.items()]
    return found


def _title(page: Path) -> str:
    return page.read_text("utf-8").split("\n", 1)[0].removeprefix("# ")


def sources() -> dict[str, Path]:
    """Return the pages by their place on the site; a part of a generated page (`*.intro.md`) is none."""
    pages = (page for page in sorted(FOLDER.rglob("*.md")) if not page.name.endswith(".intro.md"))
    others = {place: FOLDER.parent / file for file, place in OTHERS.items() if file.endswith(".md")}
    return {page.relative_to(FOLDER).as_posix(): page for page in pages} | others


def unlisted() -> list[str]:
    """Return what is wrong with the list of pages in docs/mkdocs.yml, one sentence each."""
    listed, pages = [place for _, _, place in nav()], sources()
    missing = [
        f"docs/{place} is not in the nav of docs/mkdocs.yml: add it there" for place in pages if place not in listed
    ]
    return missing + [f"docs/mkdocs.yml lists {place}, which does not exist" for place in listed if place not in pages]


PAGES: Mapping[str, Callable[[], Iterator[str]]] = {
    "topology-reference.md": topology_reference,
    "lint.md": lint,
    "topologies.md": topologies,
    "testing-topologies.md": testing_topologies,
    "exit-codes.md": exit_codes,
    "upgrading.md": upgrading,
    "services.md": services,
    "command-reference.md": command_reference,
    "../rmqkit/cli/completion.json": completion,
    "llms.txt": llms,
    "man/rmqkit.1": partial(man, ""),
    **{f"man/rmqkit-{name}.1": partial(man, name) for name in COMMANDS},
    **{f"completions/rmqkit.{shell}": partial(shell_completion, shell) for shell in ("bash", "zsh", "fish")},
}


def page(name: str) -> str:
    """Return the text of a page."""
    os.environ["NO_COLOR"] = "1"
    return (NOTE + "\n") * name.endswith(".md") + "\n".join(PAGES[name]())


def main(arguments: list[str]) -> int:
    """Write all pages, or check that they are up to date."""
    stale = []
    for name in PAGES:
        path, text = FOLDER / name, page(name)
        if not path.exists() or path.read_text("utf-8") != text:
            stale.append(name)
            if "--check" not in arguments:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, "utf-8")
    old = {page.relative_to(FOLDER).as_posix() for page in FOLDER.glob("man/*")} - PAGES.keys()
    problems = unlisted() + [f"docs/{page} is of no command: remove it" for page in sorted(old)]
    if stale and "--check" in arguments:
        problems.append(f"stale: {', '.join(stale)}; run python docs/generate.py")
    sys.stderr.writelines(f"{each}\n" for each in problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
