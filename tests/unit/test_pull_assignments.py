"""What members of a pull group are told, and what they make of it."""

from partymq.group.assignments import Assignments
from partymq.group.duties import Duties, GiveUp, Take
from partymq.group.events import Cancel, Drain, Reclaim, Released
from partymq.group.state import GroupState, Member, MemberState, Partition
from partymq.group.wire import Assignment, Standing, decode_assignment, encode


def group(**states: MemberState) -> GroupState:
    """Two partitions, of `a`; each member's control queue is `q-` and its name."""
    state = GroupState(partitions=[Partition("a", 3), Partition("a", 4)], generation=4)
    for name, its in states.items():
        state.members[name] = Member(name, its, 0.0, queue=f"q-{name}")
    return state


def test_an_assignment_is_the_whole_truth_with_fencing_tokens() -> None:
    told = Assignments(group(a=MemberState.READY, b=MemberState.READY), epoch=7).all()
    assert told == {
        "a": Assignment(7, 4, partitions={0: 3, 1: 4}, piecewise=True, answers=0.0),
        "b": Assignment(7, 4, piecewise=True, answers=0.0),
    }
    assert decode_assignment(encode(told["a"])) == told["a"]


def test_who_has_no_control_queue_or_does_not_consume_is_not_told() -> None:
    state = group(a=MemberState.REBINDING, b=MemberState.SET_ASIDE, c=MemberState.LOST, d=MemberState.PENDING)
    assert Assignments(state, 1).all() == {}


def test_what_is_to_be_given_up_is_out_of_the_assignment_until_the_coordinator_has_decided() -> None:
    assignments = Assignments(group(a=MemberState.READY), 1)
    assert not assignments.take(Drain(9, "a", "q-a", [1]))
    revoking = Assignment(1, 4, partitions={0: 3}, revoke={9: [1]}, piecewise=True, answers=0.0)
    assert assignments.all()["a"] == revoking

    assert assignments.completes("a", 8) == []
    assert assignments.completes("b", 9) == []
    assert assignments.completes("a", 9) == [Released(9, partitions=(1,))]
    assert assignments.all()["a"] == revoking
    assignments.done(Released(9, partitions=(1,)))
    assert assignments.all()["a"].partitions == {0: 3, 1: 4}


def test_a_hand_over_that_is_cancelled_is_taken_back() -> None:
    assignments = Assignments(group(a=MemberState.READY), 1)
    assignments.take(Drain(9, "a", "q-a", [1]))
    assignments.take(Cancel(9))
    assert assignments.all()["a"] == Assignment(1, 4, partitions={0: 3, 1: 4}, piecewise=True, answers=0.0)


def test_a_part_of_a_hand_over_goes_by_itself() -> None:
    assignments = Assignments(group(a=MemberState.READY), 1)
    assignments.take(Drain(9, "a", "q-a", [0, 1]))
    assert assignments.completes("a", 9, (1,)) == [Released(9, partitions=(1,))]
    assert assignments.completes("a", 9, (5,)) == []
    assert assignments.completes("a", 9, (0, 1)) == [Released(9, partitions=(0, 1))]


def test_a_leaving_member_is_waited_for_and_gives_up_all() -> None:
    assignments = Assignments(group(a=MemberState.LEAVING), 1)
    assert not assignments.take(Reclaim(9, "a", "q-a", [0, 1]))
    assert assignments.all()["a"].revoke == {9: [0, 1]}
    assert assignments.completes("a", 9, (0,)) == [Released(9, partitions=(0,))]
    assert assignments.completes("a", 9, (0, 1)) == [Released(9)]
    assert assignments.completes("a", 0) == [Released(9)]


def test_the_dead_and_earlier_processes_are_not_waited_for() -> None:
    assignments = Assignments(group(a=MemberState.LOST, b=MemberState.READY), 1)
    assert assignments.take(Reclaim(9, "a", "q-a", [0, 1]))
    assert assignments.take(Reclaim(10, "b", "q-old", [], unbind=True))


