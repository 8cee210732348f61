"""The soak's checker: each promise has a history that keeps it, and histories that break it."""

from collections.abc import Iterable, Sequence

import pytest

from verify.notes import Note
from verify.promises import Work, work_of
from verify.pull.promises import PullVerdict, check_pull
from verify.pull.published import Published


def publisher(
    *messages: int, confirmed: bool = True, killed: bool = False, at: float = 0.0, key: int = 0
) -> list[Note]:
    """What is noted of one process of the publisher, of one key."""
    notes = []
    for seq in messages:
        notes.append(Note(at, "P", key, seq))
        if confirmed:
            notes.append(Note(at + 0.001, "Q", key, seq))
    return [*notes, Note(at + 0.002, "K", -1, -1)] if killed else notes


def done(
    member: str,
    seq: int,
    began: float,
    ended: float,
    token: int = 1,
    *,
    zombie: bool = False,
    finished: bool = True,
    key: int = 0,
) -> Work:
    return Work(member, key, seq, began, ended, finished, zombie, token)


def check(
    *works: Work,
    published: Iterable[Note] | None = None,
    faults: Sequence[tuple[float, str | None]] = (),
    given_up: Iterable[int] = (),
    dead_letters: Iterable[int] = (),
    routed: bool = False,
) -> PullVerdict:
    """By default each message that was handled was published, and nothing else."""
    if published is None:
        published = publisher(*sorted({work.seq for work in works}))
    return check_pull(
        Published.of(published),
        works,
        faults,
        {(0, seq) for seq in given_up},
        {(0, seq) for seq in dead_letters},
        routed=routed,
    )


def broken(verdict: PullVerdict) -> dict[str, int]:
    """How often each promise was broken."""
    found = {promise: len(texts) for promise, texts in verdict.violations().items() if texts}
    assert verdict.held == (not found)
    return found


def test_messages_in_order_one_after_the_other_keep_every_promise():
    verdict = check(
        done("a", 0, 1, 2, 3), done("a", 1, 3, 4, 3), done("b", 2, 5, 6, 7), done("a", 3, 7, 8, 9)
    )
    assert broken(verdict) == {}
    assert (verdict.general.messages, verdict.general.repeats, verdict.refused) == (4, 0, 0)


def test_keys_know_nothing_of_each_other():
    both = publisher(0, 1) + publisher(0, 1, key=1)
    verdict = check(
        done("a", 0, 1, 4, 9),
        done("b", 0, 2, 3, 3, key=1),
        done("b", 1, 5, 7, 3, key=1),
        done("a", 1, 6, 8, 9),
        published=both,
    )
    assert broken(verdict) == {}


# No loss ----------------------------------------------------------------------------------------------


def test_a_message_that_nobody_finished_is_lost():
    verdict = check(done("a", 0, 1, 2), done("a", 1, 3, 4, finished=False), published=publisher(0, 1))
    assert broken(verdict) == {"lost": 1}
    assert verdict.general.lost == ["0/1"]


def test_a_message_that_nobody_began_is_lost():
    assert broken(check(done("a", 0, 1, 2), published=publisher(0, 1, 2))) == {"lost": 2}


def test_what_a_killed_publisher_had_no_confirm_for_may_be_missing():
    notes = publisher(0) + publisher(1, 2, confirmed=False, killed=True) + publisher(3)
    verdict = check(done("a", 0, 1, 2), done("a", 3, 3, 4), published=notes)
    assert broken(verdict) == {}
    assert verdict.general.messages == 2


def test_what_a_killed_publisher_had_no_confirm_for_may_have_arrived():
    notes = publisher(0, 1, confirmed=False, killed=True) + publisher(2)
    verdict = check(done("a", 0, 1, 2), done("a", 2, 3, 4), published=notes)
    assert broken(verdict) == {}
    assert verdict.general.messages == 2


def test_a_confirmed_message_of_a_killed_publisher_is_not_to_be_missing():
    assert broken(check(done("a", 1, 1, 2), published=publisher(0, killed=True) + publisher(1)))["lost"] == 1


