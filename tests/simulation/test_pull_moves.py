"""In a pull group only what must move moves, and soon."""

from collections.abc import Iterator

import pytest

from tests.simulation.pull_member import PullMember
from tests.simulation.pull_scene import PullParts
from tests.simulation.pull_schedule import PullSchedule

LONGEST = 40.0
SOON = 2.5


class Calm(PullSchedule):
    """A group in which only happens what a test does; its sizes and delays are the seed's.

    Attributes:
        moves: how often a member has begun to consume a partition.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed, PullParts(resizes=False), telling=False)
        self.moves = 0
        consumes = self.oracle.consumes

        def count(who: str, partition: int, token: int, others: int) -> None:
            self.moves += 1
            consumes(who, partition, token, others)

        self.oracle.consumes = count  # type: ignore[method-assign]
        for process in (*self.servers, *self.publishers):
            process.start()

    @property
    def follower(self) -> PullMember:
        """One that does not coordinate."""
        return next(member for member in self.running if member is not self.coordinating)

    def start(self, *names: str) -> None:
        """Start members, one after the other."""
        for name in names:
            self.start_member(name)
            self.settle()

    def settle(self) -> None:
        """Wait until each partition has its owner, and the group knows who is there."""
        began = self.world.now
        while self.whats_left() is not None:
            assert self.world.now - began < LONGEST, self.whats_left()
            self.wait(0.05)

    @property
    def consumed(self) -> bool:
        """Whether each partition has one consumer, which lives."""
        there = [member.session.data for member in self.running if member.session is not None]
        queues = [self.broker.queues[self.scene.queue(number)] for number in range(self.partitions)]
        consumers = [[one.channel.connection for one in queue.consumers] for queue in queues]
        return all(len(its) == 1 and its[0] in there for its in consumers)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        until = self.world.now + seconds
        while self.world.now < until:
            assert self.world.step()

    def moves_until_settled(self, before: int | None = None) -> int:
        """How many partitions move now, or have since there were so many moves."""
        before = self.moves if before is None else before
        self.settle()
        return self.moves - before


SEEDS = [seed for seed in range(40) if PullSchedule(seed, PullParts(), telling=False).partitions >= 3]
"""Of groups in which each of three members owns something."""


@pytest.fixture(params=SEEDS)
def group(request: pytest.FixtureRequest) -> Iterator[Calm]:
    calm = Calm(request.param)
    yield calm
    calm.end()


def test_only_what_must_move_moves(group: Calm) -> None:
    for number in range(4):
        group.start_member(f"m{number}")
        assert group.moves_until_settled() == group.partitions // (number + 1)
    leaving = group.running[1]
    mine = len(leaving.holdings.holdings)
    leaving.leave()
    assert group.moves_until_settled() == mine


def test_a_member_that_comes_back_within_the_grace_moves_nothing_of_the_others(group: Calm) -> None:
    group.start("m0", "m1", "m2")
    killed = group.follower
    mine = len(killed.holdings.holdings)
    before = group.moves
    killed.crash()
    group.wait(1.0)
    group.start_member(killed.member)
    moves = group.moves_until_settled(before)
    assert moves == mine if group.scene.settings.rejoin_grace else moves >= mine


def test_what_a_killed_member_had_does_not_wait_for_its_session_timeout(group: Calm) -> None:
    group.start("m0", "m1", "m2")
    group.follower.crash()
    assert not group.consumed
    settings = group.scene.settings
    group.wait(settings.rejoin_grace + min(settings.session_timeout, SOON))
    assert group.consumed or settings.session_timeout < SOON
