"""The coordinator's decisions as stories: what happens, and indented what follows, in this order."""

import pytest
from coordinator_story import TIMING, Story

from partymq.group import events as ev
from partymq.group.membership import Timing
from partymq.group.state import MemberState, SetAside, encode_state
from partymq.group.wire import Status


def pair() -> Story:
    """Members a and b, two partitions each."""
    story = Story()
    story.joins("a")
    story.joins("b")
    story.drained(1)
    story.hush()
    assert story.owners() == {"a": [0, 1], "b": [2, 3]}
    return story


def with_leftover() -> tuple[Story, int]:
    """b has died; a is to get what it left."""
    story = pair()
    story.leaves("b")
    story.left(2, "q-b")
    story.hush()
    return story, story.state.leftovers[0].number


def test_the_first_member_gets_everything_and_the_second_its_share_when_the_first_has_drained() -> None:
    story = Story()
    story.binds("a")
    story.ready("a", "q-a")
    story.binds("b")
    story.ready("b", "q-b")
    story.drained(1)
    story.tells(
        """
        a binds
            save
            answer ok
        a is ready with q-a
            save
            answer ok
            assign 0/1/2/3 to a
            start
        b binds
            save
            answer ok
        b is ready with q-b
            save
            answer ok
            pause a
            drain a (1): q-a for 2/3
        hand-over 1 is released
            save
            assign 2/3 to b
            resume a
        """
    )
    assert [partition.fencing_token for partition in story.state.partitions] == [1, 1, 2, 2]


def test_a_third_member_gets_from_both_and_only_as_much_as_it_should_have() -> None:
    story = pair()
    story.joins("c")
    story.drained(2)
    story.tells(
        """
        c binds
            save
            answer ok
        c is ready with q-c
            save
            answer ok
            pause b
            drain b (2): q-b for 3
        hand-over 2 is released
            save
            assign 3 to c
            resume b
        """
    )


def test_a_partition_is_not_given_away_before_its_owner_has_drained() -> None:
    story = Story()
    story.joins("a")
    story.joins("b")
    story.hush()
    story.put_off(1)
    story.waits(1, "a", "b")
    story.waits(1, "a", "b")
    story.put_off(2)
    story.waits(3, "a", "b")
    story.waits(1, "a", "b")
    story.drained(3)
    story.tells(
        """
        hand-over 1 is put off
            cancel hand-over 1
            resume a
        1 s pass
        1 s pass
            pause a
            drain a (2): q-a for 2/3
        hand-over 2 is put off
            cancel hand-over 2
            resume a
        3 s pass
        1 s pass
            pause a
            drain a (3): q-a for 2/3
        hand-over 3 is released
            save
            assign 2/3 to b
            resume a
        """
    )


def test_a_hand_over_is_given_up_when_the_newcomer_goes_again() -> None:
    story = Story()
    story.joins("a")
    story.joins("b")
    story.hush()
    story.leaves("b")
    story.drained(1)
    story.tells(
        """
        b unbinds
            save
            answer ok
            cancel hand-over 1
            resume a
            forget b
        hand-over 1 is released
        """
    )


def test_a_member_that_leaves_with_an_empty_queue_leaves_at_once() -> None:
    story = pair()
    story.leaves("b")
    story.drained(2)
    story.tells(
        """
        b unbinds
            save
            answer ok
            pause b
            reclaim from b (2): q-b, 2/3
        hand-over 2 is released
            save
            assign 2/3 to a
            forget b
        """
    )


def test_what_a_member_leaves_in_its_queue_goes_ahead_of_everything_newer() -> None:
    story = pair()
    story.leaves("b")
    story.left(2, "q-b")
    story.moved(3)
    story.fetched(3)
    story.tells(
        """
        b unbinds
            save
            answer ok
            pause b
            reclaim from b (2): q-b, 2/3
        hand-over 2 is released, q-b is left
            save
            assign 2/3 to a, locked
            forget b
            move leftover 3 of b out of q-b
        leftover 3 is moved
            save
            fetch leftover 3
        leftover 3 is fetched
            save
            unlock 2/3
            discard the queue of leftover 3
        """
    )


def test_a_member_that_is_not_heard_of_is_lost() -> None:
    story = pair()
    story.waits(29, "a")
    story.waits(1, "a")
    story.left(2, "q-b")
    story.tells(
        """
        29 s pass
        1 s pass
            save
            pause b
            reclaim from b (2): q-b, 2/3
        hand-over 2 is released, q-b is left
            save
            assign 2/3 to a, locked
            forget b
            move leftover 3 of b out of q-b
        """
    )