def test_unconfirmed_messages_arrive_without_a_hole():
    notes = publisher(0, 1, 2, confirmed=False, killed=True) + publisher(3)
    verdict = check(done("a", 0, 1, 2), done("a", 2, 3, 4), done("a", 3, 5, 6), published=notes)
    assert broken(verdict) == {"lost": 1}
    assert verdict.general.lost == ["0/1 (not confirmed, but 0/2 behind it has arrived)"]


def test_a_publisher_that_was_not_killed_leaves_nothing_unconfirmed():
    notes = publisher(0) + publisher(1, confirmed=False)
    assert broken(check(done("a", 0, 1, 2), published=notes)) == {"lost": 1}


def test_what_was_given_up_is_to_be_in_the_dead_letter_queue():
    works = done("a", 0, 1, 2), done("a", 1, 3, 4)
    verdict = check(*works, given_up=[0], dead_letters=[0])
    assert broken(verdict) == {}
    assert verdict.dead_letters == 1
    assert broken(check(*works, given_up=[0, 1], dead_letters=[0])) == {"lost": 1}


# Order ------------------------------------------------------------------------------------------------


def test_a_message_that_is_begun_before_the_one_before_it_was_finished_is_out_of_order():
    verdict = check(done("a", 1, 1, 2), done("a", 0, 3, 4))
    assert broken(verdict)["out of order"] == 1


def test_a_message_that_is_begun_after_an_unfinished_one_is_out_of_order():
    verdict = check(done("a", 0, 1, 2, finished=False), done("a", 1, 3, 4), done("a", 0, 5, 6))
    assert broken(verdict)["out of order"] == 1


def test_a_member_held_for_dead_keeps_the_order_of_what_it_has_too():
    verdict = check(
        done("a", 0, 1, 2),
        done("a", 2, 3, 9, zombie=True),
        done("b", 1, 4, 5, 7),
        done("b", 2, 6, 7, 7),
    )
    assert "out of order" in broken(verdict)


def test_a_message_that_was_tried_again_is_not_out_of_order():
    assert broken(check(done("a", 0, 1, 2, finished=False), done("a", 0, 3, 4), done("a", 1, 5, 6))) == {}


def test_unconfirmed_messages_of_a_killed_publisher_may_come_beside_those_of_the_next_one():
    notes = publisher(0) + publisher(1, 2, confirmed=False, killed=True) + publisher(3, 4)
    works = [done("a", seq, at, at + 0.5) for at, seq in enumerate((0, 3, 1, 4, 2))]
    assert broken(check(*works, published=notes)) == {}


def test_they_are_in_order_among_themselves():
    notes = publisher(0) + publisher(1, 2, confirmed=False, killed=True) + publisher(3)
    works = [done("a", seq, at, at + 0.5) for at, seq in enumerate((0, 2, 3, 1))]
    assert broken(check(*works, published=notes)) == {"out of order": 1}


def test_they_come_after_what_was_sent_before_them():
    notes = publisher(0) + publisher(1, 2, confirmed=False, killed=True) + publisher(3)
    works = [done("a", seq, at, at + 0.5) for at, seq in enumerate((1, 2, 0, 3))]
    assert broken(check(*works, published=notes)) == {"out of order": 1}


def test_the_next_publisher_s_messages_keep_their_order_beside_them():
    notes = publisher(0) + publisher(1, confirmed=False, killed=True) + publisher(2, 3)
    works = [done("a", seq, at, at + 0.5) for at, seq in enumerate((0, 3, 1, 2))]
    assert broken(check(*works, published=notes))["out of order"] == 1


def test_what_is_confirmed_behind_an_unconfirmed_message_has_to_come_behind_it():
    notes = [*publisher(0), *publisher(1, confirmed=False), *publisher(2, killed=True), *publisher(3)]
    works = [done("a", seq, at, at + 0.5) for at, seq in enumerate((0, 2, 1, 3))]
    assert "out of order" in broken(check(*works, published=notes))
    assert "lost" in broken(check(*works[:2], works[3], published=notes))


