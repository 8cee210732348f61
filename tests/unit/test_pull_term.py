"""One term as the coordinator of a pull group, without a broker."""

from typing import Any

import pytest

from partymq.coordinator.pull import PullSettings, PullTerm
from partymq.group import events as ev
from partymq.group.state import GroupState, Member, MemberState, Partition
from partymq.group.wire import Assignment, Bind, Command, Heartbeat, Ready, Released, Standing

EPOCH = 2


class Term(PullTerm):
    """Its members `a`, who owns all four partitions, and `b`; what it sends to them is kept."""

    def __init__(self, *, performing: bool = True) -> None:
        state = GroupState(partitions=[Partition("a", 1) for _ in range(4)], generation=1)
        for name in ("a", "b"):
            state.members[name] = Member(name, MemberState.READY, 0.0, queue=f"q-{name}")
        lease: Any = type("Lease", (), {"epoch": EPOCH})()
        nothing: Any = None
        self.now = 100.0
        super().__init__(PullSettings("g", 4), lease, state, nothing, lambda: self.now)
        self.sent: list[tuple[str, Assignment]] = []
        if performing:
            self.perform(self.begin())

    def send(self, queue: str, assignment: Assignment) -> None:
        self.sent.append((queue, assignment))

    def released(self, epoch: int, handover: int, *partitions: int) -> None:
        """A word of `a`."""
        word = Released("a", "q-a", handover, partitions, epoch)
        self.submit(Command("", word), lambda reply: pytest.fail("there is no reply to it"))
        self.go_on()

    def join(self, *names: str) -> None:
        """They join together, and nobody after them."""
        for name in names:
            for call in (Bind(name), Ready(name, f"q-{name}")):
                self.submit(Command(f"{call}", call), lambda _: None)
        self.go_on()
        self.now += 1.0
        self.happened(ev.Tick())
        self.go_on()

    def go_on(self) -> None:
        batch = self.waiting()
        effects = self.decide(batch)
        self.decided(batch)
        self.perform(effects)

    @property
    def owners(self) -> list[str | None]:
        return [partition.owner for partition in self.coordinator.state.partitions]


def test_a_partition_moves_when_its_owner_has_released_it() -> None:
    term = Term()
    assert dict(term.sent)["q-a"].revoke == {1: [2, 3]}
    term.released(EPOCH, 1, 2, 3)
    assert term.owners == ["a", "a", "b", "b"]


def test_what_has_been_released_of_a_hand_over_moves_and_the_rest_is_asked_for_again() -> None:
    term = Term()
    term.released(EPOCH, 1, 3)
    assert term.owners == ["a", "a", "a", "b"]
    told = dict(term.sent)["q-a"]
    assert (set(told.partitions), told.revoke) == ({0, 1}, {2: [2]})
    term.released(EPOCH, 1, 2, 3)
    assert term.owners == ["a", "a", "a", "b"]
    term.released(EPOCH, 2, 2)
    assert term.owners == ["a", "a", "b", "b"]


def test_what_else_has_to_move_does_not_wait_for_a_handler_that_takes_long() -> None:
    term = Term()
    term.released(EPOCH, 1, 3)
    assert dict(term.sent)["q-a"].revoke == {2: [2]}, "its handler goes on and on"
    term.join("c", "d")
    told = dict(term.sent)["q-a"]
    assert (set(told.partitions), told.revoke) == ({0}, {3: [1, 2]})
    term.released(EPOCH, 3, 1)
    assert term.owners == ["a", "c", "a", "b"]
    assert dict(term.sent)["q-a"].revoke == {4: [2]}


def test_a_hand_over_is_not_begun_anew_where_nothing_comes_to_it() -> None:
    term = Term()
    term.join("c")
    assert dict(term.sent)["q-a"].revoke == {1: [2, 3]}


def test_a_word_to_an_earlier_coordinator_completes_no_hand_over_of_the_same_number() -> None:
    term = Term()
    term.released(EPOCH - 1, 1, 3)
    assert term.owners == ["a"] * 4
    assert dict(term.sent)["q-a"].revoke == {1: [2, 3]}


def test_a_member_that_is_heard_before_the_first_state_is_saved_is_not_refused() -> None:
    term = Term(performing=False)
    effects = term.begin()
    beat = Command("", Heartbeat("a", EPOCH - 1, 1, "q-a"))
    term.submit(beat, lambda reply: pytest.fail("there is no reply to it"))
    assert term.sent == [], "what is not saved is told to nobody"
    term.perform(effects)
    term.submit(beat, lambda reply: pytest.fail("there is no reply to it"))
    assert {told.standing for _, told in term.sent} == {Standing.MEMBER}
    term.submit(Command("", Heartbeat("c", EPOCH - 1, 1, "q-c")), lambda reply: None)
    assert term.sent[-1][1].standing is Standing.UNKNOWN


def test_a_heartbeat_is_answered_with_its_time_and_nothing_else_is() -> None:
    term = Term()
    assert {told.answers for _, told in term.sent} == {0.0}
    term.submit(Command("", Heartbeat("b", EPOCH, 1, "q-b", asked=71.25)), lambda reply: None)
    assert term.sent[-1] == ("q-b", Assignment(EPOCH, 1, piecewise=True, answers=71.25))
    term.look()
    assert {told.answers for _, told in term.sent[-2:]} == {0.0}


@pytest.mark.parametrize(("members", "seconds"), [(2, 0.25), (100, 0.25), (250, 0.25), (2000, 2.0)])
def test_members_are_looked_for_four_times_a_second_up_to_250_of_them(members: int, seconds: float) -> None:
    term = Term()
    for number in range(members - 2):
        name = f"m{number}"
        term.coordinator.state.members[name] = Member(name, MemberState.READY, 0.0, queue=f"q-{name}")
    term.perform([ev.Start()])
    assert term.look_interval == seconds
    term.sent.clear()
    term.look()
    assert len(term.sent) == members