def test_a_lost_member_that_comes_back_in_time_keeps_what_it_has() -> None:
    story = pair()
    story.waits(30, "a")
    story.hush()
    story.binds("b")
    story.ready("b", "q-b")
    story.tells(
        """
        b binds
            save
            answer ok
            cancel hand-over 2
        b is ready with q-b
            save
            answer ok
            resume b
        """
    )


def test_a_restarted_member_with_the_same_queue_goes_on_with_a_new_token() -> None:
    story = pair()
    story.binds("b")
    story.ready("b", "q-b")
    story.tells(
        """
        b binds
            save
            answer ok
            pause b
        b is ready with q-b
            save
            answer ok
            resume b
        """
    )
    assert [partition.fencing_token for partition in story.state.partitions] == [1, 1, 3, 3]


def test_a_restarted_member_with_another_queue_first_gets_what_is_in_the_old_one() -> None:
    story = pair()
    story.binds("b")
    story.ready("b", "q-b2")
    story.left(2, "q-b")
    story.moved(4)
    story.fetched(4)
    story.tells(
        """
        b binds
            save
            answer ok
            pause b
        b is ready with q-b2
            save
            answer ok
            reclaim from b (2): q-b, unbound, 2/3
        hand-over 2 is released, q-b is left
            save
            assign 2/3 to b, locked
            move leftover 4 of b out of q-b, unbound
        leftover 4 is moved
            save
            resume b
            fetch leftover 4
        leftover 4 is fetched
            save
            unlock 2/3
            discard the queue of leftover 4
        """
    )


def test_a_restarted_member_with_another_queue_goes_on_at_once_when_the_old_one_is_gone() -> None:
    story = pair()
    story.binds("b")
    story.ready("b", "q-b2")
    story.drained(2)
    story.tells(
        """
        b binds
            save
            answer ok
            pause b
        b is ready with q-b2
            save
            answer ok
            reclaim from b (2): q-b, unbound, 2/3
        hand-over 2 is released
            save
            resume b
        """
    )


def test_queues_of_several_incarnations_are_emptied_so_that_the_oldest_comes_first() -> None:
    story = pair()
    story.binds("b")
    story.ready("b", "q-b2")
    story.binds("b")
    story.ready("b", "q-b3")
    story.hush()
    story.left(3, "q-b2")
    story.left(4, "q-b")
    story.tells(
        """
        hand-over 3 is released, q-b2 is left
            save
            assign 2/3 to b, locked
            reclaim from b (4): q-b, unbound, 2/3
            move leftover 5 of b out of q-b2, unbound
        hand-over 4 is released, q-b is left
            save
            assign 2/3 to b, locked
            move leftover 6 of b out of q-b, unbound
        """
    )
    story.moved(5)
    story.moved(6)
    story.fetched(6)
    story.fetched(5)
    story.tells(
        """
        leftover 5 is moved
            save
        leftover 6 is moved
            save
            resume b
            fetch leftover 6
        leftover 6 is fetched
            save
            discard the queue of leftover 6
            fetch leftover 5
        leftover 5 is fetched
            save
            unlock 2/3
            discard the queue of leftover 5
        """
    )


def test_a_restarted_member_of_unknown_queue_waits_until_it_is_known() -> None:
    story = pair()
    story.binds("b")
    story.ready("b")
    story.learns("b", "q-b")
    story.tells(
        """
        b binds
            save
            answer ok
            pause b
        b is ready
            save
            answer ok
        b's queue is q-b
            save
            resume b
        """
    )


def test_a_queue_that_stays_unknown_is_taken_to_be_another_one() -> None:
    story = pair()
    story.binds("b")
    story.ready("b")
    story.hush()
    story.waits(3, "a", "b")
    story.drained(2)
    story.tells(
        """
        3 s pass
            reclaim from b (2): q-b, 2/3
        hand-over 2 is released
            save
            resume b
        """
    )


def test_a_new_member_gets_nothing_before_its_queue_is_known() -> None:
    story = Story()
    story.joins("a")
    story.binds("b")
    story.ready("b")
    story.hush()
    story.learns("b", "q-b")
    story.tells(
        """
        b's queue is q-b
            save
            pause a
            drain a (1): q-a for 2/3
        """
    )


