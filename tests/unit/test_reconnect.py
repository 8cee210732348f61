"""When a lost connection is tried again."""

import pytest

from partymq.coordinator.reconnect import Backoff


def pauses(backoff: Backoff, *lived: float, chance: float = 1.0) -> list[float]:
    return [round(backoff.pause(seconds, chance), 3) for seconds in lived]


def test_failures_in_a_row_are_tried_later_and_later_up_to_a_longest_wait():
    assert pauses(Backoff(1.0), 0, 0, 0, 0, 0, 0) == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_half_of_a_wait_is_by_chance():
    assert pauses(Backoff(1.0), 0, 0, 0, chance=0.0) == [0.05, 0.1, 0.2]


def test_a_connection_that_worked_for_a_while_is_made_anew_at_once_although_it_had_failed_often_before():
    failed = [0.0] * 8
    assert pauses(Backoff(5.0), *failed, 4.5)[-1] == pytest.approx(0.5)
    assert pauses(Backoff(5.0), *failed, 6.0)[-1] == pytest.approx(0.1)


def test_one_that_works_for_a_moment_only_again_and_again_is_not_tried_more_often_than_one_that_does_not():
    tries = [2.0] * 8
    apart = [pause + 2.0 for pause in pauses(Backoff(5.0), *tries)]
    assert apart == [2.1, 2.1, 2.1, 2.1, 2.1, 3.2, 5.0, 5.0]


def test_after_one_that_worked_for_long_the_count_begins_anew():
    assert pauses(Backoff(5.0), *[0.0] * 8, 10.0, 0.0) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 0.1, 0.2]
