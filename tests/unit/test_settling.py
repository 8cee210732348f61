"""Members that join at about the same time are given partitions together, so that each moves once."""

from collections.abc import Iterable

import pytest

from partymq.group import events as ev
from partymq.group.coordinator import Coordinator
from partymq.group.membership import Timing
from partymq.group.settling import Settling
from partymq.group.state import GroupState
from partymq.group.wire import Bind, Ready, Unbind

SETTLE = 0.15
STEP = 0.01
PARTITIONS = 64


class Group:
    """Its members give up at once what they are asked to; every change of an owner is counted."""

    def __init__(self, settle: float = SETTLE) -> None:
        self.state = GroupState.new(PARTITIONS)
        self.coordinator = Coordinator(self.state, Timing(settle=settle))
        self.now = 10.0
        self.moved = [0] * PARTITIONS
        self.first_at: float | None = None
        self._owners: list[str | None] = [None] * PARTITIONS
        self._see(self.coordinator.start(self.now, self.now))

    def join(self, name: str) -> None:
        self._handle(ev.Called(f"bind {name}", Bind(name)))
        self._handle(ev.Called(f"ready {name}", Ready(name, f"q-{name}")))

    def leave(self, name: str) -> None:
        self._handle(ev.Called(f"unbind {name}", Unbind(name)))

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += STEP
            self._handle(ev.Tick())

    def join_all(self, names: Iterable[str], gap: float) -> None:
        for name in names:
            self.join(name)
            self.wait(gap)
        self.wait(2.0)

    @property
    def moves(self) -> int:
        return sum(self.moved)

    @property
    def shares(self) -> list[int]:
        return sorted(len(self.state.owned_by(name)) for name in self.state.members)

    def _handle(self, event: ev.Event) -> None:
        self._see(self.coordinator.handle(event, self.now))

    def _see(self, effects: list[ev.Effect]) -> None:
        for number, partition in enumerate(self.state.partitions):
            before, self._owners[number] = self._owners[number], partition.owner
            self.moved[number] += before is not None and before != partition.owner
        if self.first_at is None and any(self._owners):
            self.first_at = self.now
        for effect in effects:
            if isinstance(effect, ev.Drain):
                self._handle(ev.Released(effect.handover, partitions=tuple(effect.partitions)))
            elif isinstance(effect, ev.Reclaim):
                self._handle(ev.Released(effect.handover))


@pytest.mark.parametrize("gap", [0.0, 0.05, 0.12])
def test_nothing_moves_twice_when_eight_members_start_together(gap: float) -> None:
    group = Group()
    group.join_all("abcdefgh", gap)
    assert group.moves == 0
    assert group.shares == [8] * 8


def test_what_moves_to_members_that_join_together_moves_once() -> None:
    group = Group()
    group.join_all("ab", 2.0)
    before = group.moves
    group.join_all("cdefgh", 0.1)
    assert group.moves - before == 48
    assert group.shares == [8] * 8


def test_without_it_the_same_partitions_move_again_and_again() -> None:
    group = Group(settle=0.0)
    group.join_all("abcdefgh", 0.05)
    assert group.moves > 100


def test_who_comes_alone_waits_but_a_moment() -> None:
    group = Group()
    began = group.now
    group.join("a")
    group.wait(1.0)
    assert group.first_at is not None
    assert group.first_at - began <= SETTLE + 2 * STEP
    group.join("b")
    group.wait(SETTLE + 2 * STEP)
    assert group.shares == [32, 32]


def test_who_comes_shortly_after_another_is_probably_not_the_last() -> None:
    group = Group()
    group.join_all("abcd", 0.28)
    assert group.moves == 48, "the first one was given all, and gives up three quarters of it, once"


def test_members_that_come_one_after_the_other_do_not_keep_the_first_waiting_for_long() -> None:
    group = Group()
    began = group.now
    group.join_all((f"m{number}" for number in range(30)), 0.1)
    assert group.first_at is not None
    assert group.first_at - began <= 1.0 + 2 * STEP
    assert group.moves < 150


def test_what_somebody_leaves_does_not_wait() -> None:
    group = Group()
    group.join_all("ab", 1.0)
    group.join("c")
    group.leave("b")
    assert None not in {partition.owner for partition in group.state.partitions}
    assert group.state.owned_by("b") == []


def test_in_a_rolling_deploy_the_new_member_gets_what_an_old_one_left() -> None:
    """New names each time: nobody can know that the next one comes. So what an old one had is kept by others
    meanwhile; all the rest stays where it is."""
    group = Group()
    group.join_all("abcdefgh", 0.0)
    for name in "abcdefgh":
        group.leave(name)
        group.wait(2.0)
        group.join(f"new-{name}")
        group.wait(2.0)
    assert group.moved == [2] * PARTITIONS


def test_an_old_member_that_leaves_when_the_new_one_has_just_joined_hands_over_to_it_directly() -> None:
    group = Group()
    group.join_all("abcdefgh", 0.0)
    for name in "abcdefgh":
        group.join(f"new-{name}")
        group.wait(SETTLE / 2)
        group.leave(name)
        group.wait(2.0)
    assert group.moved == [1] * PARTITIONS


def test_when_it_is_over_it_begins_anew() -> None:
    settling = Settling(quiet=0.2, most=0.5)
    assert settling.over(0.0)
    for name, now in (("a", 1.0), ("a", 1.1), ("b", 1.25), ("c", 1.4)):
        settling.joined(name, now)
        assert not settling.over(now + 0.05)
    assert settling.over(1.5)
    settling.joined("d", 3.0)
    assert not settling.over(3.19)
    assert settling.over(3.2)