def test_without_sight_of_what_is_unacked_partitions_move_when_they_are_idle() -> None:
    story = Story()
    story.coordinator.sighted = False
    story.joins("a")
    story.joins("b")
    story.happens("2 has been idle", ev.Released(1, partitions=(2,)))
    story.happens("3 has been idle", ev.Released(2, partitions=(3,)))
    story.tells(
        """
        a binds
            save
            answer ok
        a is ready with q-a
            save
            answer ok
            assign 0/1/2/3 to a
            start
        b binds
            save
            answer ok
        b is ready with q-b
            save
            answer ok
            drain a (1): None for 2/3
        2 has been idle
            save
            assign 2 to b
            drain a (2): None for 3
        3 has been idle
            save
            assign 3 to b
        """
    )


def test_an_idle_partition_that_need_not_move_any_more_is_let_go() -> None:
    story = Story()
    story.coordinator.sighted = False
    story.joins("a")
    story.joins("b")
    story.hush()
    story.leaves("b")
    story.happens("2 has been idle", ev.Released(1, partitions=(2,)))
    story.joins("b")
    story.happens("1 and 2 have been idle", ev.Released(2, partitions=(1, 2)))
    story.tells(
        """
        b unbinds
            save
            answer ok
            cancel hand-over 1
            forget b
        2 has been idle
        b binds
            save
            answer ok
        b is ready with q-b
            save
            answer ok
            drain a (2): None for 2/3
        1 and 2 have been idle
            save
            assign 2 to b
            unlock 1
            drain a (3): None for 3
        """
    )


def test_a_member_whose_queue_cannot_be_reached_is_set_aside_until_it_can() -> None:
    story = pair()
    story.comes_back("b")
    story.sees("b", bound=False)
    story.drained(2)
    story.waits(2, "a", "b")
    story.sees("b")
    story.waits(1, "a", "b")
    story.drained(3)
    story.tells(
        """
        a message for b comes back
            save
            reclaim from b (2): q-b, 2/3
        b's queue is not bound
        hand-over 2 is released
            save
            assign 2/3 to a
        2 s pass
        b's queue has 1 consumers
            save
            pause a
            drain a (3): q-a for 2/3
            resume b
        1 s pass
        hand-over 3 is released
            save
            assign 2/3 to b
            resume a
        """
    )


def test_a_member_without_a_consumer_is_set_aside_and_gets_nothing_before_its_queue_is_emptied() -> None:
    story = pair()
    story.sees("b")
    story.hush()
    story.sees("b", consumers=0)
    story.waits(1, "a", "b")
    story.left(2, "q-b")
    story.waits(1, "a", "b")
    story.sees("b")
    story.moved(3)
    story.tells(
        """
        b's queue has 0 consumers
        1 s pass
            save
            pause b
            reclaim from b (2): q-b, 2/3
        hand-over 2 is released, q-b is left
            save
            assign 2/3 to a, locked
            move leftover 3 of b out of q-b
        1 s pass
        b's queue has 1 consumers
            save
        leftover 3 is moved
            save
            resume b
            fetch leftover 3
        """
    )


def test_a_client_whose_library_recovers_with_another_queue_is_followed() -> None:
    story = pair()
    story.sees("b", exists=False)
    story.learns("b", "q-b2")
    story.drained(3)
    story.tells(
        """
        b's queue is gone
            save
            pause b
            reclaim from b (2): q-b, 2/3
        b's queue is q-b2
            save
            cancel hand-over 2
            reclaim from b (3): q-b, unbound, 2/3
        hand-over 3 is released
            save
            resume b
        """
    )


def test_somebody_who_listens_in_is_not_taken_for_the_member() -> None:
    story = pair()
    story.sees("b")
    story.waits(10, "a", "b")
    story.hush()
    story.learns("b", "tap")
    story.tells("b's queue is tap")
    assert story.state.members["b"].queue == "q-b"


def test_when_no_more_can_be_held_balance_has_to_wait() -> None:
    story = Story()
    story.joins("a")
    story.joins("b")
    story.hush()
    story.exhausted("a")
    story.tells(
        """
        no more can be held for a
            cancel hand-over 1
            resume a
        """
    )


