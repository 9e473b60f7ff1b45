"""The benchmark of contracts: small orders, published and consumed with and without a schema that they keep.

    python -m tests.benchmarks.contracts [--quick] [--write docs/performance.md]

Each run is a process of its own, on one queue of one private node; the contestants take turns, in an order that changes
each round, and what each published or consumed is counted. Exits 1 if a requirement is not met.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import rmqkit
from tests.benchmarks.benchmark import BenchmarkNode, main, rate_row, require_ratio, run_in_turns
from tests.benchmarks.clients import RMQKIT
from tests.benchmarks.results import Requirement

COUNT = 100_000
QUEUE = "bench"
ORDER = (
    '{"id": "ord-%06d", "customer": "Ada", "lines": [{"sku": "A-1", "quantity": 2}], "total": 19.9, "express": false}'
)
XML_ORDER = '<order id="%06d"><customer>Ada</customer><line sku="A-1" quantity="2"/><total>19.9</total></order>'
TEXT = {"type": "string", "minLength": 1}
LINE = {"type": "object", "required": ["sku", "quantity"], "properties": {"sku": TEXT, "quantity": {"minimum": 1}}}
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["id", "customer", "lines", "total"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string", "pattern": "^ord-[0-9]+$"},
        "customer": TEXT,
        "lines": {"type": "array", "minItems": 1, "items": LINE},
        "total": {"type": "number", "minimum": 0},
        "express": {"type": "boolean"},
    },
}
XSD = """<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="order"><xs:complexType>
  <xs:sequence>
    <xs:element name="customer" type="xs:string"/>
    <xs:element name="line" maxOccurs="unbounded"><xs:complexType>
      <xs:attribute name="sku" type="xs:string" use="required"/>
      <xs:attribute name="quantity" type="xs:positiveInteger" use="required"/>
    </xs:complexType></xs:element>
    <xs:element name="total" type="xs:decimal"/>
  </xs:sequence>
  <xs:attribute name="id" type="xs:string" use="required"/>
</xs:complexType></xs:element></xs:schema>"""


@dataclass(frozen=True)
class Contestant:
    """Flags of `rmqkit publish` or `consume`, in a folder with the files they name."""

    name: str
    command: tuple[str, ...]

    def __str__(self) -> str:
        return self.name


def _publish(name: str, file: str, *how: str) -> Contestant:
    return Contestant(f"publish {name}", ("publish", "-q", QUEUE, "--lines", file, *how))


def _consume(name: str, *how: str) -> Contestant:
    return Contestant(f"consume {name}", ("consume", QUEUE, "-n", "{count}", *how))


PLAIN = _publish("JSON, unchecked", "orders.jsonl")
STRICT = _publish("JSON, `--format json`", "orders.jsonl", "--format", "json")
JSON = _publish("JSON, `--schema order.json`", "orders.jsonl", "--schema", "order.json")
PLAIN_XML = _publish("XML, unchecked", "orders.xml")
XML = _publish("XML, `--schema order.xsd`", "orders.xml", "--schema", "order.xsd")
PRINT = _consume("JSON, unchecked")
CHECK = _consume("JSON, `--schema order.json`", "--schema", "order.json")
CONTESTANTS = (PLAIN, STRICT, JSON, PLAIN_XML, XML, PRINT, CHECK)
# The median rate must be so many times that of the other.
RATIOS = ((JSON, PLAIN, 0.5),)


def run(contestant: Contestant, node: BenchmarkNode, count: int) -> float:
    """Let a contestant do its work; return messages a second."""
    if contestant in (PRINT, CHECK):
        with rmqkit.connect(node.url) as connection:
            connection.publish(rmqkit.Message((ORDER % number).encode(), QUEUE) for number in range(count))
    command = [RMQKIT, *(part.format(count=count) for part in contestant.command), "--json"]
    done = subprocess.run(command, env=node.env, cwd=node.folder, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr.decode()}")
    consumed = contestant in (PRINT, CHECK)
    printed = done.stderr if consumed else done.stdout
    report = json.loads(printed[printed.index(b"{") :])  # after warnings
    if report["acknowledged" if consumed else "confirmed"] != count:
        sys.exit(f"{contestant} did not do all: {report}")
    if not consumed:
        with rmqkit.connect(node.url) as connection:
            for _ in connection.consume(QUEUE, count=count):
                pass
    return count / float(report["seconds"])


def measure_all(node: BenchmarkNode) -> tuple[list[str], list[Requirement]]:
    folder, count = node.folder, COUNT // 5 if node.quick else COUNT
    (folder / "orders.jsonl").write_text("".join(ORDER % number + "\n" for number in range(count)))
    (folder / "orders.xml").write_text("".join(XML_ORDER % number + "\n" for number in range(count)))
    (folder / "order.json").write_text(json.dumps(SCHEMA))
    (folder / "order.xsd").write_text(XSD)
    with rmqkit.connect(node.url) as connection:
        connection.apply(rmqkit.Topology(queues=(rmqkit.Queue(QUEUE),)))
    rates = run_in_turns(CONTESTANTS, node.rounds, lambda each: run(each, node, count), "/s")
    table = [f"| {count:,} orders of about 110 bytes | median /s | slowest to fastest /s |", "|---|---:|---:|"]
    table += [rate_row(each, found) for each, found in rates.items()]
    return table, [require_ratio(rates, *each) for each in RATIOS]


if __name__ == "__main__":
    sys.exit(main(measure_all, "Measure what contracts cost.", "one round of a fifth of the messages"))
