"""Each violation is found when it is there, and nothing is found when it is not."""

import random
from collections.abc import Sequence

import pytest

from partymq.demo.checker import SECOND, Fault, Verdict, check
from partymq.demo.notes import Delivery

KILL_A = Fault("worker", 100, 110, "a")


def run(
    *deliveries: tuple[str, int, int, int | None],
    published: int = 6,
    faults: Sequence[Fault] = (),
    aircraft: Sequence[str] = ("N1",) * 10,
) -> Verdict:
    return check([Delivery(*one) for one in deliveries], aircraft, published, faults)


def found(verdict: Verdict) -> dict[str, int]:
    counts = {
        "lost": verdict.lost,
        "out of order": verdict.out_of_order,
        "concurrent": verdict.concurrent,
        "repeated": verdict.repeated,
        "unexplained": verdict.unexplained,
    }
    return {kind: count for kind, count in counts.items() if count}


def test_flights_in_order_one_after_the_other_are_fine_on_changing_workers():
    verdict = run(("a", 0, 10, 20), ("b", 1, 20, 30), ("a", 2, 40, 50), published=3)
    assert found(verdict) == {}
    assert verdict.kept
    assert (verdict.handled, verdict.deliveries) == (3, 3)


def test_a_flight_that_nobody_completed_is_lost():
    verdict = run(("a", 0, 10, 20), ("a", 2, 30, 40), published=4)
    assert found(verdict) == {"lost": 2}
    assert not verdict.kept
    assert verdict.examples["lost"] == [
        "N1: flight 1 was never completed",
        "N1: flight 3 was never completed",
    ]


def test_a_flight_that_was_begun_and_never_completed_is_lost():
    assert found(run(("a", 0, 10, None), published=1, faults=[KILL_A])) == {"lost": 1}


def test_an_aircraft_of_which_nothing_arrived_is_lost_as_a_whole():
    verdict = run(("a", 0, 10, 20), published=3, aircraft=["N1", "N2", "N2"])
    assert found(verdict) == {"lost": 2}


def test_a_flight_that_arrives_after_a_later_one_is_out_of_order():
    verdict = run(("a", 0, 1, 2), ("a", 2, 3, 4), ("a", 1, 5, 6), ("a", 3, 7, 8), published=4)
    assert found(verdict) == {"out of order": 1}
    assert not verdict.kept
    assert verdict.examples["out of order"] == ["N1: flight 1 came after 2 at a"]


def test_each_late_flight_counts():
    verdict = run(
        ("a", 0, 1, 2), ("a", 3, 3, 4), ("a", 1, 5, 6), ("a", 2, 7, 8), ("a", 4, 9, 10), published=5
    )
    assert found(verdict) == {"out of order": 2}


def test_out_of_order_is_seen_across_workers_too():
    assert found(run(("a", 1, 1, 2), ("b", 0, 3, 4), published=2)) == {"out of order": 1}


def test_flights_of_different_aircraft_may_come_in_any_order_and_at_once():
    verdict = run(("a", 1, 1, 9), ("b", 0, 2, 8), published=2, aircraft=["N1", "N2"])
    assert found(verdict) == {}


def test_what_the_worker_noticed_itself_is_counted():
    late = Delivery("a", 0, 3, 4, stale=True)
    verdict = check([Delivery("a", 1, 1, 2), late], ["N1", "N1"], 2)
    assert (verdict.out_of_order, verdict.noticed) == (1, 1)
    verdict = check([Delivery("a", 1, 1, 2), Delivery("b", 0, 3, 4)], ["N1", "N1"], 2)
    assert (verdict.out_of_order, verdict.noticed) == (1, 0)


@pytest.mark.parametrize(
    "second",
    [(15, 25), (5, 15), (12, 18), (5, 25), (10, 20)],
    ids=["tail", "head", "within", "around", "same"],
)
def test_two_workers_with_one_aircraft_at_the_same_moment_are_concurrent(second):
    verdict = run(("a", 0, 10, 20), ("b", 1, *second), published=2)
    assert verdict.concurrent == 1
    assert not verdict.kept