def test_what_is_held_for_a_dead_member_may_follow_into_its_queue_but_voids_the_proof() -> None:
    story = pair()
    story.waits(30, "a")
    story.hush()
    story.exhausted("b")
    story.drained(2)
    story.left(3, "q-b")
    story.tells(
        """
        no more can be held for b
            cancel hand-over 2
            let b have what is held
            reclaim from b (3): q-b, 2/3
        hand-over 2 is released
        hand-over 3 is released, q-b is left
            save
            assign 2/3 to a, locked
            forget b
            move leftover 3 of b out of q-b
        """
    )


@pytest.mark.parametrize("why", ["rebinding", "returned", "old queue"])
def test_nothing_follows_into_a_queue_where_it_might_overtake(why: str) -> None:
    story = pair()
    match why:
        case "rebinding":
            story.binds("b")
        case "returned":
            story.comes_back("b")
        case "old queue":
            story.binds("b")
            story.ready("b", "q-b2")
    story.hush()
    story.exhausted("b")
    story.tells("no more can be held for b")


def test_when_the_last_member_leaves_nothing_is_consumed() -> None:
    story = Story()
    story.joins("a")
    story.hush()
    story.leaves("a")
    story.drained(1)
    story.joins("b")
    story.tells(
        """
        a unbinds
            save
            answer ok
            pause a
            reclaim from a (1): q-a, 0/1/2/3
            stop
        hand-over 1 is released
            save
            forget a
        b binds
            save
            answer ok
        b is ready with q-b
            save
            answer ok
            assign 0/1/2/3 to b
            start
        """
    )


def test_what_the_last_member_leaves_waits_with_it_until_somebody_comes() -> None:
    story = Story()
    story.joins("a")
    story.hush()
    story.waits(30)
    story.left(1, "q-a")
    story.waits(2)
    story.left(2, "q-a")
    story.joins("b")
    story.left(3, "q-a")
    story.tells(
        """
        30 s pass
            save
            pause a
            reclaim from a (1): q-a, 0/1/2/3
            stop
        hand-over 1 is released, q-a is left
        2 s pass
            reclaim from a (2): q-a, 0/1/2/3
        hand-over 2 is released, q-a is left
        b binds
            save
            answer ok
        b is ready with q-b
            save
            answer ok
            reclaim from a (3): q-a, 0/1/2/3
            start
        hand-over 3 is released, q-a is left
            save
            assign 0/1/2/3 to b, locked
            forget a
            move leftover 2 of a out of q-a
        """
    )


def test_the_newest_leftover_goes_first_because_it_holds_the_older_messages() -> None:
    story, first = with_leftover()
    story.moved(first)
    story.joins("c")
    story.hush()
    story.leaves("a")
    story.left(3, "q-a")
    second = story.state.leftovers[1].number
    story.moved(second)
    story.fetched(second)
    story.fetched(first)
    story.tells(
        """
        a unbinds
            save
            answer ok
            pause a
            reclaim from a (3): q-a, 0/1/2/3
            give up leftover 3
        hand-over 3 is released, q-a is left
            save
            assign 0/1/2/3 to c, locked
            forget a
            move leftover 5 of a out of q-a
        leftover 5 is moved
            save
            fetch leftover 5
        leftover 5 is fetched
            save
            unlock 0/1
            discard the queue of leftover 5
            fetch leftover 3
        leftover 3 is fetched
            save
            unlock 2/3
            discard the queue of leftover 3
        """
    )


def test_the_only_one_that_comes_back_gets_its_own_leftover_though_its_heir_has_died() -> None:
    """The queue of a is to be emptied first, and nobody could receive what is in it but a."""
    story = Story(partitions=2)
    story.joins("a")
    story.joins("b")
    story.drained(1)
    story.waits(30, "b")
    story.left(2, "q-a")
    first = story.state.leftovers[0].number
    story.waits(30)
    story.hush()
    story.joins("a")
    story.left(3, "q-b")
    story.moved(first)
    story.left(4, "q-b")
    second = story.state.leftovers[1].number
    story.moved(second)
    story.fetched(second)
    story.fetched(first)
    story.tells(
        """
        a binds
            save
            answer ok
        a is ready with q-a
            save
            answer ok
            start
        hand-over 3 is released, q-b is left
        leftover 3 is moved
            save
            reclaim from b (4): q-b, 0/1
        hand-over 4 is released, q-b is left
            save
            assign 0/1 to a, locked
            forget b
            move leftover 5 of b out of q-b
        leftover 5 is moved
            save
            fetch leftover 5
        leftover 5 is fetched
            save
            unlock 1
            discard the queue of leftover 5
            fetch leftover 3
        leftover 3 is fetched
            save
            unlock 0
            discard the queue of leftover 3
        """
    )


