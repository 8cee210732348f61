"""Another instance takes over, at whatever point."""

from coordinator_story import Story, pair, with_leftover

from partymq.group import events as ev
from tests.saved_state import encode_state


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
