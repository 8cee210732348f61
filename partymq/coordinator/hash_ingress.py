"""Where publishers know nothing of partitions: the broker hashes the keys.

Publishers use one exchange, the entry, which stays for ever. Each layout has a *ring* behind it, an exchange
that spreads keys over the layout's queues; it has all its bindings before it gets a message, and keeps them.

    entry ─────────────► ring of an odd layout
      └ else ─► second ─► ring of an even layout

The second exchange is the entry's alternate: it gets what the entry has no binding for. To go from an odd
layout to an even one, its ring is bound to the second exchange, where nothing comes as yet, and then the odd
one's binding to the entry is taken away. To go from an even one to an odd one, its ring is bound to the
entry. Either way it is one binding that comes or goes, so every message goes one way, and none both.
"""

import asyncio
from collections.abc import Collection
from secrets import token_hex
from typing import Final

from pamqp.commands import Basic

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.errors import ChannelClosed, ConfigError
from partymq.group.layout import GroupLayout
from partymq.group.names import (
    hash_exchange,
    probe_exchange,
    probe_queue,
    ring_exchange,
    second_hash_exchange,
)

PLUGINS: Final = {
    "x-modulus-hash": "rabbitmq_sharding",
    "x-consistent-hash": "rabbitmq_consistent_hash_exchange",
}
"""The plugin that an exchange type needs."""

_WEIGHT: Final = "1"
_WITHIN: Final = 120.0
_PRECONDITION_FAILED: Final = 406


def ring_type(layout: GroupLayout) -> str:
    """The type of exchange that hashes the group's keys.

    `x-modulus-hash` takes a key to the same queue for ever, but knows only routing keys. Headers are left to
    `x-consistent-hash`, in which the queues may change places when the broker starts anew.
    """
    return "x-modulus-hash" if layout.key.source == "routing_key" else "x-consistent-hash"


async def declare_ring(channel: Channel, group: str, layout: GroupLayout, *, new: bool) -> None:
    """Declares the exchanges of a layout; the ring of one that nobody uses yet is empty then.

    Raises ConfigError where the group was made by an earlier version; ChannelClosed, also where the plugin is
    missing; BrokerError.
    """
    entry, second = hash_exchange(group), second_hash_exchange(group)
    try:
        await channel.declare_exchange(
            entry, "fanout", durable=True, arguments={"alternate-exchange": second}
        )
    except ChannelClosed as error:
        if error.code != _PRECONDITION_FAILED:
            raise
        raise ConfigError(
            f"group {group}: {entry} is not what PartyMQ declares; an earlier version bound the partitions to"
            " it directly, so they can't be replaced: make another group, and move to it"
            f" (it says: {error.text})"
        ) from error
    await channel.declare_exchange(second, "fanout", durable=True, internal=True)
    ring = ring_exchange(group, layout.layout)
    if new:
        await channel.delete_exchange(ring)  # with other queues, of somebody who came to his end half way
    arguments = {"hash-header": layout.key.name} if layout.key.source == "header" else {}
    await channel.declare_exchange(ring, ring_type(layout), durable=True, internal=True, arguments=arguments)


async def fill_ring(channel: Channel, group: str, layout: GroupLayout, *, new: bool) -> None:
    """Binds a layout's queues, which are declared, to its ring, and that to what is in front of it; but a new
    one, unless it is the first, gets nothing before `turn_from`. Raises BrokerError."""
    await _bind_all(
        channel,
        ring_exchange(group, layout.layout),
        [layout.queue(group, partition) for partition in range(layout.partitions)],
    )
    if layout.layout % 2 == 0:
        await channel.bind_exchange(ring_exchange(group, layout.layout), second_hash_exchange(group))
    elif not new or layout.layout == layout.first:
        await channel.bind_exchange(ring_exchange(group, layout.layout), hash_exchange(group))


async def turn_from(channel: Channel, group: str, before: GroupLayout) -> None:
    """What is published from now on goes to the layout behind this one, not to this one. Again and again it
    is the same; but call it only while the one behind is the present one. Raises BrokerError."""
    if before.layout % 2:
        await channel.unbind_exchange(ring_exchange(group, before.layout), hash_exchange(group))
    else:
        await channel.bind_exchange(ring_exchange(group, before.layout + 1), hash_exchange(group))


class Placing:
    """Knows to which partitions the broker takes keys: each is tried once, on this connection."""

    def __init__(self, connection: Connection, group: str) -> None:
        self._connection = connection
        self._group = group
        self._known: dict[int, dict[bytes, int]] = {}

    async def places(self, layout: GroupLayout, keys: Collection[bytes]) -> dict[bytes, int]:
        """Those of a layout. Raises BrokerError."""
        known = self._known.get(layout.layout, {})
        new = [key for key in keys if key not in known]
        known |= await places(self._connection, self._group, layout, new)
        self._known[layout.layout] = known
        return known


async def places(
    connection: Connection, group: str, layout: GroupLayout, keys: Collection[bytes]
) -> dict[bytes, int]:
    """The partitions to which the broker takes keys, by trying it with queues of our own.

    Raises BrokerError.
    """
    if not keys:
        return {}
    token = token_hex(8)
    ring = probe_exchange(group, token)
    queues = [probe_queue(group, token, partition) for partition in range(layout.partitions)]
    header = layout.key.name if layout.key.source == "header" else None
    found: dict[bytes, int] = {}
    channel = await connection.open_channel()
    try:
        await channel.declare_exchange(
            ring, ring_type(layout), auto_delete=True, arguments={"hash-header": header} if header else {}
        )
        async with asyncio.timeout(_WITHIN), asyncio.TaskGroup() as calls:
            for queue in queues:
                calls.create_task(channel.declare_queue(queue, exclusive=True, timeout=_WITHIN))
        await _bind_all(channel, ring, queues)
        await channel.select_confirms()
        for key in keys:
            text = key.decode(errors="surrogateescape")
            properties = Basic.Properties(headers={header: text} if header else None)
            await channel.publish(ring, "" if header else text, key, properties, mandatory=True)
        for partition, queue in enumerate(queues):
            while (message := await channel.get(queue)) is not None:
                found[message.body] = partition
                channel.ack(message.tag)
            await channel.delete_queue(queue)
    finally:
        await channel.close()
    return found


async def _bind_all(channel: Channel, ring: str, queues: list[str]) -> None:
    """In the order of their names, which is the one in which the broker finds them when it starts anew."""
    async with asyncio.timeout(_WITHIN), asyncio.TaskGroup() as calls:
        for queue in sorted(queues):
            calls.create_task(channel.bind_queue(queue, ring, _WEIGHT, timeout=_WITHIN))
