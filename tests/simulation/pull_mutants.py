"""Parts of pull groups that are broken on purpose, each to be noticed by the simulation."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from math import inf
from typing import Any

from partymq.client.guard import Guard
from partymq.client.lanes import Item, Lanes, State
from partymq.group.assignments import Assignments
from partymq.group.coordinator import Coordinator
from partymq.group.duties import Duties, GiveUp, Take
from partymq.group.events import Called, Drain, Effect, Event, Released
from partymq.group.wire import Assignment, Ready
from tests.simulation.mutants import KeepsTheToken, NeverForgetsDead
from tests.simulation.pull_scene import PullParts


class KeepsTheTokenOfTheNext(Coordinator):
    """Lets a process that comes back under a name have the token of the one before."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        match event:
            case Called(_, Ready(hostname)) if hostname in self.state.members:
                for number in self.state.owned_by(hostname):
                    self.state.partitions[number].incarnation = self.state.members[hostname].incarnation
        return super().handle(event, now)


class AssignsWithoutRevoking(Coordinator):
    """Gives partitions away as soon as it asks them back."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects = super().handle(event, now)
        for drain in [effect for effect in effects if isinstance(effect, Drain)]:
            effects += super().handle(Released(drain.handover, partitions=tuple(drain.partitions)), now)
        return effects


class RevokesNothing(Assignments):
    """Never says what is to be given up."""

    def all(self) -> dict[str, Assignment]:
        return {
            name: self._made(dict(told.partitions), {}, told.standing, told.retiring)
            for name, told in super().all().items()
        }


class ForgetsHandoversDone(Assignments):
    """Takes no note of what its members have released."""

    def completes(self, hostname: str, handover: int, given: Collection[int] | None = None) -> list[Released]:
        return super().completes(hostname, handover, given) if handover else []


class TakesAPartForTheWhole(Assignments):
    """Thinks that all of a hand-over is given up when some of it is."""

    def completes(self, hostname: str, handover: int, given: Collection[int] | None = None) -> list[Released]:
        return super().completes(hostname, handover)


class BelievesOldEpochs(Duties):
    """Obeys a coordinator that is none any more."""

    def take(self, assignment: Assignment) -> bool:
        self.epoch = 0
        return super().take(assignment)


class ReleasesAtOnce(Duties):
    """Says that it has given up what it is asked to give up."""

    def released(self) -> list[tuple[int, tuple[int, ...]]]:
        return [(handover, tuple(partitions)) for handover, partitions in self._revoke.items()]


class ReleasesWhatIsGoing(Duties):
    """Says that it has given up what it is only about to give up."""

    def begun(self, step: Take | GiveUp) -> None:
        super().begun(step)
        if isinstance(step, GiveUp):
            self.gave_up(step.partitions)


class StartsAfterDrop(Lanes):
    """Goes on with what is ready of a partition that is given up."""

    def drop(self, stream: Any) -> None:
        ready = [item for item in stream.items() if item.state == State.READY]
        super().drop(stream)
        for item in ready:
            if item.key is not None and item.key not in self._lanes:
                item.state = int(State.READY)
                self._lanes[item.key] = None
                self._ready.append(item)


class OneLaneEach(Lanes):
    """Does not wait for the message before of the same key."""

    def add(self, item: Item) -> None:
        item.key = None
        super().add(item)


class RetriesLater(Lanes):
    """Lets the next message of a key pass by one that is to be tried again."""

    def hold(self, item: Item) -> bool:
        if not super().hold(item):
            return False
        if item.key is not None:
            self._advance(item.key, self._lanes.pop(item.key))
            item.key = None
        return True


class NeverLooksBack(Guard):
    """Does not notice that it stood still."""

    def look(self, now: float) -> float:
        super().look(now)
        self.closed, self.until = False, inf
        return 0.0


class BelievesWhatItFinds(Guard):
    """Takes what has lain in the socket for an answer."""

    def answered(self, asked: float | None, now: float) -> float | None:
        return super().answered(None, now)


class NeedsNoProof(Guard):
    """Handles what it is delivered of a new partition."""

    def prove(self, since: float) -> bool:
        return True


class HasNoGuard(NeverLooksBack, NeedsNoProof):
    """Goes on with what it was told."""


_COORDINATORS = (KeepsTheToken, KeepsTheTokenOfTheNext, AssignsWithoutRevoking, NeverForgetsDead)
_ASSIGNMENTS = (RevokesNothing, ForgetsHandoversDone, TakesAPartForTheWhole)
_DUTIES = (BelievesOldEpochs, ReleasesAtOnce, ReleasesWhatIsGoing)
_LANES = (StartsAfterDrop, OneLaneEach, RetriesLater)
_GUARDS = (NeverLooksBack, BelievesWhatItFinds, NeedsNoProof, HasNoGuard)

_MUTANTS: Mapping[str, PullParts] = {
    **{mutant.__name__: PullParts(coordinator=mutant) for mutant in _COORDINATORS},
    **{mutant.__name__: PullParts(assignments=mutant) for mutant in _ASSIGNMENTS},
    **{mutant.__name__: PullParts(duties=mutant) for mutant in _DUTIES},
    **{mutant.__name__: PullParts(lanes=mutant) for mutant in _LANES},
    **{mutant.__name__: PullParts(guard=mutant, hangs=True) for mutant in _GUARDS},
    "ReleasesEarly": PullParts(releases_early=True),
    "AcksEarly": PullParts(acks_early=True),
    "ForgetsLoss": PullParts(forgets_loss=True),
    "ActsBeforeSaving": PullParts(acts_before_saving=True),
}
PULL_MUTANTS = {name: replace(parts, resizes=False) for name, parts in _MUTANTS.items()}
"""Each broken in one way."""
