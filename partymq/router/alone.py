"""Being alone with a queue: a lock on it, and a channel that consumes it as its only consumer."""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.content import Span
from partymq.errors import BrokerError, CallTimeout, ChannelClosed
from partymq.group.names import alone_lock
from partymq.log import get_logger

CLOSE_TIMEOUT: Final = 5.0
"""Seconds for the broker to close a channel or a connection."""

_LOOKS_LEAVING: Final = 20
_LOOK_LEAVING: Final = 0.02
"""So often, so many seconds apart, is a queue looked at that still has a consumer: it may be leaving."""

_REFUSED: Final = 403

_log = get_logger(__name__)


class Alone(NamedTuple):
    """A channel that consumes a queue alone.

    Attributes:
        tag: the consumer's, where it is an exclusive one; "" where the queue has a single active consumer.
    """

    channel: Channel
    queue: str
    tag: str

    async def has_nothing_ready(self) -> bool:
        """Whether the queue has no messages but those that are on their way to us, or with us. Raises
        BrokerError.

        A quorum queue that has no leader for a moment says that it has none, too, but then it knows nothing
        of its consumer either (measured, RabbitMQ 3.10).
        """
        found = await self.channel.declare_queue(self.queue, passive=True)
        return not found.messages and found.consumers > 0

    async def close(self) -> None:
        """Close the channel when the broker has carried out all acks; the rest goes back, in order.

        A quorum queue carries out 32 of them at a time, and forgets those behind them when the channel is
        closed (measured, RabbitMQ 3.10). The end of the consumer is taken in behind them. Where there is a
        single active consumer the next one would be let in by that, so there a further one is taken in.
        """
        channel = self.channel
        try:
            if channel.error is None:
                await (channel.cancel(self.tag) if self.tag else channel.acks_done(self.queue))
        except BrokerError as error:
            _log.info("the last acks may be lost", queue=self.queue, reason=str(error))
        await closed(channel)


async def lock(connection: Connection, queue: str) -> None:
    """From now on nobody else gets the lock of a queue, until the connection is gone for the broker.

    Consuming it exclusively would not do: that keeps nobody out of a quorum queue (measured, RabbitMQ 3.10).
    Raises BrokerError, ChannelClosed (405) where somebody else has it.
    """
    channel = await connection.open_channel()
    await channel.declare_queue(alone_lock(queue), exclusive=True)
    await channel.close()


async def consume_alone(
    connection: Connection,
    number: int | None,
    queue: str,
    prefetch: int,
    on_deliveries: Callable[[bytes, list[Span]], None],
    on_cancel: Callable[[], None],
    *,
    doubt: float = 0.0,
) -> Alone:
    """Consume a queue as its only consumer. Raises BrokerError, ChannelClosed (403) where it has others.

    A queue with a single active consumer takes no exclusive one, but is as good where nobody else is there. A
    quorum queue takes one beside others, so that it is looked at before.

    `doubt`: seconds for which a queue with no messages and no consumers is not believed to have none. A
    quorum queue that has no leader says the same (measured, RabbitMQ 3.10): what is in the hands of one whose
    node has died is not back then, and would come behind what is newer.
    """
    exclusive = True
    looks = 0
    clock = asyncio.get_running_loop().time
    until = clock() + doubt
    while True:
        channel = await connection.open_channel(number)
        try:
            while True:
                found = await channel.declare_queue(queue, passive=True)
                if not found.consumers:
                    if found.messages or clock() >= until:
                        break
                    await asyncio.sleep(_LOOK_LEAVING)
                    continue
                looks += 1
                if looks > _LOOKS_LEAVING:
                    await channel.close()
                    raise ChannelClosed(_REFUSED, f"no exclusive use: queue {queue!r} has a consumer")
                await asyncio.sleep(_LOOK_LEAVING)
            await channel.qos(prefetch)
            tag = await channel.consume(queue, on_deliveries, exclusive=exclusive, on_cancel=on_cancel)
            return Alone(channel, queue, tag if exclusive else "")
        except ChannelClosed as error:
            if error.code != _REFUSED or not exclusive or looks > _LOOKS_LEAVING:
                raise
            exclusive = False
        except BaseException:
            # At once: what came already would be given back message by message, and change places.
            channel.shut()
            raise


async def closed(channel: Channel) -> None:
    """Close a channel in order, if that can be done in time."""
    try:
        await channel.close(CLOSE_TIMEOUT)
    except CallTimeout as error:
        _log.warning("a channel was not closed in time", reason=str(error))
