"""Looking at what may not be there."""

from typing import Final

from partymq.amqp.connection import Connection
from partymq.amqp.topology import QueueInfo
from partymq.errors import ChannelClosed

_NOT_FOUND: Final = 404


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
