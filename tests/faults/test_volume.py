"""Many messages: without a queue, for several consumers, for several queues of which one is full."""

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
def test_every_message_is_handled_when_one_of_three_consumers_is_slow_and_one_is_killed(
    setup: FaultSetup, rng: random.Random
) -> None:
    """Fifty thousand messages; `make test-faults` has a million."""
    assert scenarios.three_consumers(setup, rng, 50_000).violations == []


@pytest.mark.fault(32)
@pytest.mark.parametrize("emptied", [True, False], ids=["emptied", "full for good"])
def test_a_message_refused_by_one_of_many_queues_is_republished_to_all_with_a_warning(
    setup: FaultSetup, rng: random.Random, emptied: bool
) -> None:
    result = scenarios.fanout_with_one_full(setup, rng, emptied=emptied)
    assert result.violations == []
    assert result.report.complete == emptied
