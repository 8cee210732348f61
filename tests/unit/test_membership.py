"""Who is a member, and in which state of its life."""

import itertools

import pytest

from partymq.group.events import Learned, Observed
from partymq.group.membership import MOST_MEMBERS, RETRY_MOST, Membership, Timing
from partymq.group.state import (
    GONE,
    TRANSITIONS,
    GroupState,
    Member,
    MemberState,
    SetAside,
    Step,
)
from partymq.group.wire import Bind, Heartbeat, MemberCall, Ready, Status, Unbind
from tests.saved_state import decode_state, encode_state

S = MemberState
TIMING = Timing(expires_after=30.0, pending_expires_after=20.0)


FAREWELLS = (Unbind("a", "q-a"), Bind("a", "q-a"))


class Life:
    """The members of a group, driven by hand."""

    def __init__(self) -> None:
        self.state = GroupState.new(4)
        self.membership = Membership(self.state, TIMING)
        self.membership.start(100.0, 1e9)
        self.now = 100.0
        self._requests = 0

    def call(self, call: MemberCall, request_id: str | None = None) -> Status:
        self._requests += 1
        return self.membership.call(request_id or f"r{self._requests}", call, self.now)

    def joins(self, hostname: str = "a", queue: str | None = "q-a") -> Member:
        assert self.call(Bind(hostname)) is Status.OK
        assert self.call(Ready(hostname, queue)) is Status.OK
        return self.state.members[hostname]

    def where(self, hostname: str = "a") -> MemberState:
        """The state of a member."""
        return self.state.members[hostname].state

    def waits(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            self.membership.tick(self.now)

    def sees(self, **seen: object) -> None:
        member = self.state.members["a"]
        facts: dict[str, object] = {"exists": True, "consumers": 1, "bound": True, **seen}
        self.membership.observed(Observed("a", member.incarnation, **facts), self.now)  # type: ignore[arg-type]

    def learns(self, queue: str) -> bool:
        return self.membership.learned(Learned("a", self.state.members["a"].incarnation, queue), self.now)


# -- calls ----------------------------------------------------------------------------------------------


def test_a_member_is_pending_until_it_is_ready() -> None:
    life = Life()
    assert life.call(Bind("a")) is Status.OK
    assert life.where() is S.PENDING
    assert life.call(Bind("a")) is Status.ALREADY_PENDING
    assert life.call(Ready("a", "q-a")) is Status.OK
    assert life.where() is S.READY
    assert life.call(Ready("a", "q-a")) is Status.ALREADY_READY


def test_a_call_that_is_sent_again_is_answered_as_before() -> None:
    life = Life()
    assert life.call(Bind("a"), "r1") is Status.OK
    assert life.call(Bind("a"), "r1") is Status.OK
    assert life.call(Ready("a"), "r2") is Status.OK
    assert life.call(Ready("a"), "r2") is Status.OK
    assert life.state.members["a"].incarnation == 1
    assert life.call(Unbind("a"), "r3") is Status.OK
    assert life.call(Unbind("a"), "r3") is Status.OK


def test_a_late_copy_of_a_call_does_not_speak_for_the_next_incarnation() -> None:
    life = Life()
    life.call(Bind("a"), "r1")
    life.call(Ready("a", "q-a"), "r2")
    life.call(Unbind("a"), "r3")
    life.call(Bind("a"), "r4")
    assert life.call(Ready("a", "q-a"), "r2") is Status.OK
    assert life.where() is S.REBINDING
    assert life.call(Unbind("a"), "r3") is Status.OK
    assert life.where() is S.REBINDING
    life.call(Ready("a", "q-a"), "r5")
    assert life.where() is S.READY


@pytest.mark.parametrize("ready", [True, False])
def test_heartbeats_are_welcome_from_members_only(ready: bool) -> None:
    life = Life()
    assert life.call(Heartbeat("a")) is Status.UNKNOWN_MEMBER
    life.call(Bind("a"))
    if ready:
        life.call(Ready("a"))
    assert life.call(Heartbeat("a")) is Status.OK
    life.call(Unbind("a"))
    assert life.call(Heartbeat("a")) is Status.UNKNOWN_MEMBER


def test_who_is_not_bound_can_not_be_ready_but_may_leave() -> None:
    life = Life()
    assert life.call(Ready("a")) is Status.NOT_BOUND
    assert life.call(Unbind("a")) is Status.OK
    assert life.state.members == {}
    life.joins()
    life.call(Unbind("a"))
    assert life.call(Ready("a")) is Status.NOT_BOUND


def test_there_is_an_end_to_the_number_of_members() -> None:
    life = Life()
    for number in range(MOST_MEMBERS):
        assert life.call(Bind(f"pod-{number}")) is Status.OK
    assert life.call(Bind("one-too-many")) is Status.GROUP_FULL
    assert life.call(Ready("pod-0")) is Status.OK


def test_a_new_incarnation_is_counted() -> None:
    life = Life()
    member = life.joins()
    life.call(Bind("a"))
    assert (member.state, member.incarnation) == (S.REBINDING, 2)
    life.call(Ready("a", "q-a"))
    assert (member.state, member.incarnation, member.old_queues) == (S.READY, 2, [])


# -- the table of states --------------------------------------------------------------------------------


def brought_to(state: MemberState) -> Life:
    life = Life()
    life.call(Bind("a"))
    if state is not S.PENDING:
        life.call(Ready("a", "q-a"))
    match state:
        case S.REBINDING:
            life.call(Bind("a"))
        case S.SET_ASIDE:
            life.membership.set_aside("a", SetAside.NO_CONSUMER, life.now)
        case S.LEAVING:
            life.call(Unbind("a"))
        case S.LOST:
            life.waits(30)
    assert life.where() is state
    life.membership.changed = False
    return life


@pytest.mark.parametrize(("state", "step"), list(itertools.product(MemberState, Step)), ids=str)
def test_every_step_leads_where_the_table_says_or_changes_nothing(state: MemberState, step: Step) -> None:
    life = brought_to(state)
    before = encode_state(life.state)
    match step:
        case Step.BIND:
            life.call(Bind("a"))
        case Step.READY:
            life.call(Ready("a", "q-a"))
        case Step.UNBIND:
            life.call(Unbind("a"))
        case Step.EXPIRE:
            life.waits(31)
        case Step.SET_ASIDE:
            life.membership.unroutable("a", SetAside.RETURNED, life.now)
        case Step.RECOVER:
            life.now += 2
            life.sees()
    expected = TRANSITIONS.get((state, step))
    assert life.where() is (expected or state)
    if expected is None:
        assert encode_state(life.state) == before
        assert not life.membership.changed
    elif expected is not state:
        assert life.membership.changed


def test_every_state_can_be_left_but_those_that_are_forgotten() -> None:
    for state in MemberState:
        ways = {to for (origin, _), to in TRANSITIONS.items() if origin is state and to is not state}
        assert ways, state
    assert {S.LEAVING, S.LOST} == GONE


# -- time -----------------------------------------------------------------------------------------------


def test_a_member_is_lost_when_nothing_is_heard_of_it() -> None:
    life = Life()
    life.joins()
    life.waits(29)
    life.call(Heartbeat("a"))
    life.waits(29)
    assert life.where() is S.READY
    life.waits(1)
    assert life.where() is S.LOST


@pytest.mark.parametrize("state", [S.PENDING, S.REBINDING])
def test_who_does_not_get_ready_is_lost_though_it_is_heard_of(state: MemberState) -> None:
    life = brought_to(state)
    for _ in range(19):
        life.waits(1)
        life.call(Heartbeat("a"))
    assert life.where() is state
    life.waits(1)
    assert life.where() is S.LOST


def test_a_dead_member_that_is_tried_again_and_again_is_lost_all_the_same() -> None:
    """Being set aside and recovering is nothing that was heard of it."""
    life = Life()
    life.joins(queue=None)
    for _ in range(29):
        life.membership.unroutable("a", SetAside.RETURNED, life.now)
        life.waits(1)
    life.waits(1)
    assert life.where() is S.LOST


def test_a_member_whose_queue_stays_unreachable_is_told_to_bind_again() -> None:
    life = Life()
    life.joins()
    life.membership.unroutable("a", SetAside.RETURNED, life.now)
    life.sees(bound=False)
    for _ in range(29):
        life.waits(1)
        assert life.call(Heartbeat("a")) is Status.OK
    life.waits(1)
    assert life.where() is S.LOST
    assert life.call(Heartbeat("a")) is Status.UNKNOWN_MEMBER


def test_a_long_gap_between_two_ticks_is_our_own_fault() -> None:
    life = Life()
    life.joins()
    life.now += 1000.0
    life.membership.tick(life.now)
    assert life.where() is S.READY
    life.waits(29)
    assert life.where() is S.READY
    life.waits(1)
    assert life.where() is S.LOST


def test_with_short_patience_a_shorter_gap_is_our_own_fault() -> None:
    life = Life()
    life.membership = Membership(life.state, Timing(expires_after=2.0))
    life.membership.start(life.now, 1e9)
    life.joins()
    life.now += 2.5
    life.membership.tick(life.now)
    assert life.where() is S.READY
    life.waits(2)
    assert life.where() is S.LOST


def test_a_member_s_own_patience_counts_more_and_is_saved() -> None:
    life = Life()
    life.joins("slow")
    life.call(Bind("quick"))
    life.call(Ready("quick", "queue", session_timeout=3.0, rejoin_grace=2.0))
    life.state = decode_state(encode_state(life.state))
    life.membership = Membership(life.state, TIMING)
    life.membership.start(life.now, 1e9)
    life.waits(4)
    assert life.where("quick") is S.READY
    life.waits(1)
    assert life.where("quick") is S.LOST
    life.waits(24)
    assert life.where("slow") is S.READY


def test_a_member_comes_back_in_its_own_time() -> None:
    life = Life()
    life.call(Bind("a"))
    life.call(Ready("a", "queue", session_timeout=3.0, rejoin_grace=60.0))
    life.call(Bind("a"))
    life.waits(59)
    assert life.where() is S.REBINDING
    life.waits(1)
    assert life.where() is S.LOST


def test_a_gap_is_measured_by_the_shortest_patience() -> None:
    life = Life()
    life.call(Bind("a"))
    life.call(Ready("a", "queue", session_timeout=1.0))
    life.now += 1.5
    life.membership.tick(life.now)
    assert life.where() is S.READY


def test_a_new_coordinator_gives_everybody_the_full_time() -> None:
    life = Life()
    life.joins()
    life.waits(29)
    life.state = decode_state(encode_state(life.state))
    life.membership = Membership(life.state, TIMING)
    life.membership.start(life.now, 1e9)
    life.waits(29)
    assert life.where() is S.READY
    life.waits(1)
    assert life.where() is S.LOST


# -- what the broker says -------------------------------------------------------------------------------


def test_a_queue_without_its_consumer_is_set_aside_after_a_moment() -> None:
    life = Life()
    member = life.joins()
    life.sees(consumers=0)
    life.waits(5)
    assert life.where() is S.READY  # it never had one: perhaps it begins to consume later
    life.sees()
    life.sees(consumers=0)
    life.waits(1)
    assert (member.state, member.reason) == (S.SET_ASIDE, SetAside.NO_CONSUMER)
    life.waits(5)
    assert life.where() is S.SET_ASIDE
    life.sees()
    assert life.where() is S.READY


def test_a_consumer_that_is_back_at_once_is_not_missed() -> None:
    life = Life()
    life.joins()
    life.sees()
    life.sees(consumers=0)
    life.now += 0.5
    life.sees()
    life.waits(5)
    assert life.where() is S.READY


def test_a_missing_consumer_is_not_forgotten_when_time_was_lost() -> None:
    """It is told only once that there is none."""
    life = Life()
    life.joins()
    life.sees()
    life.sees(consumers=0)
    life.now += 0.5
    life.membership.forgive(life.now)
    life.waits(0.5)
    assert life.where() is S.READY
    life.waits(0.5)
    assert life.where() is S.SET_ASIDE


def test_a_queue_that_is_gone_is_set_aside_at_once_and_comes_back() -> None:
    life = Life()
    member = life.joins()
    life.sees(exists=False)
    assert (member.state, member.reason) == (S.SET_ASIDE, SetAside.RETURNED)
    life.waits(5)
    assert life.where() is S.SET_ASIDE
    life.sees()
    assert life.where() is S.READY


def test_a_queue_that_is_not_bound_is_waited_for() -> None:
    life = Life()
    life.joins()
    life.membership.unroutable("a", SetAside.RETURNED, life.now)
    life.sees(bound=False)
    life.waits(5)
    assert life.where() is S.SET_ASIDE
    life.sees()
    assert life.where() is S.READY


def test_a_refusal_is_tried_again_after_ever_longer_times() -> None:
    life = Life()
    life.joins()
    waits = []
    for _ in range(8):
        life.membership.unroutable("a", SetAside.REJECTED, life.now)
        since = life.now
        while life.where() is S.SET_ASIDE:
            life.call(Heartbeat("a"))
            life.waits(1)
        waits.append(life.now - since)
    assert waits == [1, 2, 4, 8, 16, 32, RETRY_MOST, RETRY_MOST]
    for _ in range(61):
        life.call(Heartbeat("a"))
        life.waits(1)
    life.membership.unroutable("a", SetAside.REJECTED, life.now)
    life.waits(1)
    assert life.where() is S.READY  # it was well for long: that is a new trouble


def test_an_answer_about_an_earlier_incarnation_is_void() -> None:
    life = Life()
    life.joins()
    life.call(Bind("a"))
    life.call(Ready("a", "q-a"))
    life.membership.observed(Observed("a", 1, exists=False), life.now)
    assert life.where() is S.READY
    assert not life.membership.learned(Learned("a", 1, "q-x"), life.now)


# -- queues ---------------------------------------------------------------------------------------------


def test_the_name_of_a_queue_is_learnt_once() -> None:
    life = Life()
    member = life.joins(queue=None)
    assert life.membership.may_become_known(member, life.now)
    assert life.learns("q-a")
    assert not life.learns("q-a")
    assert (member.queue, member.old_queues) == ("q-a", [])


def test_after_a_while_the_name_of_a_queue_is_not_waited_for_any_more() -> None:
    life = Life()
    member = life.joins(queue=None)
    life.waits(3)
    assert not life.membership.may_become_known(member, life.now)


def test_a_queue_that_was_not_believed_in_is_taken_when_the_one_before_is_seen_to_be_gone() -> None:
    life = Life()
    member = life.joins(queue="q-1")
    assert not life.learns("q-2")  # the first one may be there still
    life.sees(exists=False, consumers=0)
    assert life.where() is S.READY
    assert (member.queue, member.old_queues) == ("q-2", ["q-1"])
    life.sees(exists=False, consumers=0)
    assert life.where() is S.SET_ASIDE
    assert member.queue == "q-2"


def test_a_queue_that_an_earlier_incarnation_was_seen_with_is_forgotten() -> None:
    life = Life()
    member = life.joins(queue="q-1")
    assert not life.learns("q-2")
    life.call(Bind("a"))
    life.call(Ready("a", "q-3"))
    life.sees(exists=False, consumers=0)
    assert (life.where(), member.queue) == (S.SET_ASIDE, "q-3")


def test_the_queues_of_earlier_incarnations_are_remembered() -> None:
    life = Life()
    member = life.joins(queue="q1")
    for queue in ("q2", "q2", None, "q3"):
        life.call(Bind("a"))
        life.call(Ready("a", queue))
    assert (member.queue, member.old_queues) == ("q3", ["q1", "q2"])
    life.call(Bind("a"))
    life.call(Ready("a", "q1"))
    assert (member.queue, member.old_queues) == ("q1", ["q2", "q3"])


@pytest.mark.parametrize(
    ("seen", "after", "believed"),
    [
        ({}, 10.0, False),
        ({"exists": False}, 0.0, True),
        ({"bound": False}, 0.0, True),
        ({"consumers": 0}, 1.0, False),
        ({"consumers": 0}, 4.0, True),
    ],
)
def test_another_queue_is_believed_in_only_if_the_known_one_is_of_no_use(
    seen: dict[str, object], after: float, believed: bool
) -> None:
    life = Life()
    member = life.joins()
    life.now += after
    life.sees(**seen)
    assert life.learns("other") is believed
    assert member.queue == ("other" if believed else "q-a")
    assert member.old_queues == (["q-a"] if believed else [])


def test_a_pending_member_says_its_queue_when_it_is_ready() -> None:
    life = Life()
    life.call(Bind("a"))
    assert not life.learns("q-a")
    assert life.state.members["a"].queue is None


def test_a_member_set_aside_for_its_queue_recovers_when_its_new_one_is_known() -> None:
    life = Life()
    member = life.joins()
    life.sees(exists=False)
    assert life.learns("q-a2")
    assert (member.state, member.queue) == (S.READY, "q-a2")


# -- trying again ---------------------------------------------------------------------------------------


def test_what_is_put_off_is_tried_again_after_ever_longer_times_or_when_somebody_comes() -> None:
    life = Life()
    life.joins()
    watch = life.membership.watches["a"]
    waits = []
    for _ in range(7):
        life.membership.put_off("a", life.now)
        waits.append(watch.drain_at - life.now)
    assert waits == [2, 4, 8, 16, 32, RETRY_MOST, RETRY_MOST]
    life.joins("b", "q-b")
    assert watch.drain_at == 0.0


def test_a_member_that_is_forgotten_leaves_no_trace() -> None:
    life = Life()
    life.joins()
    life.membership.forget("a")
    assert life.state.members == {}
    assert life.membership.watches == {}
    assert life.membership.changed


@pytest.mark.parametrize("farewell", FAREWELLS)
def test_a_farewell_that_comes_late_does_not_hit_the_next_process_of_that_name(farewell: MemberCall) -> None:
    life = Life()
    life.joins(queue="q-a")
    assert life.call(Bind("a")) is Status.OK
    assert life.call(farewell) is Status.OK
    assert life.where() is S.REBINDING
    assert life.call(Ready("a", "q-next")) is Status.OK
    assert life.call(farewell) is Status.OK
    assert life.where() is S.READY
    assert life.state.members["a"].incarnation == 2


@pytest.mark.parametrize("farewell", FAREWELLS)
def test_a_farewell_of_somebody_unknown_leaves_nothing_behind(farewell: MemberCall) -> None:
    life = Life()
    assert life.call(farewell) is Status.OK
    assert life.state.members == {}


def test_a_farewell_of_the_process_itself_counts() -> None:
    life = Life()
    life.joins(queue="q-a")
    life.call(Bind("a", "q-a"))
    assert life.where() is S.REBINDING
    life.call(Ready("a", "q-b"))
    life.call(Unbind("a", "q-b"))
    assert life.where() is S.LEAVING


def test_a_farewell_that_names_no_queue_counts() -> None:
    """Members of an earlier version say so, and those of push groups."""
    life = Life()
    life.joins()
    life.call(Unbind("a"))
    assert life.where() is S.LEAVING


def test_a_new_coordinator_takes_a_queue_that_was_gone_to_be_gone_until_it_is_seen() -> None:
    """It gave a dead member partitions back for a moment: they moved twice for nothing."""
    life = Life()
    life.joins()
    life.sees(exists=False, consumers=0)
    assert life.where() is S.SET_ASIDE
    life.membership = Membership(life.state, TIMING)
    life.membership.start(life.now, 1e9)
    life.waits(10.0)
    assert life.where() is S.SET_ASIDE
    life.sees()
    assert life.where() is S.READY
