"""The coordinator's decisions: who owns which partition, and how ownership changes hands safely.

Theory of operation. Events and the time go in, effects come out; nothing else happens. A partition's owner
changes in one way only: a *hand-over* of its owner's.

    Pause owner ─► Drain or Reclaim ─► Released ─► Save ─► Assign to targets ─► Resume owner
                          └─ PutOff / HoldExhausted / no need any more ─► Resume owner, nothing changed

`Drain` is for a living owner, which takes part in the group meanwhile and after. `Reclaim` is for one that
left, died or cannot receive; what such a member leaves in its queue is a *leftover*. Its partitions are
locked (held) at the new owners until all of it is there, ahead of everything newer:

    Released(leftover) ─► Save ─► Assign locked, Move ─► Moved ─► Save ─► Fetch ─► Fetched ─► Save ─► Unlock

Who should own what: see `targets`. Which hand-overs lead there: `handovers`. The others: `membership`,
`pauses`, `leftovers`, `resizing`. Here is what follows from each event, and in which order.

What is saved (`GroupState`) is enough to go on after the coordinator's death at any point: hand-overs, moves
and fetches under way are simply begun again, because until `Assign` nothing has changed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from partymq.group.description import View
from partymq.group.events import (
    Answer,
    Assign,
    Called,
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
    PutOff,
    Released,
    Remove,
    Resized,
    ResizeOver,
    Retired,
    Save,
    Start,
    Stop,
    Tick,
    Unlock,
    Unroutable,
)
from partymq.group.handovers import Handovers, Purpose
from partymq.group.leftovers import Leftovers
from partymq.group.membership import Membership, Timing
from partymq.group.pauses import Pauses
from partymq.group.resizing import Resizing
from partymq.group.settling import Settling
from partymq.group.state import GONE, GroupState, Member, MemberState, SetAside
from partymq.group.targets import Targets
from partymq.group.wire import Bind, Heartbeat, Ready, is_farewell


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
        self._handovers = Handovers(state, self._membership)
        self._targets = Targets(state, self._membership, self._leftovers)
        self._resizing = Resizing(state)
        self._pauses = Pauses(state, self._handovers, self._targets)
        self._running = False
        self._unsaved = False
        self._now = 0.0
        self._out: list[Effect] = []
        self._rebalance_since: float | None = None
        self._settling = Settling(timing.settle, timing.settle_most)
        self.rebalances: list[float] = []
        """Durations in seconds of the rebalances completed; whoever reads them may clear the list."""

    def __repr__(self) -> str:
        states = Counter(member.state.value for member in self.state.members.values())
        return (
            f"<Coordinator generation={self.state.generation} members={dict(states)}"
            f" handovers={sorted(handover.hostname for handover in self._handovers)}"
            f" leftovers={len(self.state.leftovers)}>"
        )

    @property
    def sighted(self) -> bool:
        """Whether it can be seen what a member has not acked; without, a living member is not paused for a
        proof that can't be had: its partitions move when they are idle."""
        return self._targets.sighted

    @sighted.setter
    def sighted(self, sighted: bool) -> None:
        self._targets.sighted = sighted

    @property
    def piecewise(self) -> bool:
        """Whether each partition of a hand-over is given up by itself. Else all that its owner has stands
        still until it is over."""
        return self._handovers.piecewise

    @piecewise.setter
    def piecewise(self, piecewise: bool) -> None:
        self._handovers.piecewise = piecewise

    @property
    def emptied(self) -> set[int]:
        """Partitions of the layout before of which it is to be seen whether they are empty."""
        return self._resizing.emptied

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
        self._assign({number: partition.owner for number, partition in enumerate(self.state.partitions)})
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
                    self.state.renew_tokens(call.hostname)
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
                self._pauses.paused.add(hostname)  # the router has paused it by itself
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
            case Fetched(number):
                follows = self._leftovers.fetched(number)
                self._out += follows
                if follows:
                    members.try_again()
            case Resized(partitions, common):
                self._resizing.begin(partitions, common)
            case Idle(number):
                self._resizing.idle(number)
            case Occupied(number):
                self._resizing.occupied(number)
            case Retired(number):
                if self._resizing.retired(number):
                    # Once it is saved: a coordinator that did not know it would want them consumed.
                    self._out.append(Remove())
            case ResizeOver():
                if self._resizing.over():
                    self._out += self._handovers.cancel_all()  # their partitions have other indices now
        self._advance(now)
        return self._taken()

    # -- hand-overs ----------------------------------------------------------------------------------------

    def _hold_exhausted(self, hostnames: Iterable[str], now: float) -> None:
        for hostname in hostnames:
            handover = self._handovers.of(hostname)
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

    def _released(self, proof: Released, now: float) -> None:
        handover = self._handovers.numbered(proof.handover)
        if handover is None:
            return
        hostname = handover.hostname
        self._handovers.completed(handover)
        mine = self.state.owned_by(hostname)
        if handover.purpose.old_incarnation:
            self._released_old(self.state.members[hostname], handover.purpose, proof.leftover, mine)
            return
        if not self._targets.eligible(now) and (proof.leftover is not None or self.state.leftovers):
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
            self._assign(dict.fromkeys(mine, member.hostname))

    def _move(self, moves: Mapping[int, str | None]) -> None:
        if not moves:
            return
        self.state.give(moves)
        self._unsaved = True
        self._assign(moves)

    def _assign(self, owners: Mapping[int, str | None]) -> None:
        """Route partitions to their owners; locked where something older has to come first."""
        locked = self._leftovers.locked()
        for lock in (False, True):
            part = {
                number: owner
                for number, owner in owners.items()
                if owner is not None and (number in locked) is lock
            }
            if part:
                self._out.append(Assign(part, locked=lock))

    def _put_off(self, number: int, now: float) -> None:
        handover = self._handovers.numbered(number)
        if handover is None or handover.reclaim:
            return
        self._cancel(handover.hostname)
        self._membership.put_off(handover.hostname, now)

    def _cancel(self, hostname: str) -> None:
        self._out += self._handovers.cancel(hostname)

    # -- what follows --------------------------------------------------------------------------------------

    def targets(self) -> list[str | None]:
        """The owner that each partition should have, None where nobody can have it."""
        return self._targets.plan(self._now, self._resizing.emptied)

    def _receives(self, member: Member) -> bool:
        return self._targets.receives(member, self._now)

    def _advance(self, now: float) -> None:
        """Bring hand-overs, pauses, the source and the fetch in line with the state.

        While members are joining nothing is taken from those that are well, and a group in which nobody owns
        anything is not shared out; what somebody had that is gone is not kept waiting.
        """
        targets = self.targets()
        settled = self._settling.over(now)
        if settled or any(partition.owner for partition in self.state.partitions):
            self._move(
                {
                    number: target
                    for number, target in enumerate(targets)
                    if target is not None and self.state.partitions[number].owner is None
                }
            )

        given_up, begun = self._handovers.plan(
            targets, self._leftovers.locked(), now, sighted=self.sighted, settled=settled
        )
        self._out += given_up
        self._out += self._pauses.begin(now)
        self._out += begun
        self._out += self._pauses.end(now)
        self._forget_gone()
        self._start_or_stop()
        self._track_rebalance(targets, now)

    def _forget_gone(self) -> None:
        owners = {p.owner for p in self.state.partitions}
        for hostname, member in list(self.state.members.items()):
            if member.state in GONE and hostname not in owners and self._handovers.of(hostname) is None:
                self._membership.forget(hostname)
                self._pauses.paused.discard(hostname)
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
        parts = (self._membership, self._leftovers, self._resizing)
        if self._unsaved or any(part.changed for part in parts):
            self._unsaved = False
            for part in parts:
                part.changed = False
            return [Save(), *effects]
        return effects

    # -- to look at ----------------------------------------------------------------------------------------

    def describe(self, now: float) -> dict[str, Any]:
        """Members and partitions as plain values; times in Unix seconds, ages in seconds."""
        members = self._membership
        return View(
            state=self.state,
            targets=self.targets(),
            locked=self._leftovers.locked(),
            paused=self._pauses.paused,
            handovers={handover.hostname: handover.reclaim for handover in self._handovers},
            heard={name: watch.heard for name, watch in members.watches.items()},
            wall_offset=members.wall_offset,
            rebalancing=self._rebalance_since is not None,
        ).describe(now)
