"""A pull group gets another number of partitions: what the coordinator decides."""

import random
from dataclasses import replace
from typing import Any

import pytest

from partymq.coordinator.candidate import still_valid
from partymq.coordinator.lease import StateMessage
from partymq.errors import ConfigError
from partymq.group import events as ev
from partymq.group.assignments import Assignments
from partymq.group.coordinator import Coordinator
from partymq.group.layout import GroupLayout
from partymq.group.membership import Timing
from partymq.group.names import layout_and_number, partition_id
from partymq.group.partitioner import partition_of
from partymq.group.state import GroupState, MemberState
from partymq.group.wire import Bind, Ready, Unbind
from tests.saved_state import decode_state, encode_state


class Group:
    """A coordinator, and a broker in which hand-overs are answered when the test says so."""

    def __init__(self, partitions: int, members: int) -> None:
        self.coordinator = Coordinator(GroupState.new(partitions), Timing(1000.0, 1000.0))
        self.assignments = Assignments(self.coordinator.state, 1)
        self.drains: list[tuple[str, int]] = []
        self.coordinator.start(0.0, 0.0)
        for number in range(members):
            self.join(f"m{number}")

    @property
    def state(self) -> GroupState:
        return self.coordinator.state

    def happens(self, event: ev.Event) -> list[ev.Effect]:
        effects = self.coordinator.handle(event, 1.0)
        self.assignments.done(event)
        for effect in effects:
            match effect:
                case ev.Drain() | ev.Reclaim():
                    self.assignments.take(effect)
                    self.drains.append((effect.hostname, effect.handover))
                case ev.Cancel(number):
                    self.assignments.take(effect)
                    self.drains = [one for one in self.drains if one[1] != number]
        return effects

    def join(self, name: str) -> None:
        self.happens(ev.Called(f"b-{name}", Bind(name)))
        self.happens(ev.Called(f"r-{name}", Ready(name, f"q-{name}")))
        self.release()

    def release(self) -> None:
        """All members give up what they are to."""
        while self.drains:
            for event in self.assignments.completes(*self.drains.pop(0)):
                self.happens(event)

    def retire(self, number: int) -> None:
        """A partition of the layout before is idle, given up, and seen to be empty."""
        self.happens(ev.Idle(number))
        self.release()
        self.happens(ev.Retired(number))

    def there(self) -> list[str]:
        return [name for name, member in self.state.members.items() if member.state is MemberState.READY]

    def owned(self, layout: int) -> dict[int, str]:
        return {
            self.state.id_of(number) % 10_000: partition.owner
            for number, partition in enumerate(self.state.partitions)
            if partition.owner is not None and layout_and_number(self.state.id_of(number))[0] == layout
        }


def resized(before: int, after: int, members: int = 2) -> Group:
    group = Group(before, members)
    layout = GroupLayout(before).resized(after)
    group.happens(ev.Resized(after, layout.common))
    return group


def test_partitions_of_all_layouts_have_ids_of_their_own() -> None:
    assert partition_id(1, 7) == 7
    assert layout_and_number(partition_id(3, 17)) == (3, 17)
    state = GroupState.new(2)
    state.resize(3, 1)
    ids = [state.id_of(number) for number in range(5)]
    assert ids == [0, 1, 10_000, 10_001, 10_002]
    assert [state.index_of(one) for one in ids] == [0, 1, 2, 3, 4]
    assert [state.index_of(one) for one in (2, 10_003, 20_000)] == [None] * 3
    assert decode_state(encode_state(state)) == state
    state.resized()
    assert [state.id_of(number) for number in range(3)] == ids[2:]
    assert state.index_of(0) is None


