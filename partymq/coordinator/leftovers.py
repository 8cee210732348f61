"""Takes what a member left in its queue to a queue of our own, in order.

There it is safe from the member, which may come back at any moment and consume its queue again. Nothing is
changed in a message, except that one which the member may have handled already is marked.
"""

from collections.abc import Mapping
from typing import Final

from partymq.amqp.connection import Connection
from partymq.coordinator.depths import QueueDepths
from partymq.coordinator.moving import Move
from partymq.coordinator.proofs import Proofs
from partymq.errors import ChannelClosed
from partymq.group.names import leftover_queue, own_exchange
from partymq.router.contents import mark_of

_REFUSED: Final = frozenset({403, 404, 405})
"""Somebody else consumes the queue, or it is gone: the counts will say which."""


async def move_leftover(
    connection: Connection, proofs: Proofs, depths: QueueDepths, *, group: str, number: int, queue: str
) -> None:
    """Empty a member's queue into our own for this leftover; returns when nothing is left in it.

    Waits while somebody else consumes the queue. Cancelled, or ended by BrokerError, it can be begun again:
    what was not confirmed goes back to its place.
    """
    target = leftover_queue(group, number)
    channel = await connection.open_channel()
    await channel.declare_queue(target, durable=True)
    await channel.bind_queue(target, own_exchange(group), target)
    await channel.close()
    while await proofs.untouched(queue):
        try:
            with depths.consuming(queue):
                await Move(connection, queue, own_exchange(group), target, _marked).run()
        except ChannelClosed as error:
            if error.code not in _REFUSED:
                raise


async def discard_leftover(connection: Connection, *, group: str, number: int) -> None:
    """Delete our own queue of a leftover, which is empty. Raises BrokerError."""
    channel = await connection.open_channel()
    await channel.delete_queue(leftover_queue(group, number), if_empty=True)
    await channel.close()


def _marked(buf: bytes, method_at: int, content: bytes) -> tuple[bytes, Mapping[str, str]]:
    return content, mark_of(buf, method_at)
