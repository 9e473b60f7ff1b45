"""The offline router: what it says of exchanges, headers and dead letters (a real broker agrees in tests/broker)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from rmqkit.errors import PayloadError, TopologyError
from rmqkit.model import Binding, Exchange, Policy, Queue, Target, Topology
from rmqkit.topology.dead_letters import dead_letter, dead_letters, x_death_orders
from rmqkit.topology.file.loader import loads
from rmqkit.topology.matching import matches, matches_topic
from rmqkit.topology.routing import MAX_PATHS, DeathReason, Route, route


def queues(*names: str) -> tuple[Queue, ...]:
    return tuple(map(Queue, names))


@pytest.mark.parametrize(
    ("pattern", "key", "matched"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*", "", False),  # the empty key has no word
        ("#", "", True),
        ("", "", True),
        ("", "a", False),
        ("*.*", ".", True),  # two empty words
        ("*", ".", False),
        ("a.", "a.", True),
        ("a.*", "a.", True),
        ("#.a", "a", True),
        ("#.a.#", "b.a.b", True),
        ("a.#.z", "a.z", True),
        ("a.#.z", "a.b.c.z", True),
        ("a.#.z", "a.b.c", False),
        ("#.#", "", True),
        ("*.#.*", "a", False),
        ("*.#.*", "a.b", True),
        ("a*", "ab", False),  # a star is a word, not a part of one
        ("*", "#", True),
    ],
)
def test_topic_patterns_match_word_by_word(pattern: str, key: str, matched: bool) -> None:
    assert matches_topic(pattern, key) is matched


def test_a_pattern_of_many_hashes_is_matched_quickly() -> None:
    assert not matches_topic(".".join(["#", "a"] * 60), ".".join(["a"] * 59))


@pytest.mark.parametrize(
    ("arguments", "headers", "matched"),
    [
        ({}, {}, True),
        ({"a": 1}, {"a": 1, "b": 2}, True),  # without x-match all has to be there
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"x-match": "any", "a": 1, "b": 2}, {"a": 1}, True),
        ({"x-match": "any"}, {"a": 1}, False),
        ({"x-match": "any", "a": 1}, {"a": 2}, False),
        ({"a": "1"}, {"a": 1}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": "x"}, {"a": b"x"}, True),  # text and bytes are the same bytes
        ({"a": None}, {"a": "anything"}, True),
        ({"a": None}, {}, False),
        ({"a": ""}, {"a": None}, False),
        ({"a": [1]}, {"a": [1]}, True),
        ({"a": [1]}, {"a": [True]}, False),
        ({"a": []}, {"a": {}}, True),  # what is empty has no type
        ({"a": ["x"]}, {"a": [b"x"]}, False),
        ({"a": {"k": 1, "l": 2}}, {"a": {"l": 2, "k": 1}}, False),  # a table within a table has an order
        ({"a": Decimal("0.5")}, {"a": Decimal("0.5")}, True),
        ({"x-a": 1}, {}, True),  # not looked at
        ({"x-match": "all-with-x", "x-a": 1}, {}, False),
        ({"x-match": "all-with-x", "x-a": 1}, {"x-a": 1}, True),
        ({"x-match": "any-with-x", "x-a": 1, "b": 1}, {"x-a": 1}, True),
        ({"x-match": "any", "x-a": 1}, {"x-a": 1}, False),
        ({"a": 1}, {"a": 1.0}, None),  # equal before RabbitMQ 3.13
        ({"a": 1}, {"a": 1.5}, False),
        ({"a": 1}, {"a": datetime(2026, 1, 1, tzinfo=UTC)}, None),
        ({"x-match": "any", "a": 1, "b": 1}, {"a": 1.0, "b": 1}, True),
        ({"a": 1, "b": 1}, {"a": 1.0, "b": 2}, False),
    ],
)
def test_headers_match_by_value_and_type(arguments: dict[str, Any], headers: dict[str, Any], matched: bool) -> None:
    assert matches("headers", Binding("e", "q", arguments=arguments), ("",), headers) is matched


def test_a_queue_gets_one_copy_however_many_paths_lead_to_it() -> None:
    topology = loads("""
        exchanges: {in: {type: topic}, all: {type: fanout}}
        queues: {q: {}}
        bindings:
          - {source: in, destination: q, routing_key: "*"}
          - {source: in, destination: q, routing_key: "a"}
          - {source: in, destination: all, destination_type: exchange, routing_key: "#"}
          - {source: all, destination: q}
          - {source: all, destination: in, destination_type: exchange}
    """)
    found = route(topology, Target("in", "a"))
    assert found.queues == ("q",)
    assert [[leg.destination for leg in path] for path in found.paths] == [["q"], ["q"], ["all", "q"]]


def test_endless_paths_are_listed_up_to_a_limit() -> None:
    """Thirty exchanges, two bindings between each and the next: a thousand million ways."""
    bindings = [
        Binding(f"e{each}", f"e{each + 1}", "exchange", "", {"way": way}) for each in range(30) for way in range(2)
    ]
    exchanges = tuple(Exchange(f"e{each}", "fanout") for each in range(31))
    wide = tuple(Binding("e1", "q", arguments={"n": each}) for each in range(1200))
    topology = Topology(exchanges=exchanges, queues=queues("q"), bindings=(*bindings, *wide, Binding("e30", "q")))
    found = route(topology, Target("e0"))
    assert found.queues == ("q",)
    assert len(found.paths) == MAX_PATHS


def test_cc_and_bcc_are_routing_keys_and_bcc_is_removed_from_the_headers() -> None:
    topology = Topology(
        exchanges=(Exchange("h", "headers"),),
        queues=queues("a", "b", "c", "d"),
        bindings=(Binding("h", "a", arguments={"CC": None}), Binding("h", "b", arguments={"BCC": None})),
    )
    extra = {"CC": ["b", 1], "BCC": ["c", "nowhere"]}
    assert route(topology, Target("", "a"), extra).queues == ("a", "b", "c")
    assert route(topology, Target("h"), extra).queues == ("a",)
    with pytest.raises(PayloadError, match="CC"):
        route(topology, Target("", "a"), {"CC": "b"})


def test_an_alternate_exchange_gets_only_messages_that_no_binding_matches() -> None:
    topology = loads("""
        exchanges:
          outer: {type: fanout, arguments: {alternate-exchange: rest}}
          inner: {arguments: {alternate-exchange: rest}}
          rest: {type: fanout}
        queues: {known: {}, other: {}}
        bindings:
          - {source: outer, destination: inner, destination_type: exchange}
          - {source: inner, destination: known, routing_key: known}
          - {source: rest, destination: other}
    """)
    assert route(topology, Target("outer", "known")).queues == ("known",)
    assert route(topology, Target("outer", "x")).queues == ("other",)


@pytest.mark.parametrize("name", [["rest"], {"rest": 1}, 5, None])
def test_an_alternate_exchange_whose_name_is_no_text_receives_nothing(name: object) -> None:
    topology = Topology(exchanges=(Exchange("in", arguments={"alternate-exchange": name}), Exchange("rest", "fanout")))
    assert route(topology, Target("in", "x")).unroutable


def test_a_policy_may_set_an_alternate_exchange_that_does_not_exist() -> None:
    policy = Policy("ae", "^in$", {"alternate-exchange": "rest"}, "exchanges")
    rest = Exchange("rest", "fanout")
    topology = Topology(
        exchanges=(Exchange("in"), rest), queues=queues("q"), bindings=(Binding("rest", "q"),), policies=(policy,)
    )
    assert route(topology, Target("in")).queues == ("q",)
    missing = route(Topology(exchanges=(Exchange("in"),), policies=(policy,)), Target("in"))
    assert missing.unroutable
    assert missing.why == "there is no exchange 'rest'"


@pytest.mark.parametrize("exchange", ["nowhere", "inside", "amq.rabbitmq.trace"])
def test_publishing_where_clients_cannot_is_an_error(exchange: str) -> None:
    with pytest.raises(TopologyError, match=exchange):
        route(Topology(exchanges=(Exchange("inside", internal=True),)), Target(exchange))


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (Target("", "biling"), "there is no queue 'biling'; the nearest is 'billing'"),
        (Target("empty"), "nothing is bound to exchange 'empty'"),
        (
            Target("in", "ordr"),
            "no binding of exchange 'in' (direct) matches routing key 'ordr'; the nearest is 'order'",
        ),
        (Target("by-header"), "no binding of exchange 'by-header' matches the headers"),
        (Target("circle"), "exchange 'circle' leads in a cycle"),
    ],
)
def test_an_unroutable_message_is_explained(target: Target, why: str) -> None:
    topology = Topology(
        exchanges=(Exchange("in"), Exchange("empty"), Exchange("by-header", "headers"), Exchange("circle", "fanout")),
        queues=queues("billing"),
        bindings=(
            Binding("in", "billing", routing_key="order"),
            Binding("by-header", "billing", arguments={"a": 1}),
            Binding("circle", "circle", "exchange"),
        ),
    )
    found = route(topology, target)
    assert (found.unroutable, found.queues, found.why) == (True, (), why)


def test_facts_only_a_broker_knows_are_reported_as_unknown() -> None:
    topology = Topology(
        exchanges=(Exchange("in", "fanout"), Exchange("hash", "x-consistent-hash")),
        queues=queues("q"),
        bindings=(
            Binding("in", "theirs", "exchange"),
            Binding("in", "hash", "exchange"),
            Binding("hash", "q", routing_key="1"),
            Binding("in", "their queue"),
        ),
        external_exchanges=("theirs",),
        external_queues=("their queue",),
    )
    found = route(topology, Target("in"))
    assert found.queues == ("their queue",)
    assert [word for word in ("theirs", "hash") if any(word in each for each in found.unknown)] == ["theirs", "hash"]
    only = route(topology, Target("hash"))
    assert (only.queues, only.unroutable) == ((), False)
    assert "is unknown" in dead_letter(topology, found, "their queue", "rejected").unknown[0]


# Dead letters.


def dying(**arguments: Any) -> Topology:
    """A queue q with these arguments, its dead letters going to a queue dead."""
    more = {f"x-{name.replace('_', '-')}": value for name, value in arguments.items()}
    own = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    return Topology(queues=(Queue("q", arguments=own | more), Queue("dead")))


CAME = Route("", ("q",), queues=("q",))


@pytest.mark.parametrize(
    ("arguments", "reasons"),
    [
        ({}, "rejected"),
        ({"message_ttl": 0}, "rejected expired"),
        ({"max_length": 1}, "rejected maxlen"),
        ({"max_length_bytes": 1, "overflow": "drop-head"}, "rejected maxlen"),
        ({"max_length": 1, "overflow": "reject-publish"}, "rejected"),
        ({"max_length": 1, "overflow": "reject-publish-dlx"}, "rejected maxlen"),
        ({"queue_type": "quorum"}, "rejected delivery_limit"),
        ({"queue_type": "quorum", "delivery_limit": -1}, "rejected"),
        ({"queue_type": "stream"}, ""),
    ],
)
def test_a_message_leaves_a_queue_for_the_reasons_its_arguments_make_possible(
    arguments: dict[str, Any], reasons: str
) -> None:
    told = [letter for letter in dead_letters(dying(**arguments), CAME) if letter.queue == "q"]
    assert [list(letter.reasons) for letter in told] == ([reasons.split()] if reasons else [])
    assert all(letter.route.queues == ("dead",) for letter in told)


def test_a_reason_that_cannot_occur_in_a_queue_is_explained() -> None:
    assert "no length limit" in dead_letter(dying(), CAME, "q", "maxlen").why
    full = dying(max_length=1, overflow="reject-publish")
    assert "rejects new messages" in dead_letter(full, CAME, "q", "maxlen").why
    assert "no delivery limit" in dead_letter(dying(), CAME, "q", "delivery_limit").why
    assert "stream" in dead_letter(dying(queue_type="stream"), CAME, "q", "rejected").why


def test_without_a_dead_letter_exchange_a_message_is_dropped() -> None:
    assert dead_letter(Topology(queues=queues("q")), CAME, "q", "rejected").why.startswith("dropped: queue 'q' has no")
    topology = Topology(queues=(Queue("q", arguments={"x-dead-letter-exchange": "nowhere"}),))
    assert dead_letter(topology, CAME, "q", "rejected").why == "dropped: there is no exchange 'nowhere'"


def test_an_at_least_once_queue_keeps_an_unroutable_dead_letter() -> None:
    own = {"x-queue-type": "quorum", "x-dead-letter-exchange": "nowhere", "x-dead-letter-strategy": "at-least-once"}
    weak = Topology(queues=(Queue("q", arguments=own),))
    safe = Topology(queues=(Queue("q", arguments=own | {"x-overflow": "reject-publish"}),))
    assert dead_letter(weak, CAME, "q", "rejected").why.startswith("dropped")
    assert dead_letter(safe, CAME, "q", "rejected").why.startswith("kept in queue 'q'")


def test_dead_letters_keep_all_their_routing_keys_unless_the_queue_has_one_for_them() -> None:
    topology = Topology(
        exchanges=(Exchange("dlx"),),
        queues=(
            Queue("keep", arguments={"x-dead-letter-exchange": "dlx"}),
            Queue("one", arguments={"x-dead-letter-exchange": "dlx", "x-dead-letter-routing-key": "1"}),
            *queues("a", "b", "c"),
        ),
        bindings=tuple(
            Binding("dlx", queue, routing_key=key) for queue, key in [("a", "keep"), ("b", "bcc"), ("c", "1")]
        ),
    )
    came = route(topology, Target("", "keep"), {"CC": ["one"], "BCC": ["bcc"]})
    assert dead_letter(topology, came, "keep", "rejected").queues == ("a", "b")
    assert dead_letter(topology, came, "one", "rejected").queues == ("c",)


def test_a_policy_may_set_the_target_of_dead_letters() -> None:
    policy = Policy("dlx", ".", {"dead-letter-exchange": "", "dead-letter-routing-key": "dead", "message-ttl": 5})
    topology = Topology(queues=queues("q", "dead"), policies=(policy,))
    told = dead_letters(topology, CAME)
    assert (told[0].queue, told[0].reasons) == ("q", ("rejected", "expired"))
    assert told[-1].cycles == (("dead", "dead"),)


def test_the_effect_of_an_unreadable_policy_is_unknown() -> None:
    odd = Policy("odd", "[[:alpha:]]", {"dead-letter-exchange": "", "alternate-exchange": "rest"})
    topology = Topology(
        exchanges=(Exchange("in"), Exchange("own", arguments={"alternate-exchange": "in"}), Exchange("rest", "fanout")),
        queues=(*queues("q", "dead"), Queue("history", arguments={"x-queue-type": "stream"})),
        bindings=(Binding("in", "q", routing_key="q"),),
        policies=(odd,),
    )
    assert (route(topology, Target("in", "q")).queues, route(topology, Target("in", "q")).unknown) == (("q",), ())
    for exchange in ("in", "own"):
        (sentence,) = route(topology, Target(exchange, "x")).unknown
        assert "policy 'odd' applies to 'in' is unknown" in sentence
    elsewhere = replace(topology, policies=(Policy("odd", "[[:alpha:]]", {"max-length": 5}),))
    assert route(elsewhere, Target("in", "x")).unroutable  # no policy has an alternate exchange
    (sentence,) = dead_letter(topology, CAME, "q", "rejected").unknown
    assert "policy 'odd' applies to 'q' is unknown" in sentence
    assert dead_letters(topology, CAME)[0].reasons == ("rejected", "expired", "maxlen", "delivery_limit")
    assert not dead_letter(topology, CAME, "history", "rejected").unknown  # the policy is for no stream


def retrying() -> Topology:
    """A work queue whose rejected messages wait in another, and come back when they expire."""
    return loads("""
        queues:
          work: {arguments: {x-dead-letter-exchange: "", x-dead-letter-routing-key: wait, x-message-ttl: 9}}
          wait: {arguments: {x-dead-letter-exchange: "", x-dead-letter-routing-key: work, x-message-ttl: 9}}
    """)


def test_a_cycle_is_completed_after_a_rejection_and_broken_without_one() -> None:
    topology = retrying()
    came = route(topology, Target("", "work"))
    again = dead_letter(topology, dead_letter(topology, came, "work", "rejected"), "wait", "expired")
    assert again.queues == ("work",)
    broken = dead_letter(topology, dead_letter(topology, came, "work", "expired"), "wait", "expired")
    assert (broken.queues, broken.cycles) == ((), (("work", "wait", "work"),))
    assert broken.why == "dropped: the cycle work -> wait -> work has no rejection in it"


def through(topology: Topology, *deaths: tuple[str, DeathReason]) -> Route:
    found = route(topology, Target("", deaths[0][0]))
    for queue, reason in deaths:
        found = dead_letter(topology, found, queue, reason)
    return found


def test_a_cycle_that_only_some_versions_break_is_unknown() -> None:
    topology = loads("""
        queues:
          a: {arguments: {x-dead-letter-exchange: "", x-dead-letter-routing-key: b}}
          b: {arguments: {x-dead-letter-exchange: "", x-dead-letter-routing-key: a}}
    """)
    way: list[tuple[str, DeathReason]] = [("a", "rejected"), ("b", "expired"), ("a", "expired")]
    assert through(topology, *way[:2]).queues == ("a",)
    third = through(topology, *way)  # 3.12 and before hold the rejection for newer than b's expiry
    assert (third.queues, third.cycles, third.unroutable) == ((), (), False)
    assert third.unknown == ("whether RabbitMQ drops it before queue 'b', as a cycle, depends on its version",)
    assert x_death_orders(third.deaths) == (
        (("a", "expired"), ("a", "rejected"), ("b", "expired")),
        (("a", "expired"), ("b", "expired"), ("a", "rejected")),
    )


def test_an_at_least_once_queue_keeps_a_message_caught_in_a_cycle() -> None:
    policy = {"dead-letter-strategy": "at-least-once", "overflow": "reject-publish", "delivery-limit": 1}
    own = {"x-queue-type": "quorum", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"}
    topology = Topology(queues=(Queue("q", arguments=own),), policies=(Policy("safe", "q", policy, "queues"),))
    onward = through(topology, ("q", "delivery_limit"))
    assert onward.why == "kept in queue 'q' until a queue takes it: the cycle q -> q has no rejection in it"


@pytest.mark.parametrize(
    ("source", "certain"),
    [
        ({"x-queue-type": "classic"}, False),
        ({"x-queue-type": "quorum"}, False),
        ({"x-queue-type": "quorum", "x-dead-letter-strategy": "at-least-once"}, False),
        ({"x-queue-type": "quorum", "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}, True),
    ],
)
def test_whether_a_stream_gets_dead_letters_is_certain_from_at_least_once_queues_only(
    source: dict[str, Any], certain: bool
) -> None:
    own = {**source, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "history"}
    topology = Topology(queues=(Queue("q", arguments=own), Queue("history", arguments={"x-queue-type": "stream"})))
    onward = dead_letter(topology, CAME, "q", "rejected")
    assert (onward.queues, onward.unroutable) == (("history",) if certain else (), False)
    assert bool(onward.unknown) is not certain
    assert [leg.destination for leg in onward.legs] == (["history"] if certain else [])


def test_each_dead_letter_is_listed_once_with_its_cycles() -> None:
    topology = retrying()
    told = dead_letters(topology, route(topology, Target("", "work")))
    assert [(letter.queue, letter.reasons, letter.route.queues, letter.cycles) for letter in told] == [
        ("work", ("rejected", "expired"), ("wait",), ()),
        ("wait", ("rejected", "expired"), ("work",), (("work", "wait", "work"),)),
    ]


def test_a_long_chain_of_dead_letters_is_followed_to_its_end() -> None:
    chain = [
        Queue(f"q{each}", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"q{each + 1}"})
        for each in range(2000)
    ]
    topology = Topology(queues=(*chain, Queue("q2000")))
    assert len(dead_letters(topology, route(topology, Target("", "q0")))) == 2001


def test_headers_name_the_first_death_of_a_dead_letter() -> None:
    first = {"x-match": "all-with-x", "x-first-death-queue": "q", "x-first-death-reason": "rejected"}
    topology = Topology(
        exchanges=(Exchange("dlx", "headers"),),
        queues=(Queue("q", arguments={"x-dead-letter-exchange": "dlx"}), Queue("late"), Queue("dead")),
        bindings=(Binding("dlx", "dead", arguments=first),),
    )
    assert dead_letter(topology, CAME, "q", "rejected").queues == ("dead",)
    assert dead_letter(topology, CAME, "q", "expired").queues == ()


@pytest.mark.parametrize("header", ["CC", "x-death", "x-last-death-reason"])
def test_headers_that_only_some_versions_add_to_dead_letters_make_the_route_unknown(header: str) -> None:
    topology = Topology(
        exchanges=(Exchange("dlx", "headers"),),
        queues=(
            Queue("q", arguments={"x-dead-letter-exchange": "dlx", "x-dead-letter-routing-key": ""}),
            Queue("dead"),
        ),
        bindings=(Binding("dlx", "dead", arguments={"x-match": "all-with-x", header: None}),),
    )
    onward = dead_letter(topology, route(topology, Target("", "q"), {"CC": ["copy"]}), "q", "rejected")
    assert (onward.queues, onward.unroutable) == ((), False)
    assert "depends on RabbitMQ's version" in onward.unknown[0]


@pytest.mark.parametrize(("arguments", "reached"), [({"x-delayed-type": "topic"}, ("q",)), ({}, ())])
def test_an_exchange_for_delayed_messages_routes_by_its_delayed_type(
    arguments: dict[str, Any], reached: tuple[str, ...]
) -> None:
    exchange = Exchange("later", "x-delayed-message", arguments=arguments)
    bindings = (Binding("later", "q", routing_key="order.*"), Binding("later", "r", routing_key="bill.*"))
    topology = Topology(exchanges=(exchange,), queues=queues("q", "r"), bindings=bindings)
    found = route(topology, Target("later", "order.paid"), {"x-delay": 5000})
    assert found.queues == reached
    assert bool(found.unknown) is not bool(arguments)