def test_one_begins_in_the_very_moment_the_other_ended_is_not_concurrent():
    assert run(("a", 0, 10, 20), ("b", 1, 20, 30), published=2).concurrent == 0


def test_an_overlap_is_found_behind_a_shorter_delivery_in_between():
    verdict = run(("a", 0, 0, 100), ("b", 1, 100, 110), ("a", 2, 120, 130), ("c", 3, 125, 126), published=4)
    assert verdict.concurrent == 1
    verdict = run(("a", 0, 0, 100), ("b", 1, 10, 20), ("c", 2, 50, 60), published=3)
    assert verdict.concurrent == 2


def test_a_delivery_counts_once_however_many_others_are_at_the_aircraft():
    assert run(("a", 0, 0, 100), ("b", 1, 10, 90), ("c", 2, 20, 30), published=3).concurrent == 2


def test_a_worker_with_two_flights_of_an_aircraft_at_a_time_is_concurrent_with_itself():
    assert run(("a", 0, 90, 95), ("a", 1, 95, 96), published=2).concurrent == 0
    assert run(("a", 0, 90, 100), ("a", 1, 95, 96), ("a", 2, 97, 98), published=3).concurrent == 2


def test_a_killed_worker_has_its_flight_until_it_is_seen_dead():
    takes_over = ("b", 0, 109, 120)
    assert run(("a", 0, 90, None), takes_over, published=1, faults=[KILL_A]).concurrent == 1
    takes_over = ("b", 0, 110, 120)
    verdict = run(("a", 0, 90, None), takes_over, published=1, faults=[KILL_A])
    assert found(verdict) == {"repeated": 1}
    assert verdict.kept


def test_a_worker_that_lives_has_an_open_flight_for_ever():
    assert run(("a", 0, 90, None), ("b", 1, 10**9, 10**9 + 1), published=2).concurrent == 1


def test_a_repeat_without_a_fault_breaks_the_promise():
    verdict = run(("a", 0, 10, 20), ("a", 0, 30, 40), published=1)
    assert found(verdict) == {"repeated": 1, "unexplained": 1}
    assert not verdict.kept


def test_the_newest_flights_may_come_again_in_order_after_a_kill():
    verdict = run(
        ("a", 0, 10, 20), ("a", 1, 30, 40), ("a", 2, 90, None),
        ("b", 1, 200, 210), ("b", 2, 220, 230), ("b", 3, 240, 250),
        published=4, faults=[KILL_A],
    )  # fmt: skip
    assert found(verdict) == {"repeated": 2}
    assert verdict.kept


def test_a_replay_that_skips_a_flight_is_out_of_order():
    verdict = run(
        ("a", 0, 10, 20), ("a", 1, 30, 40), ("a", 2, 60, 70),
        ("b", 0, 200, 210), ("b", 2, 220, 230),
        published=3, faults=[KILL_A],
    )  # fmt: skip
    assert found(verdict) == {"repeated": 2, "out of order": 1}


def test_a_replay_that_breaks_off_is_out_of_order():
    verdict = run(
        ("a", 0, 10, 20),
        ("a", 1, 30, 40),
        ("b", 0, 200, 210),
        ("b", 2, 220, 230),
        published=3,
        faults=[KILL_A],
    )
    assert found(verdict) == {"repeated": 1, "out of order": 1}


def test_a_replay_that_broke_off_counts_once():
    verdict = run(
        ("a", 0, 10, 20), ("a", 1, 30, 40), ("b", 0, 200, 210), ("b", 2, 220, 230), ("b", 3, 240, 250),
        published=4, faults=[KILL_A],
    )  # fmt: skip
    assert verdict.out_of_order == 1


def test_a_replay_in_the_wrong_order_is_out_of_order():
    verdict = run(
        ("a", 0, 10, 20), ("a", 1, 30, 40), ("a", 2, 50, 60),
        ("b", 0, 200, 210), ("b", 2, 220, 230), ("b", 1, 240, 250), ("b", 2, 260, 270),
        published=3, faults=[KILL_A, Fault("server", 100, 150, published=3)],
    )  # fmt: skip
    assert verdict.out_of_order == 1
    assert not verdict.kept


