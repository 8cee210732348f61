"""Durable queues: looking at one that may not be there, declaring one where there is none, and what is said
of one when it is declared."""

import asyncio
from typing import Any, Final

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.topology import Arguments, QueueInfo
from partymq.errors import CallTimeout, ChannelClosed

_NOT_FOUND: Final = 404
_PRECONDITION_FAILED: Final = 406
AWAY: Final = 506
"""Code of a classic queue that is there, but whose node is away."""
_ALL: Final = 65_535
"""AMQP's largest prefetch."""
_LOOKS: Final = 200
_BETWEEN_LOOKS: Final = 0.01
_REACHED_WITHIN: Final = 10.0
"""Looks at a queue, seconds between two, and for it to have a leader."""
_DELIVERY_LIMIT: Final = 1_000_000
"""RabbitMQ 4 drops a message of a quorum queue after 20 deliveries by default, and every end of a consumer
counts as a delivery of what was unacked; and with a limit, what is given back keeps its place."""


def arguments_of(queue_type: str) -> dict[str, Any]:
    """What to declare a queue of this type with, so that it loses nothing."""
    arguments: dict[str, Any] = {"x-queue-type": queue_type}
    if queue_type == "quorum":
        arguments["x-delivery-limit"] = _DELIVERY_LIMIT
    return arguments


async def look_at(connection: Connection, queue: str) -> QueueInfo | None:
    """What the broker says of a queue; None where there is none of that name.

    On a channel of its own, as the broker closes that of who asks for a queue that is not there. Raises
    BrokerError.
    """
    channel = await connection.open_channel()
    try:
        return await channel.declare_queue(queue, passive=True)
    except ChannelClosed as error:
        if error.code != _NOT_FOUND:
            raise
        return None
    finally:
        await channel.close()


async def has_messages(connection: Connection, queue: str, prefetch: int = 1) -> bool:
    """Whether there are messages in a queue that nobody consumes, as its leader says. Raises BrokerError.

    A quorum queue answers with no messages and no consumers, too, while it has no leader or has not read its
    log to the end. It takes a consumer only when it has, and its leader says from then on that there is one.
    `basic.get` would be answered only then, too, but where there is no leader it closes the connection
    (measured, RabbitMQ 3.10).

    `prefetch`: as many messages are taken, and given back: fewer than were given back before come behind the
    rest of these.
    """
    scout = await connection.open_channel()
    came = asyncio.Event()
    try:
        async with asyncio.timeout(_REACHED_WITHIN):
            await scout.qos(prefetch)
            await scout.consume(queue, lambda _buf, _spans: came.set())
            while True:
                found = await scout.declare_queue(queue, passive=True)
                if found.consumers:
                    return found.messages > 0 or came.is_set()
                await asyncio.sleep(_BETWEEN_LOOKS)
    except TimeoutError:
        raise CallTimeout(f"{queue} was out of reach for {_REACHED_WITHIN:g} s") from None
    finally:
        await scout.close()


async def count_for_certain(connection: Connection, queue: str) -> int:
    """The messages in a queue that nobody consumes: none only where its leader says so, or where there is no
    such queue. Who consumes it has two seconds to go; what he has is not counted then. Raises BrokerError."""
    some, found = True, None
    for _ in range(_LOOKS):
        found = await look_at(connection, queue)
        if found is None:
            return 0
        if found.consumers:
            await asyncio.sleep(_BETWEEN_LOOKS)
        elif found.messages or not some:
            return found.messages
        else:
            some = await has_messages(connection, queue, _ALL)
    return found.messages if found is not None else 0


async def declare_missing(connection: Connection, queue: str, arguments: Arguments | None = None) -> None:
    """Declares a durable queue, unless there is one of that name, whatever it is like, and wherever: its node
    may be away. Raises BrokerError."""
    try:
        if await look_at(connection, queue) is not None:
            return
    except ChannelClosed as error:
        if error.code != AWAY:
            raise
        return
    channel = await connection.open_channel()
    try:
        await channel.declare_queue(queue, durable=True, arguments=arguments)
    finally:
        await channel.close()


async def declare_or_take(
    connection: Connection, channel: Channel, queue: str, arguments: Arguments
) -> tuple[Channel, str | None]:
    """Declares a durable queue; one that stands with other arguments is taken as it is.

    The channel to go on with: the broker closes the one on which it refuses. And what it says of the other
    arguments, None where the queue is as it was asked for. Raises BrokerError.
    """
    try:
        await channel.declare_queue(queue, durable=True, arguments=arguments)
    except ChannelClosed as error:
        if error.code != _PRECONDITION_FAILED:
            raise
        return await connection.open_channel(), error.text
    return channel, None
