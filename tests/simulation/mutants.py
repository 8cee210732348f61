"""Parts that are broken on purpose: a simulation that does not notice them would prove nothing."""

from collections.abc import Callable, Mapping

from partymq.group.coordinator import Coordinator
from partymq.group.events import Called, Effect, Event, Released, Save
from partymq.group.events import Drain as DrainEffect
from partymq.group.handovers import Handovers
from partymq.group.leftovers import Leftovers
from partymq.group.membership import Timing
from partymq.group.pauses import Pauses
from partymq.group.state import GroupState, Member
from partymq.group.wire import Bind, Ready
from tests.simulation.router_core import CoreRouter
from tests.simulation.router_model import RouterModel, Session
from tests.simulation.schedule import Parts


class GivesAwayWithoutProof(Coordinator):
    """Does not wait until the owner has drained."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects = super().handle(event, now)
        drains = [effect for effect in effects if isinstance(effect, DrainEffect)]
        for drain in drains:
            effects += super().handle(Released(drain.handover), now)
        return effects


class LocksNothing(Leftovers):
    """Knows of no older messages."""

    def locked(self) -> set[int]:
        return set()


class DoesNotLock(Coordinator):
    """Lets newer messages go to the new owner while a leftover is fetched."""

    def __init__(self, state: GroupState, timing: Timing) -> None:
        super().__init__(state, timing)
        self._leftovers = LocksNothing(state)


class ActsBeforeSaving(Coordinator):
    """Saves the state after its consequences."""

    def _taken(self) -> list[Effect]:
        effects = super()._taken()
        saves = [effect for effect in effects if isinstance(effect, Save)]
        return [effect for effect in effects if not isinstance(effect, Save)] + saves


class OldestFirst(Leftovers):
    """In the order in which they arose."""

    def _next(self, receives: Callable[[Member], bool]) -> int | None:
        self._state.leftovers.reverse()
        try:
            return super()._next(receives)
        finally:
            self._state.leftovers.reverse()


class FetchesOldestFirst(Coordinator):
    """Fetches leftovers in the order in which they arose."""

    def __init__(self, state: GroupState, timing: Timing) -> None:
        super().__init__(state, timing)
        self._leftovers = OldestFirst(state)


class KeepsReclaims(Handovers):
    """Gives up none that is for what a member that is gone has."""

    def cancel(self, hostname: str) -> list[Effect]:
        handover = self.of(hostname)
        if handover is not None and handover.reclaim and not handover.purpose.old_incarnation:
            return []
        return super().cancel(hostname)


class BelievesOldProofs(Coordinator):
    """Lets messages go to a member that is being reclaimed, and trusts the proof from before."""

    def __init__(self, state: GroupState, timing: Timing) -> None:
        super().__init__(state, timing)
        self._handovers = KeepsReclaims(state, self._membership)
        self._pauses = Pauses(state, self._handovers, self._targets)


class ForgetsOldQueues(Coordinator):
    """Takes no notice of what a restarted member had in its earlier queue."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects = super().handle(event, now)
        for member in self.state.members.values():
            member.old_queues.clear()
        return effects


class AddsNothing(Leftovers):
    """Takes no note."""

    def add(self, hostname: str, queue: str, partitions: list[int]) -> None:
        return


class ForgetsLeftovers(Coordinator):
    """Takes a dead member's queue for empty."""

    def __init__(self, state: GroupState, timing: Timing) -> None:
        super().__init__(state, timing)
        self._leftovers = AddsNothing(state)


class NeverForgetsDead(Coordinator):
    """Keeps members that are gone."""

    def _forget_gone(self) -> None:
        return


class KeepsTheToken(Coordinator):
    """Gives partitions away under the old fencing token."""

    def _move(self, moves: dict[int, str | None]) -> None:  # type: ignore[override]
        tokens = [partition.fencing_token for partition in self.state.partitions]
        super()._move(moves)
        for partition, token in zip(self.state.partitions, tokens, strict=True):
            partition.fencing_token = token


class HearsNoRestart(Coordinator):
    """Does not pause a member that restarts with another queue."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        match event:
            case Called(request_id, Bind(hostname)) if hostname in self.state.members:
                return super().handle(Called(request_id, Ready(hostname)), now)
        return super().handle(event, now)


class AcksEarly(RouterModel):
    """Acks at the source what it has sent, without waiting for the confirm."""

    acks_early = True


class Overtakes(RouterModel):
    """Sends what is held last in first."""

    def _send(self, session: Session, partition: int, hostname: str, entry):  # type: ignore[no-untyped-def]
        held = self.held[partition]
        if held and held[-1] is not entry:
            held.appendleft(entry)
            entry = held.pop()
        super()._send(session, partition, hostname, entry)


class ForgetsPauses(RouterModel):
    """Goes on sending to a member that is drained."""

    def pause(self, hostname: str) -> None:
        return


class DoesNotSettle(RouterModel):
    """Says that everything has arrived while it is on its way."""

    def settled(self, hostname: str) -> bool:
        return True


class CoreForgetsPauses(CoreRouter):
    """The real core, not told of pauses."""

    def pause(self, hostname: str) -> None:
        return


class CoreForgetsLocks(CoreRouter):
    """The real core, not told what is locked."""

    def assign(self, owners: Mapping[int, str], locked: bool = False) -> None:
        super().assign(owners)


_COORDINATORS = (
    GivesAwayWithoutProof,
    DoesNotLock,
    ActsBeforeSaving,
    FetchesOldestFirst,
    BelievesOldProofs,
    ForgetsOldQueues,
    ForgetsLeftovers,
    NeverForgetsDead,
    KeepsTheToken,
    HearsNoRestart,
)
_ROUTERS = (AcksEarly, Overtakes, ForgetsPauses, DoesNotSettle, CoreForgetsPauses, CoreForgetsLocks)

MUTANTS: dict[str, Parts] = {
    **{mutant.__name__: Parts(coordinator=mutant) for mutant in _COORDINATORS},
    **{mutant.__name__: Parts(router=mutant) for mutant in _ROUTERS},
}
"""Each broken in one way."""
