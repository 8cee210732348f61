"""What a resize of a pull group depends on, broken on purpose, each to be noticed by the simulation."""

import asyncio
from dataclasses import replace

from partymq.amqp.content import Returned
from partymq.amqp.queues import look_at
from partymq.client.sending import Sender
from partymq.coordinator.resize import Resize
from partymq.group import events as ev
from partymq.group.coordinator import Coordinator
from partymq.group.layout import GroupLayout
from tests.simulation.pull_scene import PullParts


class WaitsForNobody(Coordinator):
    """New partitions have owners at once."""

    def targets(self) -> list[str | None]:
        plan, there = super().targets(), sorted(self._targets.eligible(self._now))
        for number in self.state.waiting():
            plan[number] = there[number % len(there)] if there else None
        return plan


class WaitsForOneOnly(Coordinator):
    """A new partition waits for the old one of its number, whatever their common divisor is."""

    def handle(self, event: ev.Event, now: float) -> list[ev.Effect]:
        if isinstance(event, ev.Resized):
            event = replace(event, common=max(event.partitions, len(self.state.partitions)))
        return super().handle(event, now)


class KeepsWhatIsIdle(Coordinator):
    """Nobody gives up a partition that is to be left."""

    def handle(self, event: ev.Event, now: float) -> list[ev.Effect]:
        return super().handle(ev.Tick() if isinstance(event, ev.Idle) else event, now)


class ForgetsWhatIsOccupied(Coordinator):
    """A partition that is not empty after all is consumed no more."""

    def handle(self, event: ev.Event, now: float) -> list[ev.Effect]:
        return super().handle(ev.Tick() if isinstance(event, ev.Occupied) else event, now)


class BelievesItsMember(Resize):
    """Does not look whether a partition is empty."""

    async def _look_at(self, number: int, layout: GroupLayout) -> None:
        self._happened(ev.Retired(number))


class RetiresWhatIsConsumed(Resize):
    """Believes the count of a queue that has a consumer, which says nothing of what that one has."""

    async def _step(self) -> None:
        await super()._step()
        coordinator = self._coordinator
        if self._unbound_at is None or not coordinator.state.retiring:
            return
        before = (await self._layout()).before()
        channel = await self._connection.open_channel()
        for number, partition in enumerate(coordinator.state.partitions[: coordinator.state.retiring]):
            if before is None or partition.retired:
                continue
            found = await channel.declare_queue(before.queue(self._group, number), passive=True)
            if not found.messages:
                partition.owner = None
                coordinator.emptied.add(number)
                self._happened(ev.Retired(number))
        await channel.close()


class LooksTooSoon(Resize):
    """Does not wait for what is on its way, and looks once, from outside."""

    async def _step(self) -> None:
        await super()._step()
        if self._unbound_at is not None:
            self._unbound_at = -1e9

    async def _look_at(self, number: int, layout: GroupLayout) -> None:
        before = layout.before()
        found = await look_at(self._connection, before.queue(self._group, number)) if before else None
        if found is None or not (found.messages or found.consumers):
            self._happened(ev.Retired(number))


class UnbindsNothing(Resize):
    """Leaves it to the operator, who may be dead."""

    async def _step(self) -> None:
        if self._coordinator.state.retiring and self._unbound_at is None:
            self._unbound_at = self._clock()
        await super()._step()


class StopsBehindAnother(Resize):
    """Does not know what to do where an earlier coordinator has removed all, and a later resize is on."""

    async def _finish(self) -> None:
        await self._layout()
        await super()._finish()


class SendsOn(Sender):
    """Does not wait until all it has sent is confirmed, or has come back."""

    def _came_back(self, message: Returned) -> None:
        super()._came_back(message)
        self._stale = False


class LearnsInFlight(Sender):
    """Reads the settings, and sends anew, as soon as something has come back: more may."""

    def _came_back(self, message: Returned) -> None:
        super()._came_back(message)
        if self._learning is None:
            self._learning = asyncio.get_running_loop().create_task(self._learn(message))


_COORDINATORS = (
    WaitsForNobody,
    WaitsForOneOnly,
    KeepsWhatIsIdle,
    ForgetsWhatIsOccupied,
)
_RESIZES = (
    BelievesItsMember,
    RetiresWhatIsConsumed,
    LooksTooSoon,
    UnbindsNothing,
    StopsBehindAnother,
)
_SENDERS = (SendsOn, LearnsInFlight)

RESIZE_MUTANTS: dict[str, PullParts] = {
    **{mutant.__name__: PullParts(coordinator=mutant) for mutant in _COORDINATORS},
    **{mutant.__name__: PullParts(resize=mutant) for mutant in _RESIZES},
    **{mutant.__name__: PullParts(sender=mutant) for mutant in _SENDERS},
}
"""Each broken in one way."""