def test_repeats_come_again_without_a_gap():
    first = [done("a", seq, seq, seq + 0.5) for seq in range(4)]
    kept = [done("b", seq, 6 + seq, 6.5 + seq, 2) for seq in range(2, 6)]
    assert broken(check(*first, *kept, faults=[(5.0, "a")])) == {}
    gap = [done("b", 2, 6, 6.5, 2), done("b", 4, 7, 7.5, 2)]
    assert broken(check(*first, *gap, faults=[(5.0, "a")])) == {"repeated with a gap": 1}


def test_what_who_was_held_for_dead_has_finished_is_no_gap():
    works = done("a", 0, 1, 2, 3), done("a", 1, 3, 4, 3, zombie=True), done("b", 2, 5, 6, 7)
    assert broken(check(*works)) == {}


# One at a time ----------------------------------------------------------------------------------------


def test_two_members_at_one_key_at_once_are_seen():
    works = done("a", 0, 1, 4, 3), done("b", 0, 2, 3, 7)
    assert broken(check(*works, faults=[(1.5, "a")]))["two at one key at once"] == 1


def test_two_at_one_key_in_one_process_are_seen():
    works = done("a", 0, 1, 4), done("a", 0, 2, 3)
    assert broken(check(*works, faults=[(1.5, "a")]))["two at one key at once"] == 1


def test_an_overlap_with_something_else_between_is_seen():
    works = done("a", 0, 1, 9, 3), done("b", 0, 2, 3, 7), done("b", 1, 4, 5, 7)
    assert broken(check(*works, faults=[(1.5, "a")]))["two at one key at once"] == 2


def test_an_overlap_in_which_the_first_one_ends_first_is_seen():
    works = done("a", 0, 1, 3, 3), done("b", 0, 2, 4, 7)
    assert "two at one key at once" in broken(check(*works, faults=[(1.5, "a")]))


def test_a_member_held_for_dead_may_overlap_with_an_owner_of_a_higher_token():
    works = done("a", 0, 1, 4, 3, zombie=True), done("b", 0, 2, 3, 7), done("b", 1, 5, 6, 7)
    verdict = check(*works, faults=[(1.5, "a")])
    assert broken(verdict) == {}
    assert verdict.refused == 1


@pytest.mark.parametrize("token", [7, 8])
def test_a_member_held_for_dead_is_not_to_overlap_where_its_token_does_not_tell_it(token):
    works = done("a", 0, 1, 4, token, zombie=True), done("b", 0, 2, 3, 7), done("b", 1, 5, 6, 7)
    assert "two at one key at once" in broken(check(*works, faults=[(1.5, "a")]))


def test_who_was_not_held_for_dead_is_not_excused_by_its_token():
    works = done("a", 0, 1, 4, 3), done("b", 0, 2, 3, 7, zombie=True), done("b", 1, 5, 6, 7)
    assert "two at one key at once" in broken(check(*works, faults=[(1.5, "b")]))


def test_two_unfinished_ones_at_once_are_seen():
    works = (
        done("a", 0, 1, 4, 3, finished=False),
        done("b", 0, 2, 3, 7, finished=False),
        done("b", 0, 5, 6, 7),
    )
    assert broken(check(*works)) == {"two at one key at once": 1}


# Repeats ----------------------------------------------------------------------------------------------


def repeated(*faults: tuple[float, str | None], token: int = 2, **of_the_first: bool) -> dict[str, int]:
    """0 and 1 by a, then 1 and 2 by b."""
    works = [
        done("a", 0, 1, 2, 2),
        done("a", 1, 3, 4, 2, **of_the_first),
        done("b", 1, 13, 14, token),
        done("b", 2, 15, 16, token),
    ]
    return broken(check(*works, faults=faults))


def test_a_repeat_has_a_cause():
    assert repeated() == {"repeated without a cause": 1}


@pytest.mark.parametrize("fault", [(4.0, "a"), (12.9, "a"), (9.0, None)])
def test_a_fault_of_who_had_it_before_is_one(fault):
    assert repeated(fault) == {}


