"""The promises hold in every schedule. A seed that fails is printed with its story."""

import time

import pytest

from tests.simulation.course import Result, random_seeds
from tests.simulation.message import Message
from tests.simulation.oracle import Oracle, PromiseBroken
from tests.simulation.pull_oracle import PullOracle
from tests.simulation.router_model import RouterModel
from tests.simulation.schedule import Parts, play
from tests.simulation.world import World

FIXED = 1500
SECONDS = 30.0
"""The fixed seeds end there on a slow machine; all of them take about 15 seconds on an idle one."""
UNKNOWN_SECONDS = 8.0
GAPS = 2
"""Schedules of a test in which a repeat may have a gap: of 20,000 one has (docs/decisions/0013-*.md)."""


def told(result: Result, parts: Parts) -> str:
    """What to read when a promise was broken."""
    story = "\n".join(play(result.seed, parts, telling=True).story[-150:])
    what = result.failure or f"gaps: {result.gaps}"
    return f"{story}\nseed {result.seed}: {what}\npython -m tests.simulation --seed {result.seed}"


def play_all(seeds: range, parts: Parts, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    gaps = 0
    for played, seed in enumerate(seeds):
        if time.monotonic() > deadline:
            return played
        result = play(seed, parts)
        gaps += bool(result.gaps)
        assert result.failure is None, told(result, parts)
        assert gaps <= GAPS, told(result, parts)
    return len(seeds)


def test_the_promises_hold_in_known_schedules() -> None:
    assert play_all(range(FIXED), Parts(), SECONDS) > 100


def test_the_promises_hold_with_a_model_of_the_router() -> None:
    assert play_all(range(FIXED, 2 * FIXED), Parts(router=RouterModel), UNKNOWN_SECONDS) > 50


def test_the_promises_hold_in_schedules_that_nobody_has_seen() -> None:
    first = random_seeds(1)[0]
    print(f"random seeds from {first} on")
    assert play_all(range(first, first + FIXED), Parts(), UNKNOWN_SECONDS) > 50


def handled(oracle: Oracle, *numbers: int) -> None:
    for number in numbers:
        oracle.begins("pod", Message(0, number))
        oracle.finishes("pod", Message(0, number))


def test_a_repeat_that_leaves_out_what_is_finished_is_counted_and_what_follows_is_judged_as_ever() -> None:
    oracle = Oracle(World(1), 1, faults=True)
    handled(oracle, 0, 1, 2, 3, 0, 1)
    assert not oracle.gaps
    handled(oracle, 3)
    assert len(oracle.gaps) == 1
    handled(oracle, 4)
    with pytest.raises(PromiseBroken):
        oracle.begins("pod", Message(0, 6))


def test_a_repeat_must_not_leave_out_what_nobody_has_finished() -> None:
    oracle = Oracle(World(1), 1, faults=True)
    handled(oracle, 0, 1)
    oracle.begins("pod", Message(0, 2))
    oracle.gone("pod")
    handled(oracle, 0)
    with pytest.raises(PromiseBroken):
        oracle.begins("pod", Message(0, 3))


def test_in_a_pull_group_a_repeat_must_not_leave_out_anything() -> None:
    oracle = PullOracle(World(1), 1, faults=True, slow=False)
    handled(oracle, 0, 1, 2, 0)
    with pytest.raises(PromiseBroken):
        oracle.begins("pod", Message(0, 2))


@pytest.mark.parametrize("seed", [7, 12, 35, 351, 1439, 4230])
def test_a_schedule_is_the_same_every_time(seed: int) -> None:
    assert play(seed, telling=True).story == play(seed, telling=True).story
