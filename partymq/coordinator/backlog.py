"""How much waits in the partitions of a pull group: who coordinates it in a server asks the broker."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from partymq.amqp.connection import Connection
from partymq.coordinator.pull import PullTerm
from partymq.coordinator.statistics import GroupStatistics
from partymq.errors import BrokerError
from partymq.group.names import layout_and_number, partition_queue
from partymq.group.state import GroupState

_COUNT: Final = 5.0
"""Seconds between two counts of a small group."""
_MOST_COUNTS: Final = 100
"""Queues at most that are asked for in a second."""


async def watch_backlog(
    group: str,
    term: Callable[[], PullTerm | None],
    front: Callable[[], Awaitable[Connection]],
    statistics: GroupStatistics,
) -> None:
    """While this process coordinates, keep `statistics.ready` up to date. Until cancelled.

    Args:
        group: the group's name.
        term: the present one; None while another process coordinates.
        front: a connection, as soon as there is one.
        statistics: where the counts go.
    """
    while True:
        present, pause = term(), _COUNT / 10
        if present is not None:
            queues = _queues(group, present.coordinator.state)
            pause = max(_COUNT, len(queues) / _MOST_COUNTS)
            try:
                ready = await count_ready(await front(), queues)
            except BrokerError:
                ready = {}  # a queue has just been removed, or the connection is gone: the next count will do
            if term() is present:
                statistics.ready = ready
        await asyncio.sleep(pause)


async def count_ready(connection: Connection, queues: Mapping[int, str]) -> dict[int, int]:
    """The messages that are ready in these queues; what consumers have is not counted. Raises BrokerError."""
    channel = await connection.open_channel()
    try:
        found = await asyncio.gather(
            *(channel.declare_queue(name, passive=True) for name in queues.values()), return_exceptions=True
        )
    finally:
        await channel.close()
    ready = {}
    for number, queue in zip(queues, found, strict=True):
        if isinstance(queue, BaseException):
            raise queue
        ready[number] = queue.messages
    return ready


def _queues(group: str, state: GroupState) -> dict[int, str]:
    """The queues of the partitions that are in use, by the partitions' ids."""
    ids = [state.id_of(index) for index, one in enumerate(state.partitions) if not one.retired]
    return {identity: partition_queue(group, *layout_and_number(identity)) for identity in ids}