def test_a_member_that_comes_back_before_its_queue_is_emptied_gets_nothing_yet() -> None:
    story, leftover = with_leftover()
    story.joins("b")
    story.tells(
        """
        b binds
            save
            answer ok
        b is ready with q-b
            save
            answer ok
        """
    )
    story.moved(leftover)
    story.tells(
        """
        leftover 3 is moved
            save
            fetch leftover 3
        """
    )


def test_a_member_that_comes_back_with_another_queue_has_the_old_one_unbound_before_it_is_emptied() -> None:
    story, _ = with_leftover()
    story.joins("b", "q-b2")
    story.tells(
        """
        b binds
            save
            answer ok
        b is ready with q-b2
            save
            answer ok
            give up leftover 3
            move leftover 3 of b out of q-b, unbound
        """
    )


def test_heartbeats_that_could_not_come_through_are_not_held_against_anybody() -> None:
    story = pair()
    story.waits(29, "a")
    story.happens("the broker was away", ev.HeldUp())
    story.waits(29, "a")
    story.tells(
        """
        29 s pass
        the broker was away
        29 s pass
        """
    )


def test_a_process_that_was_stopped_itself_holds_nobody_for_dead() -> None:
    story = pair()
    story.now += 100.0
    story.happens("100 s of which it knows nothing", ev.Tick())
    story.tells("100 s of which it knows nothing")


# -- another instance takes over ------------------------------------------------------------------------


def test_after_a_failover_everything_stands_as_it_was() -> None:
    story = pair()
    story.fails_over()
    story.tells(
        """
        another instance coordinates
            assign 0/1 to a, 2/3 to b
            start
        """
    )


def test_a_failover_while_a_member_drains_begins_the_hand_over_again() -> None:
    story = Story()
    story.joins("a")
    story.joins("b")
    story.hush()
    story.fails_over()
    story.drained(1)
    story.tells(
        """
        another instance coordinates
            assign 0/1/2/3 to a
            pause a
            drain a (1): q-a for 2/3
            start
        hand-over 1 is released
            save
            assign 2/3 to b
            resume a
        """
    )


def test_a_failover_after_the_save_carries_out_what_was_saved() -> None:
    story = Story()
    story.joins("a")
    story.joins("b")
    story.coordinator.handle(ev.Released(1), story.now)
    story.saved = encode_state(story.state)
    story.hush()
    story.fails_over()
    story.tells(
        """
        another instance coordinates
            assign 0/1 to a, 2/3 to b
            start
        """
    )


def test_a_failover_before_the_save_knows_nothing_of_the_proof() -> None:
    story = Story()
    story.joins("a")
    story.joins("b")
    story.coordinator.handle(ev.Released(1), story.now)
    story.hush()
    story.fails_over()
    story.tells(
        """
        another instance coordinates
            assign 0/1/2/3 to a
            pause a
            drain a (1): q-a for 2/3
            start
        """
    )


def test_a_failover_while_a_leftover_is_moved_or_fetched_goes_on_with_it() -> None:
    story, leftover = with_leftover()
    story.fails_over()
    story.moved(leftover)
    story.fails_over()
    story.fetched(leftover)
    story.tells(
        """
        another instance coordinates
            assign 0/1 to a
            assign 2/3 to a, locked
            start
            move leftover 3 of b out of q-b
        leftover 3 is moved
            save
            fetch leftover 3
        another instance coordinates
            assign 0/1 to a
            assign 2/3 to a, locked
            start
            fetch leftover 3
        leftover 3 is fetched
            save
            unlock 2/3
            discard the queue of leftover 3
        """
    )


def test_a_failover_while_a_member_restarts_waits_for_it() -> None:
    story = pair()
    story.binds("b")
    story.hush()
    story.fails_over()
    story.ready("b", "q-b2")
    story.fails_over()
    story.tells(
        """
        another instance coordinates
            assign 0/1 to a, 2/3 to b
            pause b
            start
        b is ready with q-b2
            save
            answer ok
            reclaim from b (1): q-b, unbound, 2/3
        another instance coordinates
            assign 0/1 to a, 2/3 to b
            pause b
            reclaim from b (1): q-b, unbound, 2/3
            start
        """
    )


