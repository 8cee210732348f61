"""One term of coordinating a pull group: the decisions are those of a push group, but here members are told.

Nothing is routed. Members consume the queues of their partitions themselves; each is told what it has to
consume by assignments to its control queue, which is exclusive to its connection. An assignment that comes
back says that the member is dead; they are sent several times a second, so that this is noticed soon.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from msgspec.structs import replace
from pamqp.commands import Basic

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.content import Returned, encode_content, publish_frame
from partymq.coordinator.commands import ASSIGNMENT, AnswerTo
from partymq.coordinator.lease import Lease
from partymq.coordinator.office import Office, first_error
from partymq.coordinator.resize import Resize
from partymq.coordinator.statistics import GroupStatistics
from partymq.errors import BrokerError
from partymq.group import events as ev
from partymq.group.assignments import Assignments
from partymq.group.coordinator import Coordinator
from partymq.group.membership import Timing
from partymq.group.state import GroupState, Member, MemberState
from partymq.group.wire import (
    Assignment,
    Command,
    Describe,
    Heartbeat,
    Ready,
    Released,
    Reply,
    Status,
    encode,
)
from partymq.log import get_logger

_TICK: Final = 0.2
_RENEW: Final = 240.0
_SETTLE: Final = 0.15
"""Seconds in which another member has to join so that both are given partitions together: processes that are
started together come that close, and who comes alone hardly notices."""
_SETTLE_TICK: Final = 0.03
_LOOK: Final = 0.25
"""Seconds between two assignments to a member of a group that is not very large."""
_MOST_LOOKS: Final = 1000
"""Assignments a second at most that only see whether members are there. So many cost the broker some 5 % of a
core and us 1 %, whether they are small or as long as usual (measured with 100 members)."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PullSettings:
    """Attributes:
    group: the group's name.
    partitions: their number.
    session_timeout: seconds without a heartbeat after which a member is lost that says nothing of it
        itself; and the process's own patience with the broker.
    rejoin_grace: seconds that such a member may take to come back under its name, when its connection is
        gone, before its partitions go to others; 0 = none.
    queue_type: of the state queue.
    """

    group: str
    partitions: int
    session_timeout: float = 10.0
    rejoin_grace: float = 0.0
    queue_type: str = "quorum"

    def timing(self) -> Timing:
        """When the coordinator's patience ends."""
        return Timing(
            expires_after=self.session_timeout + self.rejoin_grace,
            pending_expires_after=max(self.session_timeout, self.rejoin_grace),
            settle=_SETTLE,
        )


