"""What is taken away of a pull group: a layout that has been left, or all of it."""

from collections.abc import Mapping
from typing import Final

from partymq.amqp.connection import Connection
from partymq.amqp.content import exchange_at, routing_key_at
from partymq.amqp.queues import look_at
from partymq.coordinator.layout_store import locked, remember_former, write_layout
from partymq.coordinator.moving import Move
from partymq.errors import ChannelClosed, ConfigError
from partymq.group.layout import GroupLayout
from partymq.group.names import (
    MOST_PARTITIONS,
    coordinator_queue,
    dead_letter_queue,
    hash_exchange,
    own_exchange,
    parked_queue,
    release_queue,
    ring_exchange,
    router_lock,
    second_hash_exchange,
    settings_queue,
    state_queue,
    write_exchange,
)
from partymq.log import get_logger
from partymq.router.contents import (
    EXCHANGE_HEADER,
    GROUP_HEADER,
    PARTITION_HEADER,
    REASON_HEADER,
    ROUTING_KEY_HEADER,
    to_keep,
)

_NOT_FOUND: Final = 404
_LOCKED: Final = 405
_REFUSED: Final = 403

_log = get_logger(__name__)


async def remove_before(connection: Connection, group: str, layout: GroupLayout) -> None:
    """Removes the queues of the layout before, all empty, and says so in the settings. Call it `locked`.

    What came there after all, from a publisher that the broker had held up, becomes a dead letter. Raises
    ConfigError where somebody else consumes one with such messages; BrokerError.
    """
    before = layout.before()
    if before is None:
        return
    channel = await connection.open_channel()
    try:
        for partition in range(before.partitions):
            queue = before.queue(group, partition)
            await _bury_late(connection, group, queue, partition)
            await channel.delete_queue(queue)
        await channel.delete_exchange(ring_exchange(group, before.layout))
    finally:
        await channel.close()
    await write_layout(connection, group, layout.settled())


async def delete(connection: Connection, group: str, layout: GroupLayout, *, if_unused: bool = True) -> int:
    """Deletes a group with all its messages; answers how many there were (of partitions, dead and parked).

    Raises ConfigError where `if_unused` and a partition has a consumer, a router fills the group, or somebody
    coordinates it; then the group is as it was; BrokerError.
    """
    async with locked(connection, group):
        channel = await connection.open_channel()
        partitions = [
            one.queue(group, partition)
            for one in (layout, layout.before())
            if one is not None
            for partition in range(one.partitions)
        ]
        count = 0
        try:
            if if_unused:
                if await _is_locked(connection, router_lock(group)):
                    raise ConfigError(f"group {group}: `partymq serve` fills it: stop that first")
                for queue in partitions:
                    if (await _consumers(connection, queue)) > 0:
                        raise ConfigError(
                            f"group {group}: {queue} has a consumer: stop the group's members first"
                        )
                if (await _consumers(connection, state_queue(group))) > 0:
                    raise ConfigError(f"group {group}: `partymq serve` coordinates it: stop that first")
            await remember_former(connection, group, layout)
            await channel.delete_queue(settings_queue(group))
            for queue in (*partitions, dead_letter_queue(group), parked_queue(group)):
                count += await channel.delete_queue(queue)
            for queue in (state_queue(group), coordinator_queue(group), release_queue(group)):
                await channel.delete_queue(queue)
            half = layout.resized(MOST_PARTITIONS)  # of a resize that came to its end before it was written
            for partition in range(half.partitions):
                if await look_at(connection, half.queue(group, partition)) is None:
                    break
                await channel.delete_queue(half.queue(group, partition))
            rings = [ring_exchange(group, layout.layout + step) for step in (-1, 0, 1)]
            entries = (hash_exchange(group), second_hash_exchange(group))
            for exchange in (write_exchange(group), *entries, *rings, own_exchange(group)):
                await channel.delete_exchange(exchange)
        finally:
            await channel.close()
    return count


# Inside -----------------------------------------------------------------------------------------------


async def _bury_late(connection: Connection, group: str, queue: str, partition: int) -> None:
    """Messages of a queue that is to be deleted become dead letters, with the reason."""
    found = await look_at(connection, queue)
    if found is None or not found.messages:
        return

    def explained(buf: bytes, method_at: int, content: bytes) -> tuple[bytes, Mapping[str, str]]:
        return to_keep(
            content,
            {
                REASON_HEADER: "came to a partition that had been left, in a resize",
                GROUP_HEADER: group,
                EXCHANGE_HEADER: exchange_at(buf, method_at).decode(errors="surrogateescape"),
                ROUTING_KEY_HEADER: routing_key_at(buf, method_at).decode(errors="surrogateescape"),
                PARTITION_HEADER: str(partition),
            },
        )

    move = Move(connection, queue, own_exchange(group), dead_letter_queue(group), explained)
    try:
        await move.run()
    except ChannelClosed as error:
        if error.code == _REFUSED:
            raise ConfigError(f"{queue} is to be deleted, but has a consumer: stop that first") from error
        raise
    _log.error("messages came too late to a partition; they are dead letters", queue=queue, count=move.moved)


async def _is_locked(connection: Connection, lock: str) -> bool:
    """Whether another connection holds a lock."""
    channel = await connection.open_channel()
    try:
        await channel.declare_queue(lock, passive=True)
    except ChannelClosed as error:
        if error.code not in (_NOT_FOUND, _LOCKED):
            raise
        return error.code == _LOCKED
    finally:
        await channel.close()
    return False


async def _consumers(connection: Connection, queue: str) -> int:
    found = await look_at(connection, queue)
    return found.consumers if found is not None else 0
