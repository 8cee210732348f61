"""The coordinator's decisions: who owns which partition, and how ownership changes hands safely.

Theory of operation. Events and the time go in, effects come out; nothing else happens. A partition's owner
changes in one way only: a *hand-over* of its owner's.

    Pause owner ─► Drain or Reclaim ─► Released ─► Save ─► Assign to targets ─► Resume owner
                          └─ PutOff / HoldExhausted / no need any more ─► Resume owner, nothing changed

`Drain` is for a living owner, which takes part in the group meanwhile and after. `Reclaim` is for one that
left, died or cannot receive; what such a member leaves in its queue is a *leftover*. Its partitions are
locked (held) at the new owners until all of it is there, ahead of everything newer:

    Released(leftover) ─► Save ─► Assign locked, Move ─► Moved ─► Save ─► Fetch ─► Fetched ─► Save ─► Unlock

See `leftovers`.

What is saved (`GroupState`) is enough to go on after the coordinator's death at any point: hand-overs, moves
and fetches under way are simply begun again, because until `Assign` nothing has changed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from partymq.group.assignor import assign
from partymq.group.description import View
from partymq.group.events import (
    Answer,
    Assign,
    Called,
    Cancel,
    Drain,
    Effect,
    Event,
    Fetched,
    Forget,
    GiveWay,
    HeldUp,
    HoldExhausted,
    Idle,
    Learned,
    Moved,
    Observed,
    Occupied,
    Pause,
    PutOff,
    Reclaim,
    Released,
    Remove,
    Resized,
    ResizeOver,
    Resume,
    Retired,
    Save,
    Start,
    Stop,
    Tick,
    Unlock,
    Unroutable,
)
from partymq.group.leftovers import Leftovers
from partymq.group.membership import Membership, Timing
from partymq.group.settling import Settling
from partymq.group.state import GONE, GroupState, Member, MemberState, SetAside
from partymq.group.wire import Bind, Heartbeat, Ready, is_farewell

_OWNING = frozenset({MemberState.READY, MemberState.REBINDING})


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a hand-over is for. `queue` is the one whose emptiness is to be proven.

    `old_incarnation`: of the member's own earlier self, whose queue it is.
    """

    queue: str | None
    reclaim: bool
    old_incarnation: bool = False
    unbind: bool = False


@dataclass(frozen=True, slots=True)
class Handover:
    """A hand-over under way."""

    number: int
    hostname: str
    purpose: Purpose
    partitions: frozenset[int]

    @property
    def reclaim(self) -> bool:
        """Whether its owner is not one to go on."""
        return self.purpose.reclaim


