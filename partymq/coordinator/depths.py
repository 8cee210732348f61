"""How much is in members' queues, from the two sources there are.

The management API knows ready and unacked messages (exact for classic queues) but not the consumers; a
passive declare knows consumers and ready ones. Consumers are asked for first: a queue that had none, and
after that has nothing unacked, is in nobody's hands.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf
from time import monotonic
from typing import Final, TypeVar

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.coordinator.management import ManagedQueue, Management
from partymq.errors import ChannelClosed, ConnectionLost, ManagementUnavailable
from partymq.log import get_logger

_NOT_FOUND: Final = 404
_LOCKED: Final = 405
_DOWN: Final = 506
_COUNTED_ON: Final = 1.0
_RETRY_MANAGEMENT: Final = 15.0
"""Seconds after which a management API that did not answer is tried again."""

_T = TypeVar("_T")
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """What the broker says of one queue. None: not known.

    `unacked` messages are with a consumer. Where counts are `lagging` (quorum queues) it is up to ten seconds
    old, and so are `ready` ones unless the consumers were asked for too.
    """

    exists: bool
    ready: int | None = None
    unacked: int | None = None
    consumers: int | None = None
    lagging: bool = False
    fragile: str | None = None
    """Why the queue may vanish with what is in it."""

    @property
    def empty(self) -> bool:
        """Proven: nothing in the queue and nothing with a consumer."""
        return not self.exists or (self.ready == 0 and self.unacked == 0)


_GONE: Final = QueueDepth(exists=False)


class QueueDepths:
    """Asks for the depths of queues. One question at a time: callers share the channel.

    Args:
        connection: gives the connection on which passive declares are asked, None while there is none.
        management: None where it is switched off.
    """

    def __init__(self, connection: Callable[[], Connection | None], management: Management | None) -> None:
        self._connection = connection
        self._management = management
        self._channel: Channel | None = None
        self._turn = asyncio.Lock()
        self._ours_until: dict[str, float] = {}
        self._retry_at = 0.0
        self._known = False
        """Whether the management API is known to be that of this broker."""

    @property
    def sighted(self) -> bool:
        """Whether unacked messages can be seen at all, as far as is known now."""
        return self._management is not None and monotonic() >= self._retry_at

    @contextmanager
    def consuming(self, queue: str) -> Iterator[None]:
        """While we consume a queue ourselves: that consumer is not the member's, and is not told as one."""
        self._ours_until[queue] = inf
        try:
            yield
        finally:
            # The broker counts a consumer for some moments after its channel was closed.
            self._ours_until[queue] = monotonic() + _COUNTED_ON

    async def sample(self, queues: Collection[str], *, consumers: bool = True) -> dict[str, QueueDepth]:
        """The depths of these queues now.

        `consumers=False` leaves the consumers out where the management API answers: one call for all.
        Raises ConnectionLost, CallTimeout.
        """
        if not queues:
            return {}
        ours = self._consumed_by_us()
        depths = await self._sample(queues, consumers)
        ours |= self._consumed_by_us()
        return {
            queue: replace(depth, consumers=None) if queue in ours else depth
            for queue, depth in depths.items()
        }

    def _consumed_by_us(self) -> set[str]:
        now = monotonic()
        self._ours_until = {queue: until for queue, until in self._ours_until.items() if until > now}
        return set(self._ours_until)

    async def _sample(self, queues: Collection[str], consumers: bool) -> dict[str, QueueDepth]:
        async with self._turn:
            asked: dict[str, QueueDepth] = {}
            if consumers or not self.sighted:
                asked = {queue: await self._declared(queue) for queue in queues}
            managed = await self._managed_surely(queues)
        if managed is None:
            return asked or {queue: await self._declared(queue) for queue in queues}
        return {queue: _merged(asked.get(queue), managed.get(queue)) for queue in queues}

    async def is_unbound(self, exchange: str, key: str) -> bool:
        """Whether it is certain that nothing is bound to a direct exchange with this key."""
        return bool(await self._asked(lambda management: management.is_unbound(exchange, key)))

    async def bindings(self, exchange: str) -> dict[str, list[str]] | None:
        """Queues by routing key; None where nobody can be asked."""
        return await self._asked(lambda management: management.bindings(exchange))

    async def _managed(self, queues: Collection[str]) -> dict[str, ManagedQueue] | None:
        return await self._asked(lambda management: management.queues(queues))

    async def _managed_surely(self, queues: Collection[str]) -> dict[str, ManagedQueue] | None:
        """None, too, where the management API does not know queues that exist.

        Then it may be that of another broker, and nothing that it says is a proof of anything.
        """
        managed = await self._managed(queues)
        if managed is None:
            return None
        missing = {queue for queue in set(queues) - set(managed) if (await self._declared(queue)).exists}
        if not missing:
            return managed
        declared_since = await self._managed(missing)
        if declared_since is None:
            return None
        managed |= declared_since
        if missing <= set(managed):
            return managed
        name = min(missing - set(managed))
        self._blind(
            ManagementUnavailable(
                f"the management API does not know the queue {name!r}, which exists:"
                " is it the one of this broker?"
            )
        )
        return None

    async def _asked(self, ask: Callable[[Management], Awaitable[_T]]) -> _T | None:
        """The management API's answer; None where it has none for us."""
        management = self._management
        if management is None or not self.sighted:
            return None
        try:
            if not self._known:
                await self._check(management)
            return await ask(management)
        except ManagementUnavailable as error:
            self._blind(error)
            return None

    async def _check(self, management: Management) -> None:
        """Whether it is the API of the broker that we are connected to, as far as can be told."""
        connection = self._connection()
        if connection is None:
            return
        ours, theirs = connection.server_properties.get("cluster_name"), await management.cluster_name()
        if ours and theirs and ours != theirs and not await management.has_node(ours):
            raise ManagementUnavailable(
                f"the management API is that of the broker {theirs!r}, but this one is {ours!r}:"
                " name the right one in `management_url`"
            )
        self._known = True

    def _blind(self, error: ManagementUnavailable) -> None:
        if self._retry_at == 0.0 or monotonic() - self._retry_at > _RETRY_MANAGEMENT:
            _log.warning("queues can't be seen", reason=str(error), retry_seconds=_RETRY_MANAGEMENT)
        self._retry_at = monotonic() + _RETRY_MANAGEMENT
        self._known = False

    async def _declared(self, queue: str) -> QueueDepth:
        if self._channel is None or self._channel.error is not None:
            connection = self._connection()
            if connection is None:
                raise ConnectionLost("the connection to the broker is being made again")
            self._channel = await connection.open_channel()
        try:
            found = await self._channel.declare_queue(queue, passive=True)
        except ChannelClosed as error:
            if error.code == _NOT_FOUND:
                return _GONE
            if error.code in (_LOCKED, _DOWN):
                return QueueDepth(exists=True)
            raise
        return QueueDepth(exists=True, ready=found.messages, consumers=found.consumers)


def _merged(asked: QueueDepth | None, managed: ManagedQueue | None) -> QueueDepth:
    if managed is None:
        return _GONE
    lagging = managed.kind != "classic"
    return QueueDepth(
        exists=True,
        ready=asked.ready if lagging and asked is not None else managed.ready,
        unacked=managed.unacked,
        consumers=asked.consumers if asked is not None else None,
        lagging=lagging,
        fragile=_fragile(managed),
    )


def _fragile(queue: ManagedQueue) -> str | None:
    traits = [
        name
        for name, present in (
            ("exclusive", queue.exclusive),
            ("auto-delete", queue.auto_delete),
            ("not durable", not queue.durable),
        )
        if present
    ]
    return ", ".join(traits) or None