class PullTerm(Office):
    """One term as the coordinator of one pull group.

    Args:
        settings: the group's.
        lease: held.
        state: the state that the lease was acquired with.
        connection: the lease's.
        clock: monotonic seconds.
        statistics: counts on over the terms.
    """

    def __init__(
        self,
        settings: PullSettings,
        lease: Lease,
        state: GroupState,
        connection: Connection,
        clock: Callable[[], float] = monotonic,
        statistics: GroupStatistics | None = None,
    ) -> None:
        super().__init__(
            settings.group,
            lease,
            connection,
            Coordinator(state, settings.timing()),
            tick=_TICK,
            renew_after=_RENEW,
            clock=clock,
        )
        self._settings = settings
        self._statistics = statistics or GroupStatistics()
        self._assignments = Assignments(state, lease.epoch)
        self._told: dict[str, Assignment] = {}
        self._queues: dict[str, str] = {}
        """Control queues of those who are told."""
        self._begun = False
        """Whether the state that the term begins with is saved: nobody is told anything before."""
        self._heard: dict[str, float] = {}
        self._gone_since: dict[str, float] = {}
        """By control queue: since when there is nobody."""
        self._outbox: Channel | None = None
        self._resize = Resize(settings.group, connection, self.coordinator, self.happened, clock)

    async def run(self) -> None:
        """Coordinate until the lease is lost. Raises the BrokerError that ended it."""
        self._outbox = await self._connection.open_channel()
        await self._outbox.select_confirms(lambda _: None, self.returned)
        failure: BrokerError | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                self.start_tasks(tasks)
                tasks.create_task(self._settle())
                tasks.create_task(self._look())
                tasks.create_task(self._resize.run())
                tasks.create_task(self._watch_lease())
                tasks.create_task(self._watch_outbox(self._outbox))
        except* BrokerError as errors:
            failure = first_error(errors)
        # Not raised in the handler: there, early releases of Python 3.11 wrap it in a group.
        if failure is not None:
            raise failure

    def describe(self) -> dict[str, Any]:
        """Members, partitions, and who coordinates; for people."""
        described = self.coordinator.describe(self._clock())
        described |= self._resize.describe()
        described["epoch"] = self._lease.epoch
        described["coordinator"] = self._lease.current.instance
        described["coordinates_since"] = self._began
        described["unready"] = self.unready()
        for index, partition in enumerate(described["partitions"]):
            ready = self._statistics.ready.get(self.coordinator.state.id_of(index))
            if ready is not None:
                partition["messages_ready"] = ready
        return described

    def begin(self) -> list[ev.Effect]:
        """See `Office`."""
        self.coordinator.piecewise = True
        return super().begin()

    # -- what members say ----------------------------------------------------------------------------------

    def submit(self, command: Command, answer: AnswerTo) -> None:
        """See `Office`. Heartbeats are answered with the assignment, `Released` by what follows from it."""
        match command.call:
            case Describe():
                answer(Reply(command.request_id, Status.OK, self.describe()))
            case Heartbeat(hostname, queue=queue) as heartbeat:
                if queue is not None:
                    self._heartbeat(hostname, queue, heartbeat)
            case Released(hostname, queue, handover, partitions, epoch):
                if self._queues.get(hostname) == queue:
                    self._heard[hostname] = self._clock()
                    if handover and epoch != self._lease.epoch:
                        return  # it answers another coordinator, whose hand-overs had the same numbers
                    given = partitions if handover else None
                    for event in self._assignments.completes(hostname, handover, given):
                        self.happened(event)
            case Ready(_, None):
                answer(Reply(command.request_id, Status.NOT_BOUND))
            case call:
                self.submitted(command.request_id, call, answer)

    def _heartbeat(self, hostname: str, queue: str, heartbeat: Heartbeat) -> None:
        if self._queues.get(hostname) != queue:
            if self._begun:
                self.send(queue, self._assignments.refusal(hostname, queue))
            return
        self._heard[hostname] = self._clock()
        self.happened(ev.Called("", heartbeat))
        state = self.coordinator.state
        for identity in heartbeat.idle:
            number = state.index_of(identity)
            if number is not None and state.partitions[number].owner == hostname:
                self.happened(ev.Idle(number))
        self.send(queue, replace(self._told[hostname], answers=heartbeat.asked))

    async def _look(self) -> None:
        """See again and again whether the members are there, by telling them what they have been told."""
        while True:
            await asyncio.sleep(self.look_interval)
            if self._connection.blocked is None:
                self.look()

    @property
    def look_interval(self) -> float:
        """Seconds between two looks."""
        return max(_LOOK, len(self._queues) / _MOST_LOOKS)

    def look(self) -> None:
        """Tell all members what they have been told; it comes back where there is nobody any more."""
        for hostname, queue in self._queues.items():
            self.send(queue, self._told[hostname])
        self._give_up_the_silent(self._clock())

    def _give_up_the_silent(self, now: float) -> None:
        """A leaving member that says nothing any more is not waited for."""
        for hostname in self._queues:
            heard = self._heard.setdefault(hostname, now)
            member = self.coordinator.state.members.get(hostname)
            if member is None or member.state is not MemberState.LEAVING:
                continue
            if now - heard >= (member.session_timeout or self._settings.session_timeout):
                for event in self._assignments.completes(hostname, 0):
                    self.happened(event)

    def returned(self, message: Returned) -> None:
        """There is no such control queue any more: its member's connection is gone."""
        queue, now = message.routing_key, self._clock()
        hostname = next((name for name, its in self._queues.items() if its == queue), None)
        member = self.coordinator.state.members.get(hostname) if hostname is not None else None
        if hostname is None or member is None or member.queue != queue:
            return
        if member.state is MemberState.LEAVING:
            for event in self._assignments.completes(hostname, 0):
                self.happened(event)
        elif now - self._gone_since.setdefault(queue, now) >= self._grace(member):
            self.happened(ev.Observed(hostname, member.incarnation, exists=False, consumers=0))

    def _grace(self, member: Member) -> float:
        return member.rejoin_grace if member.session_timeout else self._settings.rejoin_grace

    async def _settle(self) -> None:
        """Ticks often while it matters: who joins alone waits no longer than has to be."""
        while True:
            await asyncio.sleep(_SETTLE_TICK)
            if self.coordinator.settling and self.blocked is None:
                self.happened(ev.Tick())

    async def _watch_lease(self) -> None:
        raise await self._lease.wait_lost()

    async def _watch_outbox(self, outbox: Channel) -> None:
        raise await outbox.wait_closed()

    # -- what they are told --------------------------------------------------------------------------------

    def decided(self, events: list[ev.Event]) -> None:
        """See `Office`."""
        for event in events:
            self._assignments.done(event)

    def perform(self, effects: list[ev.Effect]) -> None:
        """See `Office`. Pauses, leftovers and the source are of push groups: there is nothing to do."""
        self._begun = True
        for effect in effects:
            if isinstance(effect, ev.Answer):
                self.answered(effect.request_id, effect.status)
            elif isinstance(effect, ev.Reclaim) and effect.queue is not None:
                self._tell_replaced(effect.hostname, effect.queue)
            if isinstance(effect, ev.Drain | ev.Reclaim):
                _log.info(
                    "draining" if isinstance(effect, ev.Drain) else "reclaiming",
                    group=self._group,
                    member=effect.hostname,
                    partitions=len(effect.partitions),
                )
            elif isinstance(effect, ev.Remove):
                self._resize.removable = True
            if self._assignments.take(effect):
                assert isinstance(effect, ev.Reclaim)
                self.happened(ev.Released(effect.handover))
        if effects:
            self._tell_all()
        self._statistics.rebalanced(self.coordinator.rebalances)
        self._statistics.term(self._lease.epoch, self.coordinator)

    def _tell_all(self) -> None:
        """Send the assignments that are not what was sent last."""
        before, queues_before = self._told, self._queues
        self._told, self._queues = self._assignments.all(), self._assignments.recipients()
        for hostname, assignment in self._told.items():
            queue = self._queues[hostname]
            if before.get(hostname) != assignment or queues_before.get(hostname) != queue:
                self.send(queue, assignment)
        for known in (self._heard, self._gone_since):
            kept = self._queues if known is self._heard else self._queues.values()
            for name in [name for name in known if name not in kept]:
                del known[name]

    def _tell_replaced(self, hostname: str, queue: str) -> None:
        """An earlier process of a member's name, if it still lives, is to let go at once."""
        member = self.coordinator.state.members.get(hostname)
        if member is not None and member.queue != queue:
            self.send(queue, self._assignments.refusal(hostname, queue))

    def send(self, queue: str, assignment: Assignment) -> None:
        """Send to a control queue; what comes back goes to `returned`."""
        outbox = self._outbox
        if outbox is None or outbox.error is not None:
            return
        properties = Basic.Properties(message_type=ASSIGNMENT)
        content = encode_content(outbox.number, encode(assignment), properties, self._connection.frame_max)
        self._connection.write(publish_frame(outbox.number, "", queue, mandatory=True) + content)
