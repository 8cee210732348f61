"""The promises hold in every schedule. A seed that fails is printed with its story."""

import time

import pytest

from tests.simulation.course import Result, random_seeds
from tests.simulation.message import Message
from tests.simulation.oracle import GapInRepeat, Oracle, PromiseBroken
from tests.simulation.router_model import RouterModel
from tests.simulation.schedule import Parts, play
from tests.simulation.world import World

FIXED = 1500
SECONDS = 30.0
"""The fixed seeds end there on a slow machine; all of them take about 15 seconds on an idle one."""
UNKNOWN_SECONDS = 8.0
GAPS = 2
"""Schedules of a test in which a repeat may have a gap: of 10,000 one has (see docs/promises.md)."""


def told(result: Result, parts: Parts) -> str:
    """What to read when a promise was broken."""
    story = "\n".join(play(result.seed, parts, telling=True).story[-150:])
    return f"{story}\nseed {result.seed}: {result.failure}\npython -m tests.simulation --seed {result.seed}"


def play_all(seeds: range, parts: Parts, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    gaps = 0
    for played, seed in enumerate(seeds):
        if time.monotonic() > deadline:
            return played
        result = play(seed, parts)
        gaps += result.gap
        assert result.failure is None or (result.gap and gaps <= GAPS), told(result, parts)
    return len(seeds)


def test_the_promises_hold_in_known_schedules() -> None:
    assert play_all(range(FIXED), Parts(), SECONDS) > 100


def test_the_promises_hold_with_a_model_of_the_router() -> None:
    assert play_all(range(FIXED, 2 * FIXED), Parts(router=RouterModel), UNKNOWN_SECONDS) > 50


def test_the_promises_hold_in_schedules_that_nobody_has_seen() -> None:
    first = random_seeds(1)[0]
    print(f"random seeds from {first} on")
    assert play_all(range(first, first + FIXED), Parts(), UNKNOWN_SECONDS) > 50


def test_a_gap_in_a_repeat_is_told_from_a_gap_in_what_was_never_begun() -> None:
    oracle = Oracle(World(1), 1, faults=True)
    for number in (0, 1, 2, 0):
        oracle.begins("pod", Message(0, number))
        oracle.finishes("pod", Message(0, number))
    for number in (2, 3):
        with pytest.raises(GapInRepeat):
            oracle.begins("pod", Message(0, number))
    with pytest.raises(PromiseBroken) as broken:
        oracle.begins("pod", Message(0, 4))
    assert broken.type is PromiseBroken


@pytest.mark.parametrize("seed", [7, 12, 35, 351, 1439, 4230])
def test_a_schedule_is_the_same_every_time(seed: int) -> None:
    assert play(seed, telling=True).story == play(seed, telling=True).story
