"""Contracts on the command line, against a real RabbitMQ: what breaks one is not sent, and leaves with the reason."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

import rmqkit
from tests.conftest import Namespace
from tests.support.cli import COMMAND, Run, Start, parse_report
from tests.support.queues import drain, ready
from tests.support.wait import wait_for_queue, wait_until

SCHEMA = {"type": "object", "properties": {"total": {"type": "number", "minimum": 0}}, "required": ["total"]}
XSD = """<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="total" type="xs:int"/></xs:schema>"""
TOPOLOGY = """
exchanges:
  orders: {type: fanout, contract: {format: json, schema: schemas/order.json}}
queues:
  billing:
    contract: {format: json, schema: schemas/order.json}
    arguments: {x-dead-letter-exchange: failures, x-dead-letter-routing-key: billing.failed}
  plain: {}
  parked: {}
bindings:
  - {source: orders, destination: billing}
  - {source: failures, destination: parked, routing_key: "*.failed"}
publish: {exchange: orders}
"""
GOOD, BAD = b'{"total": 1}', b'{"total": -1, "card": "hunter2"}'
RULE = "/total breaks the rule minimum: 0"


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    (tmp_path / "schemas").mkdir()
    path = tmp_path / "schemas" / "order.json"
    path.write_text(json.dumps(SCHEMA))
    return path


@pytest.fixture
def topology(tmp_path: Path, schema: Path) -> Path:
    assert schema.exists()
    path = tmp_path / "shop.yaml"
    path.write_text(TOPOLOGY.replace("exchanges:\n", "exchanges:\n  failures: {type: topic}\n"))
    return path


def sent(channel: BlockingChannel, queue: str, *bodies: bytes, exchange: str = "", **properties: object) -> None:
    for body in bodies:
        channel.basic_publish(exchange, queue, body, pika.BasicProperties(delivery_mode=2, **properties))
    wait_for_queue(channel, queue, ready=len(bodies))


def test_an_invalid_message_is_forwarded_with_the_reason_and_reported_without_its_body(
    start: Start, channel: BlockingChannel, queue: str, namespace: Namespace, schema: Path
) -> None:
    aside = namespace.queue("aside")
    channel.queue_declare(aside, durable=True)
    sent(channel, queue, GOOD, BAD, GOOD, b"{", headers={"trace": 7, "CC": [queue]}, expiration="600000")
    process = start(queue, "--schema", schema, "--invalid-to", aside, "--idle-timeout", 0.5, "--json")
    stdout, stderr = process.communicate(timeout=90)
    assert (process.returncode, stdout.splitlines()) == (8, [GOOD, GOOD]), stderr
    assert f"message 2: {RULE}; it goes to queue '{aside}' (default exchange) with the reason" in stderr.decode()
    assert b"hunter2" not in stderr
    assert parse_report(stderr)["invalid"] == 2
    wait_for_queue(channel, queue, ready=0, consumers=0)
    method, properties, body = channel.basic_get(aside, auto_ack=True)
    assert method
    assert body == BAD
    assert properties.expiration is None
    assert properties.delivery_mode == 2
    assert properties.headers == {
        "trace": 7,
        "x-rmqkit-reason": f"{RULE} (at 1:11)",
        "x-rmqkit-exchange": "",
        "x-rmqkit-routing-key": queue,
        "x-rmqkit-expiration": "600000",
    }
    assert drain(channel, aside) == [b"{"]


def test_without_a_target_an_invalid_message_is_rejected_and_dead_lettered_by_the_broker(
    start: Start, channel: BlockingChannel, namespace: Namespace, schema: Path
) -> None:
    dead, queue = namespace.queue("dead"), namespace.queue()
    channel.queue_declare(dead, durable=True)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    channel.queue_declare(queue, durable=True, arguments=arguments)
    sent(channel, queue, BAD, GOOD, BAD)
    process = start(queue, "--schema", schema, "--count", 3, "--on-failure", "reject")
    stdout, stderr = process.communicate(timeout=90)
    assert (process.returncode, stdout.splitlines()) == (8, [GOOD])
    assert stderr.decode().count(f"{RULE}; it was rejected. Further failures like this are counted, not shown.") == 1
    assert "Consumed 1 message in" in stderr.decode()
    assert "2 broke the contract (rejected)" in stderr.decode()
    wait_for_queue(channel, dead, ready=2)


def test_a_message_that_cannot_be_forwarded_stays_in_its_queue(
    start: Start, channel: BlockingChannel, queue: str, schema: Path
) -> None:
    sent(channel, queue, BAD)
    process = start(queue, "--schema", schema, "--invalid-to", f"{queue}-none", "--idle-timeout", 5)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 5, stderr
    assert f"{queue}-none" in stderr.decode()
    wait_for_queue(channel, queue, ready=1, consumers=0)


def test_an_unroutable_invalid_message_ends_consuming_and_stays_with_those_after_it(
    live: Run, start: Start, vhost_channel: BlockingChannel, vhost_url: str, topology: Path
) -> None:
    topology.write_text(topology.read_text().replace("*.failed", "none"))
    assert live("apply", topology).returncode == 0
    sent(vhost_channel, "billing", GOOD, BAD, GOOD)
    process = start("billing", "--idle-timeout", 5, RMQKIT_URL=vhost_url)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 6, stderr
    assert (
        "cannot be copied to exchange 'failures', routing key 'billing.failed': it reached no queue" in stderr.decode()
    )
    wait_for_queue(vhost_channel, "billing", consumers=0)
    assert BAD in drain(vhost_channel, "billing")


def test_messages_excluded_by_the_filter_are_not_checked(
    start: Start, channel: BlockingChannel, queue: str, schema: Path
) -> None:
    sent(channel, queue, BAD, b'{"total": 5}', b'{"total": -5}')
    how = ("--filter", "body.total != -1", "--unmatched", "ack", "--idle-timeout", 0.5, "--json")
    process = start(queue, "--schema", schema, *how, "--on-failure", "reject")
    stdout, stderr = process.communicate(timeout=90)
    assert (process.returncode, stdout.splitlines()) == (8, [b'{"total": 5}']), stderr
    counts = parse_report(stderr)
    assert (counts["invalid"], counts["unmatched"], counts["rejected"]) == (1, 1, 1)


def test_workers_check_as_one_consumer_does(
    start: Start, channel: BlockingChannel, queue: str, namespace: Namespace, schema: Path
) -> None:
    aside = namespace.queue("aside")
    channel.queue_declare(aside, durable=True)
    sent(channel, queue, *[GOOD, BAD] * 100)
    how = ("--workers", 2, "--channels", 2, "--idle-timeout", 0.5, "--json")
    process = start(queue, "--schema", schema, "--invalid-to", aside, *how)
    stdout, stderr = process.communicate(timeout=90)
    assert (process.returncode, stdout.splitlines()) == (8, [GOOD] * 100), stderr
    assert parse_report(stderr)["invalid"] == 100
    assert drain(channel, aside) == [BAD] * 100


def test_consume_checks_the_contract_of_the_topology_applied_last(
    live: Run, start: Start, vhost_channel: BlockingChannel, vhost_url: str, topology: Path
) -> None:
    assert live("apply", topology).returncode == 0
    vhost_channel.basic_publish("orders", "o.1", BAD)
    vhost_channel.basic_publish("orders", "o.2", GOOD)
    process = start("billing", "--idle-timeout", 0.5, RMQKIT_URL=vhost_url)
    stdout, stderr = process.communicate(timeout=90)
    assert (process.returncode, stdout.splitlines()) == (8, [GOOD]), stderr
    assert f"Checking against {topology.parent}/schemas/order.json, the contract of queue 'billing'" in stderr.decode()
    method, properties, body = vhost_channel.basic_get("parked", auto_ack=True)
    assert method
    assert (body, method.routing_key) == (BAD, "billing.failed")
    assert properties.headers["x-rmqkit-exchange"] == "orders"
    assert properties.headers["x-rmqkit-routing-key"] == "o.1"
    vhost_channel.basic_publish("", "billing", BAD)
    process = start("billing", "--no-schema", "-n", 1, RMQKIT_URL=vhost_url)
    assert process.communicate(timeout=90)[0].splitlines() == [BAD]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--schema", "none.json"), "none.json: the schema cannot be read: No such file"),
        (("--schema", "order.yaml"), "a schema is a JSON Schema (.json) or an XML Schema (.xsd)"),
        (("--schema", "bad.json"), 'bad.json:1:10: not a JSON Schema: "objekt" is not valid'),
        (("--schema", "schemas/order.json", "--no-schema"), "cannot be combined"),
        (("--invalid-to", "aside"), "--invalid-to requires a contract"),
        (("--schema", "schemas/order.json", "--no-ack"), "--no-ack cannot be combined with a contract"),
        (("--schema", "schemas/order.json", "--invalid-to", "q"), "would return to queue 'q' forever"),
    ],
)
def test_a_bad_schema_ends_consuming_before_it_begins(
    live: Run, schema: Path, arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path = schema.parents[1]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text('{"type": "objekt"}')
    done = live("consume", "q", "--idle-timeout", 0, *arguments)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.replace("│", " ").split())


def test_validate_reads_the_schemas_and_plan_does_not_see_them(live: Run, topology: Path, tmp_path: Path) -> None:
    assert live("validate", topology).returncode == 0
    assert live("apply", topology).returncode == 0
    topology.write_text(
        topology.read_text().replace("contract: {format: json, schema: schemas/order.json}", "durable: true")
    )
    assert live("plan", "--detailed-exit-code", topology).returncode == 0
    (tmp_path / "schemas" / "order.json").write_text('{"type": 1}')
    topology.write_text(TOPOLOGY.replace("exchanges:\n", "exchanges:\n  failures: {type: topic}\n"))
    done = live("validate", topology)
    assert done.returncode == 2
    place = f"{topology}:4:36: the contract of exchange 'orders': {tmp_path}/schemas/order.json:1:10: not a JSON Schema"
    assert place in done.stderr
    assert live("plan", topology).returncode == 0


def test_converting_to_definitions_warns_that_contracts_are_lost(live: Run, topology: Path) -> None:
    done = live("convert", topology, topology.with_suffix(".json"))
    assert done.returncode == 0
    assert "2 contracts" in done.stderr
    assert "contract" not in topology.with_suffix(".json").read_text()


def test_nothing_is_sent_if_one_payload_or_file_breaks_the_contract(
    live: Run, vhost_channel: BlockingChannel, schema: Path, tmp_path: Path
) -> None:
    vhost_channel.queue_declare("q", durable=True)
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "1.json").write_bytes(GOOD)
    (folder / "2.json").write_bytes(b'{\n "total": -1}')
    (folder / "3.txt").write_bytes(b"{}")
    done = live("publish", "-q", "q", "--schema", schema, GOOD.decode(), BAD.decode(), "-f", folder)
    assert done.returncode == 2
    assert f"payload 2:1:11: {RULE}" in done.stderr
    done = live("publish", "-q", "q", "--schema", schema, GOOD.decode(), "-f", folder)
    assert done.returncode == 2
    assert f"{folder}/2.json:2:11: {RULE}" in done.stderr
    assert f'{folder}/3.txt:1:1: the value breaks the rule required: "total"' in done.stderr
    assert "hunter2" not in done.stderr
    assert live("publish", "-q", "q", "--schema", schema, "-n", 3).returncode == 2
    wait_for_queue(vhost_channel, "q", ready=0)
    assert live("publish", "-q", "q", "--schema", schema, GOOD.decode(), "-f", folder / "1.json").returncode == 0
    for _ in range(2):
        method, properties, body = vhost_channel.basic_get("q", auto_ack=True)
        assert method
        assert (body, properties.content_type) == (GOOD, "application/json")


def test_messages_of_a_stream_before_a_broken_contract_are_sent(
    live: Run, vhost_channel: BlockingChannel, schema: Path
) -> None:
    vhost_channel.queue_declare("q", durable=True)
    lines = "\n".join(each.decode() for each in (GOOD, GOOD, BAD, GOOD))
    done = live("publish", "-q", "q", "--schema", schema, "--lines", "-", "--json", stdin=lines + "\n")
    assert done.returncode == 3
    told = json.loads(done.stdout)
    assert (told["confirmed"], told["problems"][0]["line"], told["problems"][0]["column"]) == (2, 3, 11)
    assert drain(vhost_channel, "q") == [GOOD, GOOD]


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (("--template", '{"total": {{ 1 - n }}}', "-n", "3"), "the body made for message 2:1:11"),
        (("--rows", "FOLDER/rows.jsonl"), "the body made for rows.jsonl:2:1:1:"),
        (("--envelopes", "FOLDER/envelopes.jsonl"), "the body in envelopes.jsonl:2:1:1:11"),
    ],
)
def test_templates_rows_and_envelopes_keep_to_the_contract_too(
    live: Run, vhost_channel: BlockingChannel, schema: Path, arguments: tuple[str, ...], place: str
) -> None:
    vhost_channel.queue_declare("q", durable=True)
    folder = schema.parents[1]
    (folder / "rows.jsonl").write_text('{"total": 1}\n{"total": -1}\n')
    bodies = (GOOD.decode(), BAD.decode())
    (folder / "envelopes.jsonl").write_text("".join(json.dumps({"body": body}) + "\n" for body in bodies))
    done = live("publish", "-q", "q", "--schema", schema, *(each.replace("FOLDER", str(folder)) for each in arguments))
    assert done.returncode in (2, 3)
    assert place in done.stderr.replace(f"{folder}/", "")
    assert RULE in done.stderr


def test_publish_checks_the_contract_of_the_topology_applied_last(
    live: Run, vhost_channel: BlockingChannel, topology: Path
) -> None:
    assert live("apply", topology).returncode == 0
    told = f"Checking against {topology.parent}/schemas/order.json, the contract of exchange 'orders' in {topology}."
    done = live("publish", stdin=BAD.decode())
    assert done.returncode == 2
    assert told in done.stderr
    assert live("publish", "-q", "billing", BAD.decode()).returncode == 2
    assert live("publish", "-q", "plain", BAD.decode()).returncode == 0
    envelopes = "".join(
        json.dumps({"exchange": "", "routing_key": key, "body": "{}"}) + "\n" for key in ("plain", "billing")
    )
    done = live("publish", "--envelopes", "-", stdin=envelopes)
    assert (done.returncode, done.stderr.count("Checking against")) == (3, 1)
    assert drain(vhost_channel, "plain") == [BAD, b"{}"]
    assert drain(vhost_channel, "billing") == []
    done = live("publish", "--no-schema", stdin=BAD.decode())
    assert (done.returncode, "Checking" in done.stderr) == (0, False)
    assert drain(vhost_channel, "billing") == [BAD]
    other = topology.with_name("any.json")
    other.write_text("true")
    assert live("publish", "--schema", other, stdin=BAD.decode()).returncode == 0
    done = live("publish", "--format", "text", stdin="x")
    assert done.returncode == 2
    assert "contradicts the contract, which is json" in done.stderr


def test_xml_is_checked_against_an_xml_schema(live: Run, vhost_channel: BlockingChannel, tmp_path: Path) -> None:
    vhost_channel.queue_declare("q", durable=True)
    (tmp_path / "total.xsd").write_text(XSD)
    done = live("publish", "-q", "q", "--schema", tmp_path / "total.xsd", "<total>hunter2</total>")
    assert done.returncode == 2
    assert "payload 1:1:1: /total breaks the rule cvc-datatype-valid" in done.stderr
    assert "hunter2" not in done.stderr
    assert live("publish", "-q", "q", "--schema", tmp_path / "total.xsd", "<total>7</total>").returncode == 0
    assert drain(vhost_channel, "q") == [b"<total>7</total>"]


def test_serve_answers_no_request_that_breaks_the_contract(
    broker_url: str, environment: dict[str, str], queue: str, schema: Path
) -> None:
    command = [*COMMAND, "serve", queue, "--exec", "cat", "--schema", str(schema), "-n", "2"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        with rmqkit.connect(broker_url) as connection:
            assert connection.call(rmqkit.Message(GOOD, queue), timeout_s=20).body == GOOD
            with pytest.raises(rmqkit.RemoteError, match=f"the request breaks its contract: {RULE}") as caught:
                connection.call(rmqkit.Message(BAD, queue), timeout_s=20)
        assert "hunter2" not in str(caught.value)
        assert "hunter2" not in server.communicate(timeout=90)[1]


def test_a_consumer_killed_while_it_forwards_invalid_messages_loses_none(
    start: Start, channel: BlockingChannel, queue: str, namespace: Namespace, schema: Path
) -> None:
    aside = namespace.queue("aside")
    channel.queue_declare(aside, durable=True)
    bodies = [b'{"total": -%d}' % number for number in range(1, 2001)]
    sent(channel, queue, *bodies)
    options = ("--schema", schema, "--invalid-to", aside, "--prefetch", 50)
    killed = start(queue, *options)
    wait_until(lambda: ready(channel, aside))
    killed.kill()
    killed.wait(90)
    wait_for_queue(channel, queue, consumers=0)
    left = channel.queue_declare(queue, passive=True).method.message_count
    assert left, "it was not killed in the middle: have more messages"
    assert start(queue, *options, "--idle-timeout", 0.5).wait(90) == 8
    found = drain(channel, aside)
    assert set(found) == set(bodies)
    assert len(found) - len(bodies) <= 50
    wait_for_queue(channel, queue, ready=0)