@pytest.mark.parametrize("fault", [(1.0, "a"), (13.5, "a"), (1.0, None), (13.5, None)])
def test_a_fault_at_another_time_is_none(fault):
    assert repeated(fault) == {"repeated without a cause": 1}


def test_a_fault_of_somebody_else_is_none():
    assert repeated((9.0, "b"), (9.0, "c"), (9.0, "publisher")) == {"repeated without a cause": 1}


def test_a_fault_of_the_publisher_is_one_until_the_message_is_confirmed():
    works = done("a", 0, 101, 102), done("a", 0, 103, 104)
    notes = [Note(100.0, "P", 0, 0), Note(102.0, "Q", 0, 0)]
    assert broken(check(*works, published=notes, faults=[(101.0, "publisher")])) == {}
    assert broken(check(*works, published=notes, faults=[(102.5, "publisher")])) == {
        "repeated without a cause": 1
    }


def test_who_was_held_for_dead_may_have_done_it_with_a_lower_token():
    assert repeated(token=3, zombie=True) == {}


def test_who_was_held_for_dead_is_no_cause_for_others_of_its_token():
    assert "repeated without a cause" in repeated(token=2, zombie=True)


def test_who_wakes_repeats_what_others_have_done_with_a_higher_token_only():
    def woken(token: int) -> dict[str, int]:
        works = (
            done("a", 0, 1, 2, 4),
            done("b", 0, 3, 4, 5),
            done("b", 1, 5, 6, 5),
            done("a", 0, 7, 8, token, zombie=True),
            done("a", 1, 9, 10, token, zombie=True),
        )
        return broken(check(*works, faults=[(2.5, "a")]))

    assert woken(4) == {}
    assert woken(5)["repeated without a cause"] == 2


def test_a_parked_message_may_have_been_parked_twice_by_an_earlier_fault():
    works = [done("a", 0, 101, 102, finished=False), done("b", 0, 105, 106), done("b", 0, 107, 108)]
    notes = publisher(0, at=100.0)
    assert broken(check(*works, published=notes, faults=[(103.0, "a")])) == {}
    assert broken(check(*works, published=notes, faults=[(90.0, "a")])) == {"repeated without a cause": 1}


def test_a_routed_message_may_come_again_by_a_fault_of_a_server_or_the_broker_on_its_way():
    works = done("a", 0, 105, 106), done("a", 0, 107, 108)
    notes = publisher(0, at=100.0)

    def repeats(at: float, whom: str | None, *, routed: bool = True) -> dict[str, int]:
        return broken(check(*works, published=notes, faults=[(at, whom)], routed=routed))

    unexplained = {"repeated without a cause": 1}
    assert repeats(103.0, "servers") == repeats(103.0, None) == {}
    assert repeats(103.0, "servers", routed=False) == unexplained
    assert repeats(103.0, "publisher") == unexplained
    assert repeats(80.0, "servers") == repeats(107.5, "servers") == unexplained


# Fencing ----------------------------------------------------------------------------------------------


def test_a_token_never_goes_back():
    assert broken(check(done("a", 0, 1, 2, 5), done("b", 1, 3, 4, 4))) == {"not fenced": 1}


def test_a_token_does_not_go_back_in_a_repeat_either():
    works = done("a", 0, 1, 2, 5), done("b", 0, 4, 5, 4), done("b", 1, 6, 7, 5)
    assert broken(check(*works, faults=[(3.0, "a")])) == {"not fenced": 1}


def test_a_token_of_another_key_does_not_matter():
    notes = publisher(0) + publisher(0, key=1)
    assert broken(check(done("a", 0, 1, 2, 5), done("b", 0, 3, 4, 4, key=1), published=notes)) == {}


def test_what_who_was_held_for_dead_writes_before_the_new_owner_counts_once():
    works = (
        done("a", 0, 1, 2, 3),
        done("a", 1, 3, 5, 3, zombie=True),  # stood still in it
        done("b", 1, 4, 6, 7),  # has read before that was written, and writes the same
        done("b", 2, 7, 8, 7),
    )
    verdict = check(*works, faults=[(3.5, "a")])
    assert broken(verdict) == {}
    assert verdict.refused == 0


