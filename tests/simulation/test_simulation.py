"""The promises hold in every schedule. A seed that fails is printed with its story."""

import time

import pytest

from tests.simulation.course import Result, random_seeds
from tests.simulation.router_model import RouterModel
from tests.simulation.schedule import Parts, play

FIXED = 1500
SECONDS = 30.0
"""The fixed seeds end there on a slow machine; all of them take about 15 seconds on an idle one."""
UNKNOWN_SECONDS = 8.0


def told(result: Result, parts: Parts) -> str:
    """What to read when a promise was broken."""
    story = "\n".join(play(result.seed, parts, telling=True).story[-150:])
    return f"{story}\nseed {result.seed}: {result.failure}\npython -m tests.simulation --seed {result.seed}"


def play_all(seeds: range, parts: Parts, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    for played, seed in enumerate(seeds):
        if time.monotonic() > deadline:
            return played
        result = play(seed, parts)
        assert result.failure is None, told(result, parts)
    return len(seeds)


def test_the_promises_hold_in_known_schedules() -> None:
    assert play_all(range(FIXED), Parts(), SECONDS) > 100


def test_the_promises_hold_with_a_model_of_the_router() -> None:
    assert play_all(range(FIXED, 2 * FIXED), Parts(router=RouterModel), UNKNOWN_SECONDS) > 50


def test_the_promises_hold_in_schedules_that_nobody_has_seen() -> None:
    first = random_seeds(1)[0]
    print(f"random seeds from {first} on")
    assert play_all(range(first, first + FIXED), Parts(), UNKNOWN_SECONDS) > 50


@pytest.mark.parametrize("seed", [7, 12, 35, 351, 1439, 4230])
def test_a_schedule_is_the_same_every_time(seed: int) -> None:
    assert play(seed, telling=True).story == play(seed, telling=True).story
