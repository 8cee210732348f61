"""Durable queues: looking at one that may not be there, declaring one where there is none, and what is said
of one when it is declared."""

from typing import Any, Final

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.topology import Arguments, QueueInfo
from partymq.errors import ChannelClosed

_NOT_FOUND: Final = 404
_PRECONDITION_FAILED: Final = 406
AWAY: Final = 506
"""Code of a classic queue that is there, but whose node is away."""
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