def test_a_new_owner_may_write_over_what_who_was_held_for_dead_wrote():
    works = (
        done("a", 0, 1, 3, 3, zombie=True),
        done("b", 0, 2, 6, 7),
        done("a", 1, 4, 5, 3, zombie=True),
        done("b", 1, 7, 8, 7),
    )
    verdict = check(*works, faults=[(1.5, "a")])
    assert broken(verdict) == {}
    assert verdict.refused == 0


def test_a_late_write_that_the_database_takes_is_seen():
    works = (
        done("a", 0, 1, 9, 7, zombie=True),  # with the same token as the new owner
        done("b", 0, 2, 3, 7),
        done("b", 1, 4, 5, 7),
    )
    assert "not fenced" in broken(check(*works, faults=[(1.5, "a")]))


def test_a_write_on_what_was_never_written_is_seen():
    works = (
        done("b", 0, 1, 2, 7),
        done("a", 1, 3, 4, 5, zombie=True),  # refused …
        done("b", 2, 5, 6, 7),  # … but taken for done
    )
    assert "not fenced" in broken(check(*works, faults=[(0.5, "a")]))


# The figures ------------------------------------------------------------------------------------------


def test_the_longest_wait_is_from_the_confirm_to_the_first_handler():
    works = done("a", 0, 1, 2), done("a", 1, 13, 14), done("b", 1, 60, 61)
    verdict = check(*works, published=publisher(0, 1, at=0.999), faults=[(20.0, None)])
    assert str(verdict.longest[0]) == "12.0 s (0/1 since 1.0, begun by a)"


def test_of_waits_at_one_time_only_the_longest_is_told():
    works = done("a", 0, 11, 12), done("a", 1, 13, 14), done("a", 2, 33, 34)
    notes = publisher(0, 1, at=0.999) + publisher(2, at=19.999)
    waits = check(*works, published=notes).longest
    assert [(round(wait.seconds), wait.seq) for wait in waits] == [(13, 2), (12, 1)]


def test_the_wait_of_a_parked_key_is_for_whoever_releases_it():
    works = done("a", 0, 1, 2, finished=False), done("a", 0, 8, 9), done("a", 1, 13, 14)
    assert check(*works, published=publisher(0, 1, at=0.999)).longest == []


# From notes to work -----------------------------------------------------------------------------------


def test_two_handlers_of_one_key_in_one_process_are_two_works():
    notes = [
        Note(1, "B", 0, 5, 3),
        Note(2, "B", 0, 5, 4),
        Note(3, "E", 0, 5, 4),
        Note(4, "A", 0, 5, 3),
    ]
    works = work_of("a", notes)
    assert sorted((work.token, work.began, work.ended, work.finished) for work in works) == [
        (3, 1, 4, False),
        (4, 2, 3, True),
    ]


def test_of_two_handlers_of_one_message_the_first_ends_first():
    notes = [Note(1, "B", 0, 5, 3), Note(2, "B", 0, 5, 3), Note(3, "E", 0, 5, 3), Note(4, "E", 0, 5, 3)]
    assert [(work.began, work.ended) for work in work_of("a", notes)] == [(1, 3), (2, 4)]


def test_what_runs_when_its_process_is_killed_ends_there_unfinished():
    (work,) = work_of("a", [Note(1, "B", 0, 5, 3)], died=7)
    assert (work.ended, work.finished) == (7, False)


@pytest.mark.parametrize(
    ("stop", "lost", "dead"),
    [
        ((10, 15), 15.1, True),
        ((10, 15), None, False),  # nobody had noticed that it stood still
        ((10, 15), 9.0, False),
        ((10, 10.5), 10.6, False),  # too short for that
    ],
)
def test_who_stood_still_and_lost_its_partitions_was_held_for_dead_meanwhile(stop, lost, dead):
    notes = [Note(9.5, "B", 0, 5, 3), Note(15.05, "E", 0, 5, 3)]
    if lost is not None:
        notes.append(Note(lost, "J", -1, -1))
    (work,) = work_of("a", notes, stops=[stop], patience=1.0)
    assert work.zombie is dead