def test_who_is_no_member_is_told_why() -> None:
    assignments = Assignments(group(a=MemberState.READY, b=MemberState.LOST), 1)
    assert assignments.refusal("a", "q-other").standing is Standing.REPLACED
    assert assignments.refusal("b", "q-b").standing is Standing.UNKNOWN
    assert assignments.refusal("c", "q-c").standing is Standing.UNKNOWN


def test_a_member_takes_first_and_gives_up_then_and_reports_when_it_has() -> None:
    duties = Duties()
    duties.take(Assignment(1, 1, partitions={0: 5, 1: 5}))
    assert duties.next() == Take({0: 5, 1: 5})
    duties.held({0: 5, 1: 5})
    assert duties.next() is None

    duties.take(Assignment(1, 2, partitions={1: 5, 2: 6}, revoke={3: [0]}))
    assert duties.next() == Take({2: 6})
    duties.held({2: 6})
    assert duties.next() == GiveUp((0,))
    assert duties.released() == []
    duties.gave_up((0,))
    assert duties.released() == [(3, (0,))]
    assert duties.partitions == [1, 2]


def test_what_has_begun_is_passed_over_until_it_is_done() -> None:
    duties = Duties()
    duties.take(Assignment(1, 1, partitions={0: 5, 1: 5}))
    duties.begun(Take({0: 5, 1: 5}))
    duties.take(Assignment(1, 2, partitions={2: 6}, revoke={3: [0, 1]}, piecewise=True, answers=0.0))
    assert duties.next() == Take({2: 6})
    duties.begun(Take({2: 6}))
    assert duties.next() is None
    assert duties.released() == []

    duties.held({0: 5, 1: 5})
    assert duties.next() == GiveUp((0, 1))
    duties.begun(GiveUp((0, 1)))
    assert duties.next() is None
    duties.gave_up([1])
    assert duties.released() == [(3, (1,))]
    assert not duties.nothing_left


def test_a_coordinator_that_knows_no_parts_hears_of_whole_hand_overs() -> None:
    duties = Duties()
    duties.held({0: 5, 1: 5})
    duties.take(Assignment(1, 2, revoke={3: [0, 1]}))
    duties.gave_up([1])
    assert duties.released() == []
    duties.gave_up([0])
    assert duties.released() == [(3, (0, 1))]


def test_an_assignment_of_an_earlier_coordinator_is_void() -> None:
    duties = Duties()
    assert duties.take(Assignment(2, 1, partitions={0: 1}))
    assert not duties.take(Assignment(1, 9))
    assert duties.next() == Take({0: 1})


def test_with_another_token_a_partition_is_given_up_and_taken_again() -> None:
    duties = Duties()
    duties.held({0: 1})
    duties.take(Assignment(1, 1, partitions={0: 2}))
    assert duties.next() == GiveUp((0,))
    duties.gave_up((0,))
    assert duties.next() == Take({0: 2})


def test_who_leaves_wants_nothing_any_more() -> None:
    duties = Duties()
    duties.held({0: 1})
    duties.leave()
    duties.take(Assignment(1, 1, partitions={0: 1, 1: 1}))
    assert duties.next() == GiveUp((0,))


def test_what_a_try_to_join_has_brought_counts_no_more_in_the_next_one() -> None:
    duties = Duties()
    duties.joins()
    duties.take(Assignment(1, 3, partitions={0: 3}, revoke={1: [1]}))
    duties.joins()
    assert duties.next() is None
    assert duties.released() == []


def test_a_refusal_from_before_it_was_a_member_counts_no_more() -> None:
    duties = Duties()
    duties.joins()
    duties.take(Assignment(1, 3, Standing.REPLACED))
    duties.joined()
    assert duties.standing is Standing.MEMBER
    duties.take(Assignment(1, 4, Standing.REPLACED))
    assert duties.standing is Standing.REPLACED
