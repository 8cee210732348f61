"""A member's queue: restarts with another one, names that are not known, queues that can't be reached."""

from coordinator_story import Story, pair


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
