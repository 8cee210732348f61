"""Whether a queue is empty that nobody is to consume: one of a layout that is being left.

What the broker counts is no proof. Of a quorum queue that has no leader, or whose leader's node hangs, it
says that it has no messages and no consumers (measured, RabbitMQ 3.10), as of one that is empty. So the queue
is consumed for a while: a count in which that consumer is comes from the leader.
"""

from collections.abc import Callable
from typing import Final

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.content import Span
from partymq.amqp.queues import look_at

_CONSUMED: Final = 1.0
"""Seconds for which a queue is consumed in vain before it counts as empty."""


class Vacancy:
    """Looks at one queue, again and again, until it is known.

    Found empty and without a consumer, it is consumed; if nothing comes, and the counts say all the while
    that it is consumed and empty, the consumer goes, and it has to be found empty and without a consumer
    again: the messages that somebody else has in hand are not seen while ours waits behind his.

    Args:
        queue: a single-active-consumer queue.
        prefetch: messages that its consumers take. As many are taken here, if there are any: they are given
            back in order, where less of what others have given back would come behind the rest of that.
        clock: monotonic seconds.
    """

    def __init__(self, connection: Connection, queue: str, prefetch: int, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._queue = queue
        self._prefetch = prefetch
        self._clock = clock
        self._channel: Channel | None = None
        self._since: float | None = None
        """Since when it is consumed in vain."""
        self._consumed = False
        """It was for long enough."""
        self._delivered = False

    async def look(self) -> bool | None:
        """True: it is empty, or not there any more; False: there is something in it; None: that is not known
        yet. Where it is known, it is not consumed any more. Raises BrokerError."""
        if self._channel is None:
            return await self._from_outside()
        if self._channel.error is not None:
            self._begin_anew()
            return None
        found = await self._channel.declare_queue(self._queue, passive=True)
        if self._delivered or found.messages:
            await self.close()
            return False
        if not found.consumers:
            # We are one: so this was not said by the leader.
            self._since = None
        elif self._since is None:
            self._since = self._clock()
        elif self._clock() - self._since >= _CONSUMED:
            await self.close()
            self._consumed = True
        return None

    async def close(self) -> None:
        """Consumes it no more; what had come goes back to its place. Raises BrokerError."""
        channel, self._channel = self._channel, None
        self._begin_anew()
        if channel is not None:
            await channel.close()

    def _begin_anew(self) -> None:
        self._channel = self._since = None
        self._consumed = self._delivered = False

    async def _from_outside(self) -> bool | None:
        found = await look_at(self._connection, self._queue)
        if found is None:
            return True
        if found.messages:
            self._begin_anew()
            return False
        if found.consumers:
            # Ours, on its way out, or somebody else's.
            self._begin_anew()
            return None
        if self._consumed:
            return True
        await self._consume()
        return None

    async def _consume(self) -> None:
        channel = await self._connection.open_channel()
        try:
            await channel.qos(self._prefetch)
            await channel.consume(self._queue, self._receive, on_cancel=channel.shut)
        except BaseException:
            channel.shut()
            raise
        self._channel = channel

    def _receive(self, _buf: bytes, _spans: list[Span]) -> None:
        self._delivered = True
