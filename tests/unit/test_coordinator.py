"""The coordinator's decisions as stories: what happens, and indented what follows, in this order."""

import pytest
from coordinator_story import TIMING, Story, pair, with_leftover

from partymq.group import events as ev
from partymq.group.membership import Timing
from partymq.group.state import MemberState, SetAside
from partymq.group.wire import Status
from tests.saved_state import encode_state


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
