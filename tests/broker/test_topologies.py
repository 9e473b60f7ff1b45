"""The shipped topologies, and arguments of every kind, on a real broker."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

import rmqkit
from rmqkit import Outcome, exit_codes
from rmqkit.amqp import entity_methods
from rmqkit.amqp.reconnecting_connection import ReconnectingConnection
from rmqkit.options import ApplyOptions
from rmqkit.settings import Settings, load_settings
from rmqkit.topology.examples import example_names
from rmqkit.topology.file.loader import loads
from tests.conftest import Broker
from tests.support.versions import version

LOCATOR_REFUSED = (4, 3)  # x-queue-master-locator
CASES = Path(__file__).parents[1] / "cases" / "valid"


@pytest.fixture
def settings(broker: Broker, vhost_url: str) -> Settings:
    """The way to a fresh virtual host, and to the HTTP API, which policies need."""
    return load_settings([vhost_url], api_url=broker.api_url)


@pytest.mark.parametrize("file", example_names().values(), ids=example_names().keys())
def test_a_shipped_topology_is_applied_twice_and_accepts_a_message(settings: Settings, file: Path) -> None:
    topology = rmqkit.load(file)
    with rmqkit.connect(settings=settings) as connection:
        first, second = connection.apply(topology), connection.apply(topology)
        assert Outcome.UNCHANGED not in {step.outcome for step in first.steps}
        assert {step.outcome for step in second.steps} <= {Outcome.UNCHANGED, Outcome.DECLARE}
        target = topology.publish
        assert target is not None
        headers = {  # what a headers exchange asks for
            name: value
            for binding in topology.bindings
            for name, value in binding.arguments.items()
            if not name.startswith("x-")
        }
        properties = rmqkit.Properties(headers=headers)
        report = connection.publish(rmqkit.Message(b"x", target.routing_key, target.exchange, properties))
        assert report.confirmed == 1


def test_all_shipped_topologies_coexist(settings: Settings) -> None:
    with rmqkit.connect(settings=settings) as connection:
        assert connection.apply(rmqkit.load(*example_names().values())).applied


@pytest.mark.unguessed_api
def test_arguments_of_every_kind_round_trip(broker: Broker, vhost_url: str) -> None:
    topology = rmqkit.load(CASES / "arguments_of_every_kind.yaml")
    wanted = {"bounded", "timed", "agreed", "others"}  # the rest needs plugins, or more than one node
    if version(broker) >= LOCATOR_REFUSED:
        wanted.remove("agreed")
    queues = tuple(queue for queue in topology.queues if queue.name in wanted)
    assert len(queues) == len(wanted)
    with rmqkit.connect(vhost_url) as connection:
        assert connection.apply(rmqkit.Topology(queues=queues)).applied
        steps = connection.apply(rmqkit.Topology(queues=queues)).steps
        assert {step.outcome for step in steps} == {Outcome.UNCHANGED}


@pytest.mark.parametrize(
    ("text", "subject", "advice"),
    [
        ("exchanges: {first: {}, delayed: {type: x-delayed-message}}", "exchange 'delayed'", "rabbitmq-plugins"),
        (
            "exchanges: {first: {}}\nqueues: {located: {arguments: {x-queue-master-locator: min-masters}}}",
            "queue 'located'",
            "docs/deprecated-features",
        ),
    ],
)
def test_a_refusal_names_its_entity_even_if_it_closes_the_connection(
    broker: Broker, vhost_url: str, text: str, subject: str, advice: str
) -> None:
    if "locator" in text and version(broker) < LOCATOR_REFUSED:
        return  # accepted
    topology = loads(text)
    connection = ReconnectingConnection(load_settings([vhost_url]), "test")
    with closing(connection), pytest.raises(rmqkit.Refused) as caught:
        list(entity_methods.declare_all(connection, [*topology.exchanges, *topology.queues]))
    assert caught.value.subject == subject
    assert advice in caught.value.advice
    with rmqkit.connect(vhost_url) as facade:
        with pytest.raises(rmqkit.Refused):
            facade.apply(topology)
        assert facade.publish(rmqkit.Message(b"x", "test"), check=False).published == 1


@pytest.mark.parametrize("exists", [False, True])
def test_an_exchange_type_that_the_broker_does_not_know_is_found_before_anything_is_declared(
    settings: Settings, exists: bool
) -> None:
    wanted = loads("exchanges: {first: {}, delayed: {type: x-delayed-message}, odd: {type: x-odd}}", "d.yaml")
    options = ApplyOptions(replace=exists)
    with rmqkit.connect(settings=settings) as connection:
        if exists:
            connection.apply(loads("exchanges: {delayed: {}, odd: {}}"))
            assert [step.name for step in connection.plan(wanted).conflicts] == ["delayed", "odd"]
        planned = connection.plan(wanted, options=options)
        assert [step.name for step in planned.unsupported] == ["delayed", "odd"]
        assert exit_codes.exit_code(planned) == exit_codes.REFUSED
        with pytest.raises(rmqkit.Refused, match="2 exchanges of an unknown type; nothing was changed") as caught:
            connection.apply(wanted, options=options)
        first, second = caught.value.problems
        assert str(first).startswith("d.yaml:1:24: exchange 'delayed': the broker does not know exchange type")
        assert "`rabbitmq-plugins enable rabbitmq_delayed_message_exchange`" in first.advice
        assert "`rabbitmq-plugins list`" in second.advice
        assert "first" not in {each.name for each in connection.live().topology.exchanges}
        assert len(connection.destroy(wanted, dry_run=True).changes) == 2 * exists


@pytest.mark.unguessed_api
@pytest.mark.parametrize("exists", [False, True])
def test_over_amqp_alone_an_unknown_exchange_type_is_found_and_nothing_is_created(
    settings: Settings, vhost_url: str, *, exists: bool
) -> None:
    text = "exchanges: {first: {}, delayed: {type: x-delayed-message}, odd: {type: classic}, same: {type: topic}}"
    wanted = loads(text, "d.yaml")
    with rmqkit.connect(settings=settings) as seeing, rmqkit.connect(vhost_url) as blind:
        if exists:
            seeing.apply(loads("exchanges: {delayed: {type: fanout}, odd: {durable: false}, same: {type: topic}}"))
        before = seeing.live().topology
        temporary = blind.subscribe("amq.fanout")  # deleted with the connection
        planned = blind.plan(wanted)
        assert [step.name for step in planned.unsupported] == ([] if exists else ["delayed", "odd"])
        types = [(step.name, step.remarks) for step in planned.conflicts]
        assert (
            types
            == [
                ("delayed", "type: fanout on the broker, x-delayed-message in the topology"),
                ("odd", "type: direct on the broker, classic in the topology"),
            ]
            * exists
        )
        with pytest.raises(rmqkit.Refused, match="nothing was changed"):
            blind.apply(wanted)
        assert seeing.live().topology.exchanges == before.exchanges
        assert blind.queue_state(temporary).ready == 0
