"""What is read fails, or what is written to (28, 29): nothing is lost of what could be read, nor of what is not out."""

from __future__ import annotations

import random

import pytest

from tests.faults import scenarios_input_output as scenarios
from tests.faults.fault_run import FaultSetup


@pytest.mark.fault(28)
@pytest.mark.parametrize("how", scenarios.OUTPUTS)
def test_what_is_not_out_when_the_output_fails_is_still_queued(setup: FaultSetup, rng: random.Random, how: str) -> None:
    assert scenarios.output_fails(setup, rng, how).violations == []


@pytest.mark.fault(29)
@pytest.mark.parametrize("how", scenarios.INPUTS)
def test_all_before_the_place_where_the_input_fails_is_confirmed_and_the_place_is_told(
    setup: FaultSetup, rng: random.Random, how: str
) -> None:
    assert scenarios.input_fails(setup, rng, how).violations == []


@pytest.mark.fault(29)
def test_a_file_that_is_cut_short_while_it_is_read_is_told_after_what_was_read_is_confirmed(
    setup: FaultSetup, rng: random.Random
) -> None:
    assert scenarios.file_cut_while_read(setup, rng).violations == []
