"""Many messages, for nobody, for several consumers, for several queues of which one is full (17, 30, 32)."""

from __future__ import annotations

import random

import pytest

from tests.faults import scenarios_volume as scenarios
from tests.faults.fault_run import FaultSetup

pytestmark = pytest.mark.usefixtures("leak_free")


@pytest.mark.fault(17)
def test_each_return_is_tied_to_its_own_message(setup: FaultSetup, rng: random.Random) -> None:
    assert scenarios.one_in_ten_unbound(setup, rng, 30_000).violations == []


@pytest.mark.fault(30)
def test_of_three_that_empty_a_queue_one_is_slow_and_one_dies_and_every_message_is_handled(
    setup: FaultSetup, rng: random.Random
) -> None:
    """Fifty thousand messages; `make test-faults` has a million."""
    assert scenarios.crowd(setup, rng, 50_000).violations == []


@pytest.mark.fault(32)
@pytest.mark.parametrize("emptied", [True, False], ids=["emptied", "full for good"])
def test_what_one_of_many_queues_refuses_is_sent_to_all_again_and_that_is_said(
    setup: FaultSetup, rng: random.Random, emptied: bool
) -> None:
    result = scenarios.fanout_with_one_full(setup, rng, emptied=emptied)
    assert result.violations == []
    assert result.report.complete == emptied
