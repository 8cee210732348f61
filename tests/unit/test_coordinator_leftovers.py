"""What members leave in their queues, and how it gets ahead of everything newer."""

import pytest
from coordinator_story import Story, pair, with_leftover


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
