"""The output or the input of a command fails: no message is lost that was read, or not yet written."""

from __future__ import annotations

import random

import pytest

from tests.faults import scenarios_input_output as scenarios
from tests.faults.fault_run import FaultSetup


@pytest.mark.fault(28)
@pytest.mark.parametrize("how", scenarios.OUTPUTS)
def test_messages_not_yet_written_stay_queued_when_the_output_fails(
    setup: FaultSetup, rng: random.Random, how: str
) -> None:
    assert scenarios.output_fails(setup, rng, how).violations == []


@pytest.mark.fault(29)
@pytest.mark.parametrize("how", scenarios.INPUTS)
def test_messages_before_a_failure_of_the_input_are_confirmed_and_the_error_names_the_line(
    setup: FaultSetup, rng: random.Random, how: str
) -> None:
    assert scenarios.input_fails(setup, rng, how).violations == []


@pytest.mark.fault(29)
def test_a_file_cut_short_while_it_is_read_is_an_error_after_its_messages_are_confirmed(
    setup: FaultSetup, rng: random.Random
) -> None:
    assert scenarios.file_cut_while_read(setup, rng).violations == []