def test_a_failover_gives_every_member_its_full_time() -> None:
    story = pair()
    story.waits(29)
    story.fails_over()
    story.hush()
    story.waits(29)
    story.tells("29 s pass")


def test_a_failover_without_anybody_ready_consumes_nothing() -> None:
    story = Story()
    story.binds("a")
    story.hush()
    story.fails_over()
    story.tells("another instance coordinates")


# -- what changes nothing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        ev.Released(99),
        ev.Released(99, leftover="q"),
        ev.Released(1),
        ev.PutOff(99),
        ev.Moved(99),
        ev.Fetched(99),
        ev.HoldExhausted(("a", "nobody")),
        ev.Observed("nobody", 1, False),
        ev.Observed("a", 99, False),
        ev.Learned("nobody", 1, "q"),
        ev.Learned("a", 99, "q"),
        ev.Learned("a", 1, "q-a"),
        ev.Unroutable("nobody", SetAside.RETURNED),
        ev.Tick(),
        ev.HeldUp(),
    ],
    ids=repr,
)
def test_what_has_no_meaning_changes_nothing(event: ev.Event) -> None:
    story = pair()
    before = encode_state(story.state)
    assert story.coordinator.handle(event, story.now) == []
    assert encode_state(story.state) == before


def test_calls_that_are_not_allowed_change_nothing() -> None:
    story = Story()
    story.binds("a")
    before = encode_state(story.state)
    assert story.binds("a") is Status.ALREADY_PENDING
    assert story.ready("nobody") is Status.NOT_BOUND
    assert story.leaves("nobody") is Status.OK
    assert encode_state(story.state) == before
    story.ready("a", "q-a")
    before = encode_state(story.state)
    assert story.ready("a", "q-other") is Status.ALREADY_READY
    assert encode_state(story.state) == before


def test_a_proof_for_a_member_that_was_set_aside_meanwhile_is_void() -> None:
    story = Story()
    story.joins("a")
    story.joins("b")
    story.comes_back("a")
    story.hush()
    story.drained(1)
    story.tells("hand-over 1 is released")
    assert story.owners() == {"a": [0, 1, 2, 3]}


def test_the_same_events_lead_to_the_same_effects() -> None:
    def play() -> list[str]:
        story, leftover = with_leftover()
        story.joins("c")
        story.moved(leftover)
        story.comes_back("a")
        story.waits(40, "c")
        return story.lines

    assert play() == play()


# -- to look at -------------------------------------------------------------------------------------------


def test_the_description_says_who_has_what_and_what_is_going_on() -> None:
    story = Story(partitions=2)
    story.joins("a")
    story.joins("b")
    described = story.coordinator.describe(story.now)
    assert described["rebalancing"] is True
    assert [member["hostname"] for member in described["members"]] == ["a", "b"]
    assert described["members"][0]["drain"] == "draining"
    assert described["members"][0]["partitions"] == [0, 1]
    assert [partition["state"] for partition in described["partitions"]] == ["paused", "moving"]
    assert described["partitions"][1] | {"state": ""} == {
        "partition": 1,
        "owner": "a",
        "target": "b",
        "fencing_token": 1,
        "state": "",
    }
    story.drained(1)
    story.leaves("b")
    story.left(2, "q-b")
    described = story.coordinator.describe(story.now)
    assert described["leftovers"] == [{"queue": "q-b", "hostname": "b", "partitions": [1], "state": "moving"}]
    assert [partition["state"] for partition in described["partitions"]] == ["routed", "fetching"]
    assert "leftovers=1" in repr(story.coordinator)


def test_a_rebalance_is_timed_until_everything_is_where_it_should_be() -> None:
    story, leftover = with_leftover()
    story.coordinator.rebalances.clear()
    story.waits(2, "a")
    story.moved(leftover)
    story.fetched(leftover)
    assert story.coordinator.rebalances == [2.0]


def test_a_member_of_unknown_queue_is_shown_as_such() -> None:
    story = Story(timing=Timing(learn_queue=0.0))
    story.binds("a")
    story.ready("a")
    described = story.coordinator.describe(story.now)["members"][0]
    assert described["drain"] == "unknown"
    assert described["state"] == MemberState.READY
    assert TIMING.learn_queue > 0