@pytest.mark.parametrize(("before", "after"), [(64, 128), (128, 64), (6, 4), (5, 7), (4, 6), (1, 3), (3, 1)])
def test_a_partition_waits_for_exactly_those_that_can_hold_its_keys(before: int, after: int) -> None:
    keys = [f"key-{number}".encode() for number in range(20_000)]
    feeds: dict[int, set[int]] = {number: set() for number in range(after)}
    for key in keys:
        feeds[partition_of(key, after)].add(partition_of(key, before))
    layout = GroupLayout(before).resized(after)
    for open_one in range(before):
        state = GroupState.new(before)
        state.resize(after, layout.common)
        for number in range(before):
            state.partitions[number].retired = number != open_one
        waiting = {number - before for number in state.waiting()}
        assert waiting == {number for number, its in feeds.items() if open_one in its}


def test_a_new_partition_has_an_owner_when_its_old_ones_are_retired_and_not_before() -> None:
    group = resized(2, 4)
    assert group.owned(1) == {0: "m0", 1: "m1"}
    assert group.owned(2) == {}
    told = group.assignments.all()
    assert told["m0"].partitions.keys() == {0}
    assert told["m0"].retiring == [0]

    group.happens(ev.Idle(0))
    assert group.assignments.all()["m0"].revoke != {}
    assert group.assignments.all()["m0"].retiring == []
    assert group.owned(2) == {}
    group.happens(ev.Retired(0))
    assert group.owned(2) == {}, "its owner has not given it up"
    group.release()
    assert group.owned(1) == {1: "m1"}
    assert group.owned(2) == {}, "nobody has looked whether it is empty"
    group.happens(ev.Retired(0))
    assert group.owned(2).keys() == {0, 2}
    group.retire(1)
    assert sorted(group.owned(2).values()) == ["m0", "m0", "m1", "m1"]


def test_an_old_partition_that_is_not_empty_after_all_is_consumed_again() -> None:
    group = resized(2, 4)
    group.happens(ev.Idle(0))
    group.release()
    assert 0 not in group.owned(1)
    group.happens(ev.Occupied(0))
    assert 0 in group.owned(1)
    group.happens(ev.Retired(0))
    assert not group.state.partitions[0].retired, "it is consumed"


def test_when_nothing_is_left_the_layout_before_is_forgotten_and_hand_overs_begin_anew() -> None:
    group = resized(2, 4, members=1)
    group.happens(ev.ResizeOver())
    assert group.state.retiring == 2, "there is something left"
    group.retire(0)
    group.retire(1)
    group.happens(ev.Called("b", Bind("x")))
    group.happens(ev.Called("r", Ready("x", "q-x")))
    old_drains = list(group.drains)
    assert old_drains
    effects = group.happens(ev.ResizeOver())
    assert isinstance(effects[0], ev.Save)
    assert (group.state.retiring, len(group.state.partitions), group.state.layout) == (0, 4, 2)
    assert group.drains
    assert group.drains != old_drains
    group.release()
    assert sorted(group.owned(2).values()) == ["m0", "m0", "x", "x"]
    assert group.assignments.all()["x"].partitions.keys() <= {10_000, 10_001, 10_002, 10_003}


def test_what_was_before_is_removed_only_when_it_is_saved_that_all_of_it_is_retired() -> None:
    """A coordinator that did not know it would want the queues consumed, and they would be gone."""
    group = resized(2, 4)
    group.retire(0)
    group.happens(ev.Idle(1))
    group.release()
    effects = group.happens(ev.Retired(1))
    assert effects[0] == ev.Save()
    assert ev.Remove() in effects
    later = Coordinator(decode_state(encode_state(group.state)), Timing(1000.0, 1000.0))
    assert ev.Remove() in later.start(1.0, 1.0)
    group.happens(ev.ResizeOver())
    later = Coordinator(decode_state(encode_state(group.state)), Timing(1000.0, 1000.0))
    assert ev.Remove() not in later.start(1.0, 1.0)


def test_another_resize_is_not_begun_before_one_is_over() -> None:
    group = resized(2, 4)
    group.happens(ev.Resized(8, 4))
    assert (len(group.state.partitions), group.state.layout) == (6, 2)


