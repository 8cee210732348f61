"""One term of coordinating a push group: the decisions, carried out on the broker until the lease is lost."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import Any, Final, TypeVar

from partymq.amqp.connection import Connection
from partymq.config.settings import BrokerSettings, GroupSettings
from partymq.coordinator.commands import AnswerTo
from partymq.coordinator.depths import QueueDepths
from partymq.coordinator.lease import Lease
from partymq.coordinator.leftovers import discard_leftover, move_leftover
from partymq.coordinator.observer import Observer
from partymq.coordinator.office import Office, first_error
from partymq.coordinator.proofs import Proofs
from partymq.coordinator.settings import router_settings, timing
from partymq.coordinator.statistics import GroupStatistics
from partymq.coordinator.topology import prepare, unbind_member
from partymq.errors import BrokerError
from partymq.group import events as ev
from partymq.group.coordinator import Coordinator
from partymq.group.names import leftover_queue
from partymq.group.state import GroupState
from partymq.group.wire import Command, Describe, Heartbeat, Ready, Released, Reply, Status
from partymq.log import get_logger
from partymq.router import Router
from partymq.router import events as routed

_TICK: Final = 0.2
_RENEW: Final = 240.0
"""Seconds after which at the latest the state is saved again: the broker must not find it unacked for longer
than its `consumer_timeout`."""
_RETRY: Final = 0.5
_LONGEST_RETRY: Final = 10.0

_log = get_logger(__name__)
_T = TypeVar("_T")


class Term(Office):
    """One term as the coordinator of one group.

    Args:
        broker: where the broker is; the router connects to it for consuming.
        settings: the group's.
        lease: held; its connection is the one the router publishes on.
        state: the state that the lease was acquired with.
        connection: the coordinator's.
        depths: asks for the broker's counts.
        statistics: counts on over the terms.
    """

    def __init__(
        self,
        broker: BrokerSettings,
        settings: GroupSettings,
        lease: Lease,
        state: GroupState,
        connection: Connection,
        depths: QueueDepths,
        statistics: GroupStatistics,
    ) -> None:
        super().__init__(
            settings.name,
            lease,
            connection,
            Coordinator(state, timing(settings)),
            tick=min(_TICK, settings.heartbeat.check_interval),
            renew_after=min(_RENEW, broker.consumer_timeout / 3),
        )
        self._settings = settings
        self._depths = depths
        self._statistics = statistics
        self._router = Router(
            router_settings(broker, settings),
            broker.url,
            self._routed,
            prepare=lambda: prepare(connection, settings),
            statistics=statistics.router,
        )
        self._proofs = Proofs(
            self._router,
            depths,
            drain_timeout=settings.drain_timeout,
            idle_handover=settings.idle_handover,
            queue_of=self._queue_of,
            moved_on=lambda hostname, queue: self._observer.moved_on(hostname, queue),
            is_unbound=lambda hostname: self._observer.is_unbound(hostname),
        )
        self._observer = Observer(settings, self.coordinator, depths, self._router, self.happened)
        self._tasks = asyncio.TaskGroup()
        self._unprepared: str | None = None
        self._looking: dict[str, deque[tuple[Command, AnswerTo]]] = {}
        self._handovers: dict[int, asyncio.Task[None]] = {}
        self._locked: dict[int, tuple[int, ...]] = {}
        self._leftovers: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Coordinate until the lease is lost; cancelled, end in good order (see `Router.run`).

        Raises the BrokerError that ended it.
        """
        self._statistics.held_by_partition = self._router.held_by_partition
        router = asyncio.create_task(self._router.run(self._connection), name="router")
        failure: BrokerError | None = None
        try:
            async with self._tasks as tasks:
                self.start_tasks(tasks)
                tasks.create_task(self._prepare())
                tasks.create_task(self._observer.run())
                tasks.create_task(self._watch(router))
        except* BrokerError as errors:
            failure = first_error(errors)
        finally:
            router.cancel()
            await asyncio.wait([router])
        # Not raised in the handler: there, early releases of Python 3.11 wrap it in a group.
        if failure is not None:
            raise failure

    def submit(self, command: Command, answer: AnswerTo) -> None:
        """A command, from wherever it came; `answer` is called when it has been carried out and saved."""
        call = command.call
        if isinstance(call, Describe):
            answer(Reply(command.request_id, Status.OK, self.describe()))
        elif isinstance(call, Released):
            pass  # of pull groups
        elif isinstance(call, Heartbeat) and self._is_alive(call):
            # It changes nothing that has to be saved, so that it need not wait where nothing can be.
            answer(Reply(command.request_id, Status.OK))
        elif call.hostname in self._looking:
            # Calls of one member don't overtake each other.
            self._looking[call.hostname].append((command, answer))
        elif isinstance(call, Ready) and call.queue is None:
            self._look_for_queue(call.hostname, command, answer)
        else:
            self.submitted(command.request_id, call, answer)

    def _is_alive(self, heartbeat: Heartbeat) -> bool:
        """Note a member's heartbeat; False where it is none, perhaps because its `bind` is still waiting."""
        [answer] = self.coordinator.handle(ev.Called("", heartbeat), monotonic())
        return answer == ev.Answer("", Status.OK)

    def _queue_of(self, hostname: str) -> str | None:
        member = self.coordinator.state.members.get(hostname)
        return member.queue if member is not None else None

    def describe(self) -> dict[str, Any]:
        """What `GET /groups/{group}` shows of this term."""
        now = monotonic()
        described = self.coordinator.describe(now)
        described["epoch"] = self._lease.epoch
        described["coordinator"] = self._lease.current.instance
        described["coordinates_since"] = self._began
        described["unready"] = self.unready()
        described["rate"] = round(self._observer.rate, 1)
        described["source"] = {
            "queue": self._settings.source_queue,
            "messages_ready": self._observer.source_ready,
        }
        for member in described["members"]:
            self._observer.add_to(member)
        self._router.add_to(described)
        return described

    def unready(self) -> str | None:
        """Why nothing is routed now; None where all is well."""
        if self.blocked is not None:
            return super().unready()
        if not self.coordinator.running:
            # Nobody to route to is no fault: members could not even join if it were told as one.
            return self._unprepared or self._observer.source_trouble
        return self._router.unready()

    async def _prepare(self) -> None:
        """Declare what has to stand, before there is anybody to route to; again and again where it fails."""
        wait = _RETRY
        while True:
            try:
                await prepare(self._connection, self._settings)
                self._unprepared = None
                return
            except BrokerError as error:
                self._unprepared = str(error)
                _log.warning(
                    "the group can't be prepared", group=self._group, reason=str(error), retry_seconds=wait
                )
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_RETRY)

    # -- events in -------------------------------------------------------------------------------------

    def _look_for_queue(self, hostname: str, command: Command, answer: AnswerTo) -> None:
        """Ask the broker for a member's queue before its `ready` counts; its next calls wait for that."""
        self._looking[hostname] = deque()
        looking = self._ready(hostname, command.request_id, answer)
        try:
            self._tasks.create_task(looking)
        except RuntimeError:  # the term is ending; the caller asks again
            del self._looking[hostname]
            looking.close()

    async def _ready(self, hostname: str, request_id: str, answer: AnswerTo) -> None:
        try:
            queue = await self._observer.queue_of(hostname)
        except BrokerError:
            queue = None
        self.submitted(request_id, Ready(hostname, queue), answer)
        if queue is None:
            self._observer.wake()
        for command, answer_later in self._looking.pop(hostname):
            self.submit(command, answer_later)

    def _routed(self, event: routed.RouterEvent) -> None:
        """What the router has to say, as events of the coordinator's."""
        match event:
            case routed.Unroutable(hostname, reason):
                self.happened(ev.Unroutable(hostname, reason))
            case routed.HoldExhausted(hostnames):
                self.happened(ev.HoldExhausted(hostnames))
            case routed.Fetched(number):
                self.happened(ev.Fetched(number))

    async def _watch(self, router: asyncio.Task[None]) -> None:
        """End the term when the lease is lost or the router can't go on."""
        lost = asyncio.create_task(self._lease.wait_lost())
        try:
            await asyncio.wait([router, lost], return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                raise lost.result()
            router.result()
        finally:
            lost.cancel()

    # -- decisions ---------------------------------------------------------------------------------------

    def decide(self, events: list[ev.Event]) -> list[ev.Effect]:
        """See `Office`."""
        self.coordinator.sighted = self._depths.sighted
        return super().decide(events)

    def perform(self, effects: list[ev.Effect]) -> None:
        """See `Office`."""
        self._perform(effects)
        self._statistics.rebalanced(self.coordinator.rebalances)
        self._statistics.term(self._lease.epoch, self.coordinator)

    def _perform(self, effects: list[ev.Effect]) -> None:
        """Carry out effects in their order. None of them blocks."""
        router = self._router
        for effect in effects:
            match effect:
                case ev.Save():
                    pass
                case ev.Answer(request_id, status):
                    self.answered(request_id, status)
                case ev.Pause(hostname):
                    router.pause(hostname)
                case ev.Resume(hostname):
                    router.resume(hostname)
                case ev.GiveWay(hostname):
                    router.give_way(hostname)
                case ev.Assign(owners, locked):
                    router.assign(owners, locked)
                    self._tell("assigned", partitions=len(owners), to=sorted(set(owners.values())))
                case ev.Unlock(partitions):
                    router.unlock(partitions)
                case ev.Drain():
                    self._tell("draining", hostname=effect.hostname, partitions=len(effect.partitions))
                    self._begin(effect.handover, partial(self._proofs.drained, effect))
                case ev.Reclaim():
                    self._tell("reclaiming", hostname=effect.hostname, partitions=len(effect.partitions))
                    self._begin(effect.handover, partial(self._reclaimed, effect))
                case ev.Cancel(number):
                    self._cancel(number)
                case ev.Move():
                    self._tell("moving a leftover", hostname=effect.hostname, queue=effect.queue)
                    self._leftovers[effect.leftover] = self._tasks.create_task(self._move(effect))
                case ev.Fetch(number):
                    self._tell("fetching a leftover", number=number)
                    router.fetch(number, leftover_queue(self._settings.name, number))
                case ev.CancelFetch(number):
                    self._end_move(number)
                    router.cancel_fetch(number)
                case ev.Discard(number):
                    self._tasks.create_task(self._discard(number))
                case ev.Forget(hostname):
                    router.forget(hostname)
                    self._observer.forget(hostname)
                case ev.Start():
                    router.start()
                case ev.Stop():
                    router.stop()

    def _tell(self, what: str, *, hostname: str | None = None, **more: object) -> None:
        """Log a step of a rebalance."""
        member = self.coordinator.state.members.get(hostname) if hostname is not None else None
        if member is not None:
            more |= {"member": hostname, "state": member.state.value, "reason": member.reason.value}
        _log.info(what, group=self._settings.name, generation=self.coordinator.state.generation, **more)

    def _begin(self, number: int, prove: Callable[[], Awaitable[ev.Event]]) -> None:
        self._handovers[number] = self._tasks.create_task(self._hand_over(number, prove))

    async def _hand_over(self, number: int, prove: Callable[[], Awaitable[ev.Event]]) -> None:
        proof = await _persistently(prove)
        if isinstance(proof, ev.PutOff):
            _log.info("hand-over put off: no proof of draining in time", group=self._settings.name)
        elif isinstance(proof, ev.Released) and proof.partitions is not None:
            self._locked[number] = proof.partitions
        self._handovers.pop(number, None)
        self.happened(proof)

    def _cancel(self, number: int) -> None:
        task = self._handovers.pop(number, None)
        if task is not None:
            task.cancel()
        self._router.unlock(self._locked.pop(number, ()))

    async def _reclaimed(self, reclaim: ev.Reclaim) -> ev.Released:
        if reclaim.unbind and reclaim.queue is not None:
            await self._unbind(reclaim.hostname, reclaim.queue)
        return await self._proofs.reclaimed(reclaim)

    async def _unbind(self, hostname: str, queue: str) -> None:
        await self._observer.until_unbindable(hostname, queue)
        await unbind_member(self._connection, self._settings.exchange, hostname, queue)

    async def _move(self, move: ev.Move) -> None:
        async def moved() -> ev.Moved:
            if move.unbind:
                await self._unbind(move.hostname, move.queue)
            await move_leftover(
                self._connection,
                self._proofs,
                self._depths,
                group=self._settings.name,
                number=move.leftover,
                queue=move.queue,
            )
            return ev.Moved(move.leftover)

        event = await _persistently(moved)
        self._leftovers.pop(move.leftover, None)
        self.happened(event)

    def _end_move(self, number: int) -> None:
        task = self._leftovers.pop(number, None)
        if task is not None:
            task.cancel()

    async def _discard(self, number: int) -> None:
        try:
            await discard_leftover(self._connection, group=self._settings.name, number=number)
        except BrokerError as error:
            _log.warning("a leftover's queue was not deleted", number=number, reason=str(error))


async def _persistently(ask: Callable[[], Awaitable[_T]]) -> _T:
    """The answer, asked for again while the broker can't be asked."""
    while True:
        try:
            return await ask()
        except BrokerError as error:
            _log.warning("a step has to be tried again", reason=str(error), retry_seconds=_RETRY)
        await asyncio.sleep(_RETRY)