def test_a_replay_may_begin_anew_within_a_replay():
    faults = [KILL_A, Fault("server", 100, 150, published=3)]
    verdict = run(
        ("a", 0, 10, 20), ("a", 1, 30, 40),
        ("b", 0, 200, 210), ("b", 0, 220, 230), ("b", 1, 240, 250), ("b", 2, 260, 270),
        published=3, faults=faults,
    )  # fmt: skip
    assert found(verdict) == {"repeated": 3}


def test_one_fault_explains_one_repeat_of_a_message():
    verdict = run(("a", 0, 90, None), ("b", 0, 200, 210), ("b", 0, 220, 230), published=1, faults=[KILL_A])
    assert found(verdict) == {"repeated": 2, "unexplained": 1}


def test_the_kill_of_a_worker_does_not_explain_repeats_of_what_others_had():
    verdict = run(("b", 0, 90, 95), ("b", 0, 200, 210), published=1, faults=[KILL_A])
    assert verdict.unexplained == 1


def test_a_fault_does_not_explain_a_repeat_before_it():
    assert run(("a", 0, 10, 20), ("a", 0, 30, 40), published=1, faults=[KILL_A]).unexplained == 1


@pytest.mark.parametrize(("seconds_before", "unexplained"), [(4, 0), (6, 1)])
def test_a_fault_does_not_explain_repeats_of_what_was_settled_long_before(seconds_before, unexplained):
    fault = Fault("server", 100 * SECOND, 101 * SECOND, published=1)
    end = fault.begin - seconds_before * SECOND
    verdict = run(("a", 0, end - 1, end), ("a", 0, fault.end, fault.end + 1), published=1, faults=[fault])
    assert verdict.unexplained == unexplained


def test_the_death_of_the_server_does_not_explain_repeats_of_what_was_published_afterwards():
    fault = Fault("server", 100, 150, published=1)
    verdict = run(("a", 1, 200, 210), ("a", 1, 220, 230), published=1, faults=[fault])
    assert verdict.unexplained == 1


def honest(rng: random.Random, flights: int, workers: int) -> tuple[list[Delivery], list[str]]:
    """A run in which every aircraft is flown by one worker at a time, in order."""
    aircraft = [f"N{rng.randrange(flights // 8)}" for _ in range(flights)]
    clock = {f"w{one}": 0 for one in range(workers)}
    free: dict[str, int] = {}
    story = []
    for number, name in enumerate(aircraft):
        worker = rng.choice(sorted(clock))
        begin = max(clock[worker], free.get(name, 0)) + rng.randrange(3)
        end = begin + rng.randrange(1, 50)
        clock[worker] = free[name] = end
        story.append(Delivery(worker, number, begin, end))
    return story, aircraft


@pytest.mark.parametrize("seed", range(20))
def test_a_random_honest_run_is_clean_and_each_tampering_is_found(seed):
    rng = random.Random(seed)
    story, aircraft = honest(rng, 400, 4)
    rng.shuffle(story)
    assert found(check(story, aircraft, 400)) == {}

    assert found(check(story[1:], aircraft, 400)) == {"lost": 1}

    last = max(one.end or 0 for one in story)
    again = Delivery("w0", story[0].number, last + 1, last + 2)
    assert check([*story, again], aircraft, 400).unexplained == 1

    stranger = Delivery("other", 400, story[0].begin, story[0].end)
    with_stranger = [*aircraft, aircraft[story[0].number]]
    assert check([*story, stranger], with_stranger, 401).concurrent >= 1

    first, second = rng.choice(
        [
            (one, two)
            for one in story
            for two in story
            if aircraft[one.number] == aircraft[two.number] and one.number < two.number
        ]
    )
    swapped = [one for one in story if one not in (first, second)]
    swapped += [
        Delivery(first.worker, second.number, first.begin, first.end),
        Delivery(second.worker, first.number, second.begin, second.end),
    ]
    assert check(swapped, aircraft, 400).out_of_order >= 1
