"""Pull groups keep their promises in every schedule, and whatever is broken on purpose is noticed."""

import logging
import time
from collections.abc import Iterator

import pytest

from partymq.log import LOGGER
from tests.simulation.course import random_seeds
from tests.simulation.pull_mutants import PULL_MUTANTS
from tests.simulation.pull_resize_mutants import RESIZE_MUTANTS
from tests.simulation.pull_scene import PullParts
from tests.simulation.pull_schedule import play_pull

FIXED = 400
UNKNOWN = 300
SECONDS = 8.0
"""Schedules end there on a slow machine; those of a test take about 7 seconds on an idle one."""
MOST = 3000
"""Schedules in which a broken part has to be noticed; the slowest one takes about 650."""


@pytest.fixture(autouse=True)
def _in_silence() -> Iterator[None]:
    """Real coordinators write logs: thousands of lines of a group that does not exist."""
    logger = logging.getLogger(LOGGER)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


def play_all(seeds: range) -> int:
    deadline = time.monotonic() + SECONDS
    for played, seed in enumerate(seeds):
        if time.monotonic() > deadline:
            return played
        result = play_pull(seed)
        if result.failure is not None:
            story = "\n".join(play_pull(seed, telling=True).story[-150:])
            pytest.fail(f"{story}\npython -m tests.simulation --mode pull --seed {seed}: {result.failure}")
    return len(seeds)


def test_the_promises_hold_in_known_schedules() -> None:
    assert play_all(range(FIXED)) > 20


def test_the_promises_hold_in_schedules_that_nobody_has_seen() -> None:
    first = random_seeds(1)[0]
    print(f"random seeds from {first} on")
    assert play_all(range(first, first + UNKNOWN)) > 20


@pytest.mark.parametrize("seed", [3, 380, 558, 10688])
def test_a_schedule_is_the_same_every_time(seed: int) -> None:
    assert play_pull(seed, telling=True).story == play_pull(seed, telling=True).story


MUTANTS = PULL_MUTANTS | RESIZE_MUTANTS


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_part_is_noticed(name: str) -> None:
    for seed in range(MOST):
        if _fails(seed, MUTANTS[name]):
            return
    pytest.fail(f"{name} was not noticed in {MOST} schedules")


def _fails(seed: int, parts: PullParts) -> bool:
    try:
        return play_pull(seed, parts).failure is not None
    except AssertionError:
        return True  # the code itself has seen it