class Coordinator:
    """One term of coordinating one group. `start` first, then `handle` for every event.

    Args:
        state: the group's state; owned and changed by the coordinator from now on.
        timing: limits of patience.

    After each call, `state` is what `Save` has to save.
    """

    def __init__(self, state: GroupState, timing: Timing) -> None:
        self.state = state
        self._membership = Membership(state, timing)
        self._leftovers = Leftovers(state)
        self._handovers: dict[str, Handover] = {}
        self._handover_number = 0
        self._paused: set[str] = set()
        self._running = False
        self._unsaved = False
        self._now = 0.0
        self._out: list[Effect] = []
        self._rebalance_since: float | None = None
        self._settling = Settling(timing.settle, timing.settle_most)
        self.emptied: set[int] = set()
        """Partitions of the layout before that were idle; nobody consumes them until it is seen whether they
        are empty."""
        self.sighted = True
        """Whether it can be seen what a member has not acked; without, a living member is not paused for a
        proof that can't be had: its partitions move when they are idle."""
        self.piecewise = False
        """Whether each partition of a hand-over is given up by itself. Else all that its owner has stands
        still until it is over."""
        self.rebalances: list[float] = []
        """Durations in seconds of the rebalances completed; whoever reads them may clear the list."""

    def __repr__(self) -> str:
        states = Counter(member.state.value for member in self.state.members.values())
        return (
            f"<Coordinator generation={self.state.generation} members={dict(states)}"
            f" handovers={sorted(self._handovers)} leftovers={len(self.state.leftovers)}>"
        )

    @property
    def settling(self) -> bool:
        """Whether it waits for further members that join, and a `Tick` soon is worth it."""
        return not self._settling.over(self._now)

    @property
    def running(self) -> bool:
        """Whether the source is to be consumed: there is somebody to route to."""
        return self._running

    def start(self, now: float, wall: float) -> list[Effect]:
        """Take up the state as it was saved. Every member gets its full time to be heard again.

        Args:
            now: monotonic seconds.
            wall: Unix seconds at the same moment, for what people read.
        """
        self._out = []
        self._now = now
        self._membership.start(now, wall)
        locked = self._leftovers.locked()
        owners = {number: p.owner for number, p in enumerate(self.state.partitions) if p.owner is not None}
        self._assign_effect({number: owner for number, owner in owners.items() if number not in locked})
        self._assign_effect({number: owner for number, owner in owners.items() if number in locked}, True)
        if self.state.all_retired:
            self._out.append(Remove())
        self._advance(now)
        return self._taken()

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What follows from an event. `now`: monotonic seconds, never going back."""
        self._out = []
        self._now = now
        members = self._membership
        match event:
            case Called(request_id, Heartbeat() as call):
                return [Answer(request_id, members.call(request_id, call, now))]
            case Called(request_id, call):
                self._out.append(Answer(request_id, members.call(request_id, call, now)))
                if members.changed and isinstance(call, Bind | Ready) and not is_farewell(call):
                    self._settling.joined(call.hostname, now)
                if isinstance(call, Ready):
                    self._renew_tokens(call.hostname)
            case Tick():
                members.tick(now)
            case HeldUp():
                members.forgive(now)
            case Observed():
                members.observed(event, now)
            case Learned(hostname):
                if members.learned(event, now):
                    # A hand-over that had to do without the queue's name starts again, with a better proof.
                    self._cancel(hostname)
            case Unroutable(hostname, reason):
                self._paused.add(hostname)  # the router has paused it by itself
                members.unroutable(hostname, reason, now)
            case HoldExhausted(hostnames):
                self._hold_exhausted(hostnames, now)
            case Released():
                self._released(event, now)
            case PutOff(number):
                self._put_off(number, now)
            case Moved(number):
                if self._leftovers.moved(number):
                    members.try_again()
            case Resized() | Idle() | Occupied() | Retired() | ResizeOver():
                self._resizing(event)
            case Fetched(number):
                follows = self._leftovers.fetched(number)
                self._out += follows
                if follows:
                    members.try_again()
        self._advance(now)
        return self._taken()

    def _renew_tokens(self, hostname: str) -> None:
        """A new incarnation is another process: what the old one still does must be told from it."""
        member = self.state.members.get(hostname)
        if member is None or member.state is not MemberState.READY:
            return
        stale = [
            partition
            for partition in self.state.partitions
            if partition.owner == hostname and partition.incarnation != member.incarnation
        ]
        if stale:
            self.state.generation += 1
        for partition in stale:
            partition.fencing_token = self.state.generation
            partition.incarnation = member.incarnation

    # -- another number of partitions ----------------------------------------------------------------------

    def _resizing(self, event: Resized | Idle | Occupied | Retired | ResizeOver) -> None:
        """Partitions of the layout before stay with their owners until they are empty; those of the new one
        that can have their keys get owners only then."""
        state = self.state
        match event:
            case Resized(partitions, common):
                if not state.retiring:
                    state.resize(partitions, common)
                    self._unsaved = True
            case Idle(number):
                if number < state.retiring and not state.partitions[number].retired:
                    self.emptied.add(number)
            case Occupied(number):
                self.emptied.discard(number)
            case Retired(number):
                if number in self.emptied and state.partitions[number].owner is None:
                    self.emptied.discard(number)
                    state.partitions[number].retired = True
                    self._unsaved = True
                    if state.all_retired:
                        # Once it is saved: a coordinator that did not know it would want them consumed.
                        self._out.append(Remove())
            case ResizeOver():
                if state.all_retired:
                    for hostname in list(self._handovers):
                        self._cancel(hostname)  # their partitions have other indices now
                    state.resized()
                    self.emptied.clear()
                    self._unsaved = True

    # -- hand-overs ----------------------------------------------------------------------------------------

    def _hold_exhausted(self, hostnames: Iterable[str], now: float) -> None:
        for hostname in hostnames:
            handover = self._handovers.get(hostname)
            if handover is not None and not handover.reclaim:
                self._put_off(handover.number, now)
            elif self._may_give_way(hostname):
                # A proof that was taken before says nothing about what is let go now.
                self._cancel(hostname)
                self._out.append(GiveWay(hostname))

    def _may_give_way(self, hostname: str) -> bool:
        """Whether more in its queue would do no harm: it will be taken for what follows what is there.

        Not where messages came back (some would get there, others not), where the next incarnation may have
        another queue, and where it can't be seen what is in the queue.
        """
        member = self.state.members.get(hostname)
        return (
            member is not None
            and member.queue is not None
            and not member.old_queues
            and (member.state in GONE or member.reason is SetAside.NO_CONSUMER)
            and not self._leftovers.hinder(member)
            and not self._membership.watches[hostname].unreachable
        )

    def _handover_of(self, number: int) -> Handover | None:
        return next((h for h in self._handovers.values() if h.number == number), None)

    def _released(self, proof: Released, now: float) -> None:
        handover = self._handover_of(proof.handover)
        if handover is None:
            return
        hostname = handover.hostname
        del self._handovers[hostname]
        mine = self.state.owned_by(hostname)
        if handover.purpose.old_incarnation:
            self._released_old(self.state.members[hostname], handover.purpose, proof.leftover, mine)
            return
        if not self._eligible() and (proof.leftover is not None or self.state.leftovers):
            # Nobody could take it: things are best kept as they are, the owner may come back.
            self._membership.put_off(hostname, now)
            return
        targets = self.targets()
        allowed = set(mine if proof.partitions is None else proof.partitions)
        locked = self._leftovers.locked()
        moves = {
            number: targets[number]
            for number in mine
            if number in allowed
            and targets[number] != hostname
            and (handover.reclaim or number not in locked)
        }
        if proof.leftover is not None:
            self._leftovers.add(hostname, proof.leftover, list(moves))
        self._move(moves)
        if proof.partitions is not None:
            # They were held so that the proof stayed true; those that do not move go on.
            stay = sorted(set(proof.partitions) - set(moves) - locked)
            if stay:
                self._out.append(Unlock(stay))

    def _released_old(self, member: Member, old: Purpose, leftover: str | None, mine: list[int]) -> None:
        """The queue of an earlier incarnation is done with, or what it left there comes first."""
        member.old_queues = [queue for queue in member.old_queues if queue != old.queue]
        self._unsaved = True
        self._membership.try_again()
        if leftover is not None and mine:
            self._leftovers.add(member.hostname, leftover, mine)
            self._assign_effect(dict.fromkeys(mine, member.hostname), locked=True)

    def _move(self, moves: Mapping[int, str | None]) -> None:
        if not moves:
            return
        self.state.generation += 1
        for number, owner in moves.items():
            partition = self.state.partitions[number]
            partition.owner = owner
            partition.fencing_token = self.state.generation
            partition.incarnation = self.state.members[owner].incarnation if owner is not None else 0
        self._unsaved = True
        locked = self._leftovers.locked()
        owned = {number: owner for number, owner in moves.items() if owner is not None}
        self._assign_effect({number: owner for number, owner in owned.items() if number not in locked})
        self._assign_effect({number: owner for number, owner in owned.items() if number in locked}, True)

    def _assign_effect(self, owners: dict[int, str], locked: bool = False) -> None:
        if owners:
            self._out.append(Assign(owners, locked))

    def _put_off(self, number: int, now: float) -> None:
        handover = self._handover_of(number)
        if handover is None or handover.reclaim:
            return
        self._cancel(handover.hostname)
        self._membership.put_off(handover.hostname, now)

    def _cancel(self, hostname: str) -> None:
        handover = self._handovers.pop(hostname, None)
        if handover is not None:
            self._out.append(Cancel(handover.number))

    # -- who should own what -----------------------------------------------------------------------------

    def _receives(self, member: Member) -> bool:
        """Whether something can be sent to the member now."""
        return (
            member.state is MemberState.READY
            and not member.old_queues
            and not self._leftovers.hinder(member)
            and self._knows_queue(member)
        )

    def _knows_queue(self, member: Member) -> bool:
        """Whether the name of its queue is known, or is not to be had.

        What is sent to a queue of unknown name can't be followed up, so it is worth waiting a little for.
        """
        return (
            member.queue is not None
            or not self.sighted
            or not self._membership.may_become_known(member, self._now)
        )

    def _eligible(self) -> set[str]:
        """Members that can be given partitions now."""
        return {name for name, member in self.state.members.items() if self._receives(member)}

    def targets(self) -> list[str | None]:
        """The owner that each partition should have, None where nobody can have it.

        A member that restarts, or that can't be sent anything before an older queue is done with, keeps what
        it has; all others share the rest.
        """
        partitions = self.state.partitions
        eligible = self._eligible()
        keeps = {
            name
            for name, member in self.state.members.items()
            if name not in eligible and member.state in _OWNING
        }
        plan: list[str | None] = [p.owner if p.owner in keeps else None for p in partitions]
        retiring = self.state.retiring
        for number in range(retiring):
            # Soon empty: balancing them is not worth a move.
            if partitions[number].owner in eligible:
                plan[number] = partitions[number].owner
        for some in (range(retiring), range(retiring, len(partitions))):
            # What has moved last moves first, so that not always the same ones do.
            free = sorted(
                (number for number in some if plan[number] is None and not partitions[number].retired),
                key=lambda number: partitions[number].fencing_token,
            )
            shared = assign(len(free), [partitions[number].owner for number in free], eligible)
            for number, owner in zip(free, shared, strict=True):
                plan[number] = owner
        if retiring:
            for number in (*self.emptied, *self.state.waiting()):
                plan[number] = None
        return plan

    def _advance(self, now: float) -> None:
        """Bring hand-overs, pauses, the source and the fetch in line with the state.

        While members are joining nothing is taken from those that are well, and a group in which nobody owns
        anything is not shared out; what somebody had that is gone is not kept waiting.
        """
        targets = self.targets()
        if self._settling.over(now) or any(partition.owner for partition in self.state.partitions):
            self._move(
                {
                    number: target
                    for number, target in enumerate(targets)
                    if target is not None and self.state.partitions[number].owner is None
                }
            )

        begun = self._plan_handovers(targets, now)
        self._pause()
        self._out.extend(begun)
        self._resume()
        self._forget_gone()
        self._start_or_stop()
        self._track_rebalance(targets, now)

    def _plan_handovers(self, targets: list[str | None], now: float) -> list[Effect]:
        locked = self._leftovers.locked()
        owned: dict[str, list[int]] = {}
        moving: dict[str, list[int]] = {}
        for number, (partition, target) in enumerate(zip(self.state.partitions, targets, strict=True)):
            if partition.owner is None:
                continue
            owned.setdefault(partition.owner, []).append(number)
            if target != partition.owner and number not in locked:
                moving.setdefault(partition.owner, []).append(number)

        begun: list[Effect] = []
        old = [name for name, member in self.state.members.items() if member.old_queues]
        for hostname in dict.fromkeys([*owned, *old, *self._handovers]):
            member = self.state.members[hostname]
            mine, to_move = owned.get(hostname, []), moving.get(hostname, [])
            wanted = self._wanted(member, mine, to_move)
            current = self._handovers.get(hostname)
            if current is not None:
                if wanted == current.purpose and not self._has_grown(current, to_move, now):
                    continue
                self._cancel(hostname)
            if wanted is None or now < self._membership.watches[hostname].drain_at:
                continue
            if not wanted.reclaim and not self._settling.over(now):
                continue
            self._handover_number += 1
            number = self._handover_number
            self._handovers[hostname] = Handover(
                number, hostname, wanted, frozenset(mine if wanted.reclaim else to_move)
            )
            begun.append(
                Reclaim(number, hostname, wanted.queue, mine, wanted.unbind)
                if wanted.reclaim
                else Drain(number, hostname, wanted.queue, to_move)
            )
        return begun

    def _has_grown(self, handover: Handover, to_move: Iterable[int], now: float) -> bool:
        """Whether more is to move than was asked for, and need not wait for the rest."""
        return (
            self.piecewise
            and not handover.reclaim
            and self._settling.over(now)
            and not handover.partitions.issuperset(to_move)
        )

    def _wanted(self, member: Member, mine: list[int], to_move: list[int]) -> Purpose | None:
        """The hand-over that a member should be in."""
        if member.old_queues and (mine or member.state in _OWNING):
            if member.state is MemberState.REBINDING:
                return None  # it may be the same queue again
            if member.queue is None and self._membership.may_become_known(member, self._now):
                return None
            unbind = member.queue is not None
            # The newest first: leftovers are fetched the other way round.
            return Purpose(member.old_queues[-1], reclaim=True, old_incarnation=True, unbind=unbind)
        if member.state is MemberState.READY:
            return Purpose(member.queue if self.sighted else None, reclaim=False) if to_move else None
        if member.state is MemberState.REBINDING or not mine:
            return None
        return Purpose(member.queue, reclaim=True)

    def _must_pause(self, hostname: str) -> bool:
        member = self.state.members.get(hostname)
        if member is None:
            return False
        handover = self._handovers.get(hostname)
        if handover is not None and (handover.reclaim or handover.purpose.queue is not None):
            return True
        return not self._receives(member)

    def _pause(self) -> None:
        owners = {p.owner for p in self.state.partitions if p.owner is not None}
        for hostname in sorted(owners - self._paused):
            if self._must_pause(hostname):
                self._paused.add(hostname)
                self._out.append(Pause(hostname))

    def _resume(self) -> None:
        for hostname in sorted(self._paused):
            if not self._must_pause(hostname):
                self._paused.discard(hostname)
                if hostname in self.state.members:
                    self._out.append(Resume(hostname))

    def _forget_gone(self) -> None:
        owners = {p.owner for p in self.state.partitions}
        for hostname, member in list(self.state.members.items()):
            if member.state in GONE and hostname not in owners and hostname not in self._handovers:
                self._membership.forget(hostname)
                self._paused.discard(hostname)
                self._out.append(Forget(hostname))

    def _start_or_stop(self) -> None:
        run = any(member.state is MemberState.READY for member in self.state.members.values())
        if run and not self._running:
            self._out.append(Start())
        self._out += self._leftovers.work(run, self._receives)
        if self._running and not run:
            self._out.append(Stop())
        self._running = run

    def _track_rebalance(self, targets: list[str | None], now: float) -> None:
        settled = not self.state.leftovers and all(
            partition.owner == target
            for partition, target in zip(self.state.partitions, targets, strict=True)
        )
        if not settled:
            if self._rebalance_since is None:
                self._rebalance_since = now
        elif self._rebalance_since is not None:
            self.rebalances.append(now - self._rebalance_since)
            self._rebalance_since = None

    def _taken(self) -> list[Effect]:
        effects, self._out = self._out, []
        if self._unsaved or self._membership.changed or self._leftovers.changed:
            self._unsaved = self._membership.changed = self._leftovers.changed = False
            return [Save(), *effects]
        return effects

    # -- to look at ---------------------------------------------------------------------------------------

    def describe(self, now: float) -> dict[str, Any]:
        """Members and partitions as plain values; times in Unix seconds, ages in seconds."""
        members = self._membership
        return View(
            state=self.state,
            targets=self.targets(),
            locked=self._leftovers.locked(),
            paused=self._paused,
            handovers={name: handover.reclaim for name, handover in self._handovers.items()},
            heard={name: watch.heard for name, watch in members.watches.items()},
            wall_offset=members.wall_offset,
            rebalancing=self._rebalance_since is not None,
        ).describe(now)
