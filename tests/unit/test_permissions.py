"""Which permissions follow from a service's entry."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmqkit.model import Binding
from rmqkit.topology.file.loader import loads
from rmqkit.topology.matching import matches
from rmqkit.topology.permissions import Permissions, TopicPermission, permissions_of

words = st.lists(st.sampled_from(["a", "b", "", "*", "#", "a.b+"]), max_size=5).map(".".join)


def of(service: str) -> Permissions:
    """Return the permissions of a service in a topology."""
    topology = loads(f"""
        exchanges: {{events: {{type: topic}}, all: {{type: fanout, arguments: {{alternate-exchange: events}}}}}}
        queues:
          jobs: {{type: quorum, retry: {{delays: [1s], then: parked, native: true}}}}
          parked: {{}}
        bindings:
          - {{source: events, destination: jobs, routing_key: "job.*"}}
          - {{source: events, destination: all, destination_type: exchange, routing_key: ""}}
        services: {{it: {service}}}
    """)
    return permissions_of(topology, topology.services[0])


@given(words, words)
def test_the_pattern_of_a_routing_key_permits_the_keys_that_the_exchange_matches(pattern: str, key: str) -> None:
    topics = of(f"{{publishes: [{{exchange: events, routing_keys: ['{pattern}']}}]}}").topics
    expected = matches("topic", Binding("events", "jobs", routing_key=pattern), (key,), {})
    assert bool(re.search(topics[0].write, key)) is expected


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("{}", Permissions("^$", "^$", "^$")),
        ("{consumes: [parked]}", Permissions("^$", "^$", "^parked$")),
        ("{consumes: [jobs]}", Permissions("^$", r"^amq\.default$", "^jobs$", tags=("management",))),
        ("{publishes: [{exchange: all}]}", Permissions("^$", "^all$", "^$")),
        ("{publishes: [{routing_keys: [jobs]}]}", Permissions("^$", r"^amq\.default$", "^$")),
        (
            "{declares: [all]}",  # a new exchange with an alternate one must be able to reach it
            Permissions("^all$", "^(events|all)$", "^(all|events)$", (TopicPermission("events", "(?!)", "^$"),)),
        ),
        (
            "{declares: [jobs]}",  # also where the retry cannot be native
            Permissions(
                r"^(jobs|jobs\.retry\.1s)$",
                r"^(amq\.default|jobs)$",
                r"^(jobs\.retry\.1s|events)$",
                (TopicPermission("events", "^$", r"^job\.\*$"),),
            ),
        ),
    ],
)
def test_the_patterns_are_exact_and_anchored(service: str, expected: Permissions) -> None:
    assert of(service) == expected
