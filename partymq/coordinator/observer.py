"""Looks at the members' queues, again and again, and tells the router and the coordinator what it sees."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from partymq.config.settings import GroupSettings
from partymq.coordinator.depths import QueueDepth, QueueDepths
from partymq.errors import BrokerError
from partymq.group.coordinator import Coordinator
from partymq.group.events import Event, Learned, Observed
from partymq.group.names import member_key
from partymq.group.state import Member, MemberState, SetAside
from partymq.log import get_logger
from partymq.router import Router
from partymq.router.events import Depth

_INTERVAL: Final = 0.2
_CALLS_PER_SECOND: Final = 100
"""Passive declares at most: with many members they are looked at less often."""
_BINDINGS_INTERVAL: Final = 1.0
_WAITING: Final = frozenset({MemberState.PENDING, MemberState.REBINDING})
_SEEN: Final = frozenset({MemberState.READY, MemberState.SET_ASIDE})

_log = get_logger(__name__)


class Observer:
    """Samples depths for windows and for members that cannot receive; learns queues from their bindings.

    Args:
        happened: takes the events for the coordinator.
    """

    def __init__(
        self,
        settings: GroupSettings,
        coordinator: Coordinator,
        depths: QueueDepths,
        router: Router,
        happened: Callable[[Event], None],
    ) -> None:
        self._settings = settings
        self._coordinator = coordinator
        self._depths = depths
        self._router = router
        self._happened = happened
        self._latest: dict[str, QueueDepth] = {}
        self._told: dict[str, tuple[int, MemberState, bool, bool]] = {}
        self._warned: set[str] = set()
        self._doubled: set[str] = set()
        self._wake = asyncio.Event()
        self.source_trouble: str | None = None
        """Why the source could not be consumed, None where it stands."""
        self.source_ready: int | None = None
        """Messages waiting in the source."""
        self.rate = 0.0
        """Messages a second that were routed lately."""

    def wake(self) -> None:
        """Look now: somebody came whose queue is not known."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. A broker that does not answer is asked again later."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_depths())
            tasks.create_task(self._watch_bindings())
            tasks.create_task(self._watch_source())

    async def queue_of(self, hostname: str) -> str | None:
        """The queue bound with a member's key; None where none is, where it can't be told which of several it
        is (not one alone of them is consumed: a wrong name is worse than none), or nobody can be asked.

        Raises BrokerError.
        """
        return await self._the_one_of(self._bound(hostname, await self._bindings()))

    async def moved_on(self, hostname: str, queue: str) -> bool:
        """Whether another queue than this one, which is gone, is bound with a member's key; then it is told.

        Raises BrokerError.
        """
        others = [other for other in self._bound(hostname, await self._bindings()) if other != queue]
        if len(others) == 1:
            self._learned(hostname, others[0])
        return bool(others)

    async def is_unbound(self, hostname: str) -> bool:
        """Whether it is certain that nothing can reach a member. Raises BrokerError."""
        return await self._depths.is_unbound(self._settings.exchange, member_key(hostname))

    async def may_unbind(self, hostname: str, queue: str) -> bool:
        """Whether an earlier queue of a member can lose its binding: never the only one that is of use.

        Raises BrokerError.
        """
        member = self._coordinator.state.members.get(hostname)
        if member is None or member.queue is None:
            return True
        present = member.queue
        depths = await self._depths.sample([queue, present])
        if not depths[queue].exists:
            return True
        bindings = await self._bindings()
        bound = bindings is None or present in self._bound(hostname, bindings)
        consumed = depths[present].consumers or not depths[queue].consumers
        return depths[present].exists and bound and bool(consumed)

    async def until_unbindable(self, hostname: str, queue: str) -> None:
        """Wait until `may_unbind`. Raises BrokerError."""
        while True:
            if await self.may_unbind(hostname, queue):
                return
            await asyncio.sleep(_INTERVAL)

    async def _bindings(self) -> dict[str, list[str]] | None:
        return await self._depths.bindings(self._settings.exchange)

    def _bound(self, hostname: str, bindings: dict[str, list[str]] | None) -> list[str]:
        queues = (bindings or {}).get(member_key(hostname), [])
        if len(queues) > 1 and hostname not in self._doubled:
            self._doubled.add(hostname)
            _log.warning(
                "several queues are bound with one member's key: each gets every message",
                member=hostname,
                queues=queues,
            )
        return queues

    async def _the_one_of(self, queues: list[str]) -> str | None:
        if len(queues) > 1:
            depths = await self._depths.sample(queues)
            queues = [queue for queue in queues if depths[queue].consumers]
        return queues[0] if len(queues) == 1 else None

    def _learned(self, hostname: str, queue: str) -> None:
        member = self._coordinator.state.members.get(hostname)
        if member is not None and member.queue != queue:
            self._happened(Learned(hostname, member.incarnation, queue))

    def add_to(self, member: dict[str, Any]) -> None:
        """Add what is known of a member's queue to its description."""
        depth = self._latest.get(member["hostname"])
        member["messages_ready"] = depth.ready if depth is not None else None
        member["messages_unacked"] = depth.unacked if depth is not None else None
        member["consumers"] = depth.consumers if depth is not None else None
        member["queue_warning"] = (
            f"the queue is {depth.fragile}: what is in it is lost when it goes"
            if depth is not None and depth.fragile
            else None
        )

    async def _watch_depths(self) -> None:
        consumers_at = 0.0
        while True:
            seen = {
                member.queue: member
                for member in self._coordinator.state.members.values()
                if member.state in _SEEN and member.queue is not None
            }
            interval = max(_INTERVAL, len(seen) / _CALLS_PER_SECOND)
            consumers = monotonic() >= consumers_at
            asked = {queue: (member.hostname, member.incarnation) for queue, member in seen.items()}
            try:
                depths = await self._depths.sample(list(asked), consumers=consumers)
            except BrokerError as error:
                _log.info("queues could not be looked at", reason=str(error))
                depths = {}
            if consumers:
                consumers_at = monotonic() + interval
            for queue, depth in depths.items():
                self._seen(*asked[queue], depth)
            await asyncio.sleep(interval)

    def _seen(self, hostname: str, incarnation: int, depth: QueueDepth) -> None:
        before = self._latest.get(hostname)
        fresh = depth.consumers is not None
        if depth.consumers is None and before is not None:
            depth = QueueDepth(
                depth.exists, depth.ready, depth.unacked, before.consumers, depth.lagging, depth.fragile
            )
        self._latest[hostname] = depth
        if depth.exists and depth.ready is not None and (fresh or not depth.lagging):
            unacked = None if depth.lagging else depth.unacked
            self._router.observe(hostname, Depth(depth.ready, unacked, depth.consumers), monotonic())
        if depth.fragile is not None and hostname not in self._warned:
            self._warned.add(hostname)
            _log.warning(
                "a member's queue can vanish with what is in it", member=hostname, queue_is=depth.fragile
            )
        self._tell(hostname, incarnation, depth)

    def _tell(self, hostname: str, incarnation: int, depth: QueueDepth) -> None:
        """Tell the coordinator what is news to it; a member that was set aside waits for every word."""
        member = self._coordinator.state.members.get(hostname)
        if member is None:
            return
        news = (incarnation, member.state, depth.exists, bool(depth.consumers))
        if member.state is MemberState.SET_ASIDE or self._told.get(hostname) != news:
            self._told[hostname] = news
            self._happened(Observed(hostname, incarnation, depth.exists, depth.consumers))

    async def _watch_source(self) -> None:
        queue = self._settings.source_queue
        statistics = self._router.statistics
        messages, then = statistics.messages, monotonic()
        while True:
            now = monotonic()
            self.rate = (statistics.messages - messages) / max(now - then, _INTERVAL)
            messages, then = statistics.messages, now
            try:
                depth = (await self._depths.sample([queue]))[queue]
            except BrokerError as error:
                _log.info("the source could not be looked at", reason=str(error))
            else:
                self.source_ready = depth.ready
                self.source_trouble = None if depth.exists else f"source queue {queue!r} does not exist"
            await asyncio.sleep(_BINDINGS_INTERVAL)

    async def _watch_bindings(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._look_at_bindings()
            except BrokerError as error:
                _log.info("bindings could not be looked at", reason=str(error))
            try:
                async with asyncio.timeout(_BINDINGS_INTERVAL):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _look_at_bindings(self) -> None:
        """Learn the queues of members of which none is known, or none that is consumed."""
        in_doubt = [
            (member, member.incarnation)
            for member in self._coordinator.state.members.values()
            if self._is_in_doubt(member)
        ]
        bindings = await self._bindings() if in_doubt else None
        if bindings is None:
            return
        for member, incarnation in in_doubt:
            queues = self._bound(member.hostname, bindings)
            queue = await self._the_one_of(queues)
            if queue is not None and member.incarnation == incarnation:
                self._learned(member.hostname, queue)
            if member.state is MemberState.SET_ASIDE and member.reason is SetAside.RETURNED:
                bound = bool(queues) if member.queue is None else member.queue in queues
                self._happened(Observed(member.hostname, incarnation, exists=bound, bound=bound))

    def _is_in_doubt(self, member: Member) -> bool:
        if member.state in _WAITING:
            return False
        if member.queue is None or member.reason is SetAside.RETURNED:
            return True
        if member.state not in _SEEN:
            return False
        depth = self._latest.get(member.hostname)
        return depth is not None and not (depth.exists and depth.consumers)

    def forget(self, hostname: str) -> None:
        """A member is no more."""
        self._latest.pop(hostname, None)
        self._told.pop(hostname, None)
        self._warned.discard(hostname)
        self._doubled.discard(hostname)