@pytest.mark.parametrize("seed", range(200))
def test_whatever_happens_in_a_resize_no_key_has_two_owners_and_it_ends(seed: int) -> None:
    """Members join, leave and die, the coordinator changes, queues turn out to be occupied."""
    chance = random.Random(seed)
    before, after = chance.randint(1, 9), chance.randint(1, 9)
    if before == after:
        after += 1
    group = resized(before, after, members=chance.randint(1, 3))
    names = iter(f"n{number}" for number in range(1000))
    for _ in range(80):
        roll = chance.random()
        old = [number for number in range(group.state.retiring) if not group.state.partitions[number].retired]
        if roll < 0.1:
            group.join(next(names))
        elif roll < 0.2 and len(there := group.there()) > 1:
            group.happens(ev.Called(f"u{roll}", Unbind(chance.choice(there))))
        elif roll < 0.3:
            state = decode_state(encode_state(group.state))
            group.coordinator = Coordinator(state, Timing(1000.0, 1000.0))
            group.assignments, group.drains = Assignments(state, 1), []
            for effect in group.coordinator.start(1.0, 1.0):
                if isinstance(effect, ev.Drain | ev.Reclaim):
                    group.assignments.take(effect)
                    group.drains.append((effect.hostname, effect.handover))
        elif roll < 0.5 and group.drains:
            for event in group.assignments.completes(*group.drains.pop(0)):
                group.happens(event)
        elif old:
            number = chance.choice(old)
            group.happens(chance.choice((ev.Idle(number), ev.Occupied(number), ev.Retired(number))))
        else:
            group.happens(ev.ResizeOver())
        check(group.state, before, after)
    while group.state.retiring:
        group.release()
        for number in range(group.state.retiring):
            if not group.state.partitions[number].retired:
                group.retire(number)
        group.release()
        group.happens(ev.ResizeOver())
        check(group.state, before, after)
    group.release()
    counts = [len(group.state.owned_by(name)) for name in group.state.members]
    assert sum(counts) == after
    assert max(counts) - min(counts) <= 1


def check(state: GroupState, before: int, after: int) -> None:
    if not state.retiring:
        return
    for key in (f"k{number}".encode() for number in range(60)):
        old = state.partitions[partition_of(key, before)]
        new = state.partitions[before + partition_of(key, after)]
        assert old.retired or new.owner is None
        assert not (old.retired and old.owner is not None)


def test_the_settings_of_a_group_that_is_being_resized_say_what_was() -> None:
    first = GroupLayout(6)
    second = first.resized(4)
    assert (second.partitions, second.layout, second.version, second.previous) == (4, 2, 2, 6)
    assert second.common == 2
    assert replace(second, ingress="hash-exchange").common == 1, "the broker hashes"
    assert GroupLayout.decode(second.encode()) == second
    assert second.before() == GroupLayout(6, version=2)
    assert second.settled() == GroupLayout(4, layout=2, version=3)
    assert second.settled().before() is None


@pytest.mark.parametrize("wish", [{"partitions": 6}, {"partitions": 4}, {}])
def test_who_was_told_the_number_before_a_resize_is_still_welcome(wish: dict[str, Any]) -> None:
    GroupLayout(6).resized(4).check("g", wish)
    with pytest.raises(ConfigError, match="classic"):
        GroupLayout(6).resized(4).check("g", wish | {"queue_type": "classic"})


def test_the_state_of_a_group_that_was_made_anew_is_not_taken_for_the_new_ones() -> None:
    known = StateMessage(5, 7, "a", GroupState.new(4))
    known.state.generation = 9
    resizing = GroupState.new(4)
    resizing.resize(6, 2)
    for initial in (GroupState.new(4), resizing):
        assert still_valid(known, initial) is known
    assert still_valid(None, GroupState.new(4)) is None
    anew = still_valid(known, GroupState.new(6, 2))
    assert anew is not None
    assert (len(anew.state.partitions), anew.state.layout, anew.state.generation) == (6, 2, 9)
    assert (5, 0) == anew.rank < known.rank
