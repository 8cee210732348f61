"""The coordinator's decisions: who owns which partition, and how ownership changes hands safely.

Theory of operation. Events and the time go in, effects come out; nothing else happens. A partition's owner
changes in one way only: a *hand-over* of its owner's.

    Pause owner ─► Drain or Reclaim ─► Released ─► Save ─► Assign to targets ─► Resume owner
                          └─ PutOff / HoldExhausted / no need any more ─► Resume owner, nothing changed

`Drain` is for a living owner, which takes part in the group meanwhile and after. `Reclaim` is for one that
left, died or cannot receive; what such a member leaves in its queue is a *leftover*. Its partitions are
locked (held) at the new owners until it has been fetched back, ahead of everything newer.

What is saved (`GroupState`) is enough to go on after the coordinator's death at any point: hand-overs under
way are simply begun again, because until `Assign` nothing has changed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from partymq.group.assignor import assign
from partymq.group.events import (
    Answer,
    Assign,
    Called,
    Cancel,
    CancelFetch,
    Drain,
    Effect,
    Event,
    Fetch,
    Fetched,
    Forget,
    GiveWay,
    HeldUp,
    HoldExhausted,
    Learned,
    Observed,
    Pause,
    PutOff,
    Reclaim,
    Released,
    Resume,
    Save,
    Start,
    Stop,
    Tick,
    Unlock,
    Unroutable,
)
from partymq.group.membership import Membership, Timing
from partymq.group.state import GONE, GroupState, Leftover, Member, MemberState
from partymq.group.wire import Heartbeat

_OWNING = frozenset({MemberState.READY, MemberState.REBINDING})


@dataclass(frozen=True, slots=True)
class Handover:
    """A hand-over under way. `queue` is the one whose emptiness is to be proven."""

    number: int
    hostname: str
    queue: str | None
    reclaim: bool
    old_incarnation: bool = False


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
        self._handovers: dict[str, Handover] = {}
        self._handover_number = 0
        self._paused: set[str] = set()
        self._fetching: int | None = None
        self._running = False
        self._unsaved = False
        self._out: list[Effect] = []
        self._rebalance_since: float | None = None
        self.sighted = True
        """Whether it can be seen what a member has not acked; without, a living member is not paused for a
        proof that can't be had: its partitions move when they are idle."""
        self.rebalances: list[float] = []
        """Durations in seconds of the rebalances completed; whoever reads them may clear the list."""

    def __repr__(self) -> str:
        states = Counter(member.state.value for member in self.state.members.values())
        return (
            f"<Coordinator generation={self.state.generation} members={dict(states)}"
            f" handovers={sorted(self._handovers)} leftovers={len(self.state.leftovers)}>"
        )

    def start(self, now: float, wall: float) -> list[Effect]:
        """Take up the state as it was saved. Every member gets its full time to be heard again.

        Args:
            now: monotonic seconds.
            wall: Unix seconds at the same moment, for what people read.
        """
        self._out = []
        self._membership.start(now, wall)
        locked = self._locked()
        owners = {number: p.owner for number, p in enumerate(self.state.partitions) if p.owner is not None}
        self._assign_effect({number: owner for number, owner in owners.items() if number not in locked})
        self._assign_effect({number: owner for number, owner in owners.items() if number in locked}, True)
        self._advance(now)
        return self._taken()

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What follows from an event. `now`: monotonic seconds, never going back."""
        self._out = []
        members = self._membership
        match event:
            case Called(request_id, Heartbeat() as call):
                return [Answer(request_id, members.call(request_id, call, now))]
            case Called(request_id, call):
                self._out.append(Answer(request_id, members.call(request_id, call, now)))
            case Tick():
                members.tick(now)
            case HeldUp():
                members.forgive(now)
            case Observed():
                members.observed(event, now)
            case Learned(hostname):
                if members.learned(event):
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
            case Fetched(number):
                self._fetched(number)
        self._advance(now)
        return self._taken()

    # -- hand-overs ----------------------------------------------------------------------------------------

    def _hold_exhausted(self, hostnames: Iterable[str], now: float) -> None:
        for hostname in hostnames:
            handover = self._handovers.get(hostname)
            if handover is not None and not handover.reclaim:
                self._put_off(handover.number, now)
            elif hostname in self.state.members and not self._membership.watches[hostname].unreachable:
                self._out.append(GiveWay(hostname))

    def _handover_of(self, number: int) -> Handover | None:
        return next((h for h in self._handovers.values() if h.number == number), None)

    def _released(self, proof: Released, now: float) -> None:
        handover = self._handover_of(proof.handover)
        if handover is None:
            return
        hostname = handover.hostname
        del self._handovers[hostname]
        member = self.state.members[hostname]
        mine = self.state.owned_by(hostname)
        if handover.old_incarnation:
            member.old_queue = None
            self._unsaved = True
            if proof.leftover is not None:
                self._add_leftover(hostname, proof.leftover, mine)
                self._assign_effect(dict.fromkeys(mine, hostname), locked=True)
            return
        if not self._eligible() and (proof.leftover is not None or self.state.leftovers):
            # Nobody could take it: things are best kept as they are, the owner may come back.
            self._membership.put_off(hostname, now)
            return
        targets = self.targets()
        allowed = set(mine if proof.partitions is None else proof.partitions)
        locked = self._locked()
        moves = {
            number: targets[number]
            for number in mine
            if number in allowed
            and targets[number] != hostname
            and (handover.reclaim or number not in locked)
        }
        if proof.leftover is not None:
            self._add_leftover(hostname, proof.leftover, list(moves))
        self._move(moves)
        if proof.partitions is not None:
            # They were held so that the proof stayed true; those that do not move go on.
            stay = sorted(set(proof.partitions) - set(moves) - locked)
            if stay:
                self._out.append(Unlock(stay))

    def _move(self, moves: Mapping[int, str | None]) -> None:
        if not moves:
            return
        self.state.generation += 1
        for number, owner in moves.items():
            partition = self.state.partitions[number]
            partition.owner = owner
            partition.fencing_token = self.state.generation
        self._unsaved = True
        locked = self._locked()
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

    def _add_leftover(self, hostname: str, queue: str, partitions: list[int]) -> None:
        last = self.state.leftovers[-1].number if self.state.leftovers else self.state.generation
        number = max(last, self.state.generation) + 1
        self.state.leftovers.append(Leftover(number, hostname, queue, partitions))
        self._unsaved = True

    def _fetched(self, number: int) -> None:
        done = next((left for left in self.state.leftovers if left.number == number), None)
        if done is None or self._fetching != number:
            return
        self.state.leftovers.remove(done)
        self._fetching = None
        self._unsaved = True
        still_locked = self._locked()
        freed = [partition for partition in done.partitions if partition not in still_locked]
        if freed:
            self._out.append(Unlock(freed))

    def _locked(self) -> set[int]:
        return {number for leftover in self.state.leftovers for number in leftover.partitions}

    # -- who should own what -----------------------------------------------------------------------------

    def _eligible(self) -> set[str]:
        """Members that can be given partitions now.

        Not one whose queue is being fetched from: what it would get would be fetched away from it again.
        """
        fetched = {leftover.queue for leftover in self.state.leftovers}
        return {
            name
            for name, member in self.state.members.items()
            if member.state is MemberState.READY
            and member.old_queue is None
            and (member.queue is None or member.queue not in fetched)
        }

    def targets(self) -> list[str | None]:
        """The owner that each partition should have, None where nobody can have it.

        A member that restarts, or that is finishing its earlier incarnation's queue, keeps what it has; all
        others share the rest.
        """
        partitions = self.state.partitions
        eligible = self._eligible()
        keeps = {
            name
            for name, member in self.state.members.items()
            if name not in eligible and member.state in _OWNING
        }
        plan: list[str | None] = [p.owner if p.owner in keeps else None for p in partitions]
        free = [number for number, owner in enumerate(plan) if owner is None]
        shared = assign(len(free), [partitions[number].owner for number in free], eligible)
        for number, owner in zip(free, shared, strict=True):
            plan[number] = owner
        return plan

    def _advance(self, now: float) -> None:
        """Bring hand-overs, pauses, the source and the fetch in line with the state."""
        targets = self.targets()
        unowned = {
            number: target
            for number, target in enumerate(targets)
            if target is not None and self.state.partitions[number].owner is None
        }
        self._move(unowned)

        begun = self._plan_handovers(targets, now)
        self._pause()
        self._out.extend(begun)
        self._resume()
        self._forget_gone()
        self._start_or_stop()
        self._track_rebalance(targets, now)

    def _plan_handovers(self, targets: list[str | None], now: float) -> list[Effect]:
        locked = self._locked()
        owned: dict[str, list[int]] = {}
        moving: dict[str, list[int]] = {}
        for number, (partition, target) in enumerate(zip(self.state.partitions, targets, strict=True)):
            if partition.owner is None:
                continue
            owned.setdefault(partition.owner, []).append(number)
            if target != partition.owner and number not in locked:
                moving.setdefault(partition.owner, []).append(number)

        begun: list[Effect] = []
        for hostname in [*owned, *(name for name in self._handovers if name not in owned)]:
            member = self.state.members[hostname]
            mine, to_move = owned.get(hostname, []), moving.get(hostname, [])
            wanted = self._wanted(member, mine, to_move)
            current = self._handovers.get(hostname)
            if current is not None:
                if wanted == (current.queue, current.reclaim, current.old_incarnation):
                    continue
                self._cancel(hostname)
            if wanted is None or now < self._membership.watches[hostname].drain_at:
                continue
            queue, reclaim, old_incarnation = wanted
            self._handover_number += 1
            number = self._handover_number
            self._handovers[hostname] = Handover(number, hostname, queue, reclaim, old_incarnation)
            begun.append(
                Reclaim(number, hostname, queue, mine) if reclaim else Drain(number, hostname, queue, to_move)
            )
        return begun

    def _wanted(
        self, member: Member, mine: list[int], to_move: list[int]
    ) -> tuple[str | None, bool, bool] | None:
        """The hand-over that a member should be in: queue, whether reclaimed, whether of its earlier self."""
        if member.old_queue is not None:
            return member.old_queue, True, True
        if member.state is MemberState.READY:
            return (member.queue if self.sighted else None, False, False) if to_move else None
        if member.state is MemberState.REBINDING or not mine:
            return None
        return member.queue, True, False

    def _must_pause(self, hostname: str) -> bool:
        member = self.state.members.get(hostname)
        if member is None:
            return False
        handover = self._handovers.get(hostname)
        if handover is not None and (handover.reclaim or handover.queue is not None):
            return True
        return member.state is not MemberState.READY or member.old_queue is not None

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
        run = any(member.state is MemberState.READY for member in self.state.members.values()) and all(
            p.owner is not None for p in self.state.partitions
        )
        if run != self._running:
            self._running = run
            self._fetching = None
            self._out.append(Start() if run else Stop())
        fetch = self._leftover_to_fetch() if run else None
        if self._fetching is not None and (fetch is None or fetch.number != self._fetching):
            self._out.append(CancelFetch(self._fetching))
            self._fetching = None
        if fetch is not None and self._fetching is None:
            self._fetching = fetch.number
            self._out.append(Fetch(fetch.number, fetch.queue, fetch.hostname))

    def _leftover_to_fetch(self) -> Leftover | None:
        """The newest leftover, once all who are to get it can receive: older ones hold newer messages."""
        if not self.state.leftovers:
            return None
        newest = self.state.leftovers[-1]
        owners = {self.state.partitions[number].owner for number in newest.partitions}
        members = self.state.members
        receive = all(o is not None and members[o].state is MemberState.READY for o in owners)
        return newest if receive else None

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
        if self._unsaved or self._membership.changed:
            self._unsaved = self._membership.changed = False
            return [Save(), *effects]
        return effects

    # -- to look at ---------------------------------------------------------------------------------------

    def describe(self, now: float) -> dict[str, Any]:
        """Members and partitions as plain values; times in Unix seconds, ages in seconds."""
        targets = self.targets()
        locked = self._locked()
        return {
            "generation": self.state.generation,
            "rebalancing": self._rebalance_since is not None,
            "members": [
                self._describe_member(member, now) for _, member in sorted(self.state.members.items())
            ],
            "partitions": [
                {
                    "partition": number,
                    "owner": partition.owner,
                    "target": target,
                    "fencing_token": partition.fencing_token,
                    "state": self._partition_state(number, partition.owner, target, locked),
                }
                for number, (partition, target) in enumerate(zip(self.state.partitions, targets, strict=True))
            ],
            "leftovers": [
                {"queue": left.queue, "hostname": left.hostname, "partitions": left.partitions}
                for left in self.state.leftovers
            ],
        }

    def _describe_member(self, member: Member, now: float) -> dict[str, Any]:
        heard = self._membership.watches[member.hostname].heard
        return {
            "hostname": member.hostname,
            "state": member.state.value,
            "reason": member.reason.value or None,
            "since": member.since,
            "incarnation": member.incarnation,
            "queue": member.queue,
            "last_heartbeat": heard + self._membership.wall_offset,
            "heartbeat_age": round(now - heard, 3),
            "drain": self._drain_state(member.hostname, member),
            "partitions": self.state.owned_by(member.hostname),
        }

    def _drain_state(self, hostname: str, member: Member) -> str:
        if member.queue is None:
            return "unknown"
        handover = self._handovers.get(hostname)
        if handover is None:
            return "none"
        return "reclaiming" if handover.reclaim else "draining"

    def _partition_state(self, number: int, owner: str | None, target: str | None, locked: set[int]) -> str:
        if number in locked:
            return "fetching"
        if owner is None:
            return "unowned"
        if owner in self._handovers and owner != target:
            return "moving"
        return "paused" if owner in self._paused else "routed"
