"""Whatever is broken on purpose is noticed, so that silence means something."""

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.schedule import play

MOST = 1000
"""Schedules; the slowest to be found takes about 130."""


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_part_is_noticed(name: str) -> None:
    for seed in range(MOST):
        if play(seed, MUTANTS[name]).failure is not None:
            return
    pytest.fail(f"{name} was not noticed in {MOST} schedules")
