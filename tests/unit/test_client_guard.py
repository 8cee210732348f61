"""When a member starts no handlers, and what it takes for proof that a partition is its own."""

from math import inf

import pytest

from partymq.client.guard import Guard

TIMEOUT = 12.0


def guard_that_hung() -> Guard:
    """It is 110, and nothing moved for 10 s; it was answered before."""
    guard = Guard(TIMEOUT, 100.0)
    guard.answered(99.0, 100.0)
    assert guard.look(110.0) == pytest.approx(10.0)
    return guard


def test_a_pause_up_to_a_quarter_of_the_session_timeout_is_none() -> None:
    guard = Guard(TIMEOUT, 100.0)
    assert guard.until == 103.0
    assert guard.look(103.0) == 0.0
    assert guard.look(106.0) == 0.0
    assert not guard.closed
    assert guard.look(109.1) == pytest.approx(3.1)
    assert guard.closed
    assert guard.asks


def test_it_is_looked_at_often_enough() -> None:
    guard = Guard(TIMEOUT, 0.0)
    for step in range(1, 100):
        assert guard.look(step * guard.every * 2) == 0.0


def test_it_opens_with_the_answer_to_a_question_that_was_asked_after_the_pause() -> None:
    guard = guard_that_hung()
    assert guard.answered(110.0, 110.5) == pytest.approx(0.5)
    assert not guard.closed
    assert not guard.asks


@pytest.mark.parametrize("asked", [0.0, 99.5, 109.9])
def test_what_was_sent_before_the_pause_is_no_answer(asked: float) -> None:
    guard = guard_that_hung()
    assert guard.answered(asked, 110.5) is None
    assert guard.closed
    assert guard.asks


def test_whoever_stands_still_again_asks_again() -> None:
    guard = guard_that_hung()
    assert guard.look(120.0) == pytest.approx(10.0)
    assert guard.answered(110.0, 120.1) is None
    assert guard.closed
    assert guard.answered(120.0, 120.1) == pytest.approx(0.1)


def test_a_coordinator_that_does_not_say_what_it_answers_is_believed() -> None:
    guard = guard_that_hung()
    assert guard.answered(None, 111.0) == pytest.approx(1.0)
    assert guard.prove(119.0)


def test_silence_alone_does_not_close_it() -> None:
    guard = Guard(TIMEOUT, 0.0)
    now = 0.0
    for _ in range(10_000):
        now += guard.every
        assert guard.look(now) == 0.0
    assert not guard.closed


def test_an_answer_proves_what_is_consumed_before_the_group_could_have_given_the_member_up() -> None:
    guard = Guard(TIMEOUT, 100.0)
    guard.answered(100.0, 100.1)
    assert guard.prove(111.9)
    assert not guard.asks
    assert not guard.prove(112.0)
    assert guard.asks


def test_nothing_is_proven_before_the_first_answer() -> None:
    guard = Guard(TIMEOUT, 100.0)
    assert not guard.prove(100.0)
    guard.answered(0.0, 100.2)
    assert not guard.prove(100.0)
    guard.answered(100.1, 100.2)
    assert guard.prove(100.0)


def test_a_later_answer_proves_what_has_waited_for_it() -> None:
    guard = guard_that_hung()
    assert not guard.prove(111.5)
    guard.answered(112.0, 112.1)
    assert guard.prove(111.5)


def test_an_answer_that_comes_late_takes_no_proof_back() -> None:
    guard = Guard(TIMEOUT, 100.0)
    guard.answered(105.0, 105.1)
    guard.answered(101.0, 105.2)
    assert guard.prove(116.9)


def test_with_nothing_that_could_give_it_up_it_never_closes() -> None:
    assert Guard(inf, 0.0).until == inf
