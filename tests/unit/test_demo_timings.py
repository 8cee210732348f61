"""Reaction times come out of the notes as a person would read them off."""

import pytest

from partymq.demo.notes import Delivery
from partymq.demo.timings import Takeover, first_message, flowing_again, takeover

S = 1_000_000_000


def story(*rows: tuple[str, int, float]) -> list[Delivery]:
    return [Delivery(worker, number, int(at * S), int(at * S) + 1) for worker, number, at in rows]


def test_a_join_lasts_until_the_first_message():
    run = story(("a", 0, 1), ("b", 1, 2.5), ("b", 2, 3))
    assert first_message(run, "b", 2 * S) == pytest.approx(0.5)
    assert first_message(run, "c", 2 * S) is None


def test_a_message_before_the_answer_to_ready_is_no_negative_time():
    assert first_message(story(("a", 0, 1)), "a", 2 * S) == 0.0


def test_a_takeover_is_measured_for_each_partition_that_the_gone_worker_had():
    run = story(
        ("a", 0, 1), ("a", 1, 1.1), ("b", 2, 1.2),  # partition 0 and 1 are a's, 2 is b's
        ("b", 2, 2.1), ("b", 10, 2.5), ("c", 11, 4.0), ("c", 21, 5.0),
    )  # fmt: skip
    assert takeover(run, "a", 2 * S, lambda number: number % 10) == Takeover(2, 0.5, 2.0, 2.0)


def test_a_partition_that_moved_away_before_is_not_taken_over():
    run = story(("a", 0, 1), ("b", 0, 1.5), ("b", 0, 3))
    assert takeover(run, "a", 2 * S, lambda number: number) is None


def test_the_server_is_back_when_the_longest_silence_is_over():
    run = story(("a", 5, 1), ("a", 6, 2.2), ("a", 7, 2.4), ("b", 8, 3.5), ("b", 9, 3.6), ("a", 10, 4.1))
    assert flowing_again(run, 2 * S) == pytest.approx(1.5)


def test_a_silence_much_later_is_not_the_servers():
    run = story(("a", 5, 2.5), ("a", 6, 3.9), ("a", 7, 60))
    assert flowing_again(run, 2 * S) == pytest.approx(1.9)


def test_without_a_later_message_nothing_flows_again():
    assert flowing_again(story(("a", 5, 1)), 2 * S) is None
