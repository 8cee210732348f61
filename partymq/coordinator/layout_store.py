"""The settings of a pull group in the broker: one message in a queue of its own, which everybody reads.

Who reads it has it for a moment, in which others wait. Who writes it holds a lock: a queue that is exclusive
to one connection and goes with it.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from pamqp.commands import Basic

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.content import Message
from partymq.errors import CallTimeout, ChannelClosed
from partymq.group.layout import GroupLayout
from partymq.group.names import former_queue, settings_lock, settings_queue

_NOT_FOUND: Final = 404
_LOCKED: Final = 405

_WRITE_ANEW: Final = 100_000
"""Reads after which the settings message is written anew, long before the delivery limit drops it."""

_BETWEEN_LOOKS: Final = 0.02
_LONGEST_BETWEEN: Final = 0.2
_READ_WITHIN: Final = 30.0
"""The settings are not there while somebody else reads them. So many seconds apart, more each time, are they
looked for; and for so long, as a process that hangs while it has them keeps them until the broker gives its
connection up."""
_ALL_WITHIN: Final = 1.0
"""Seconds in which whoever reads the settings gives them back, unless it hangs."""
_LOOKS: Final = 5
_BETWEEN_OLD: Final = 0.3
"""So often, and so many seconds apart, are the settings looked at while they are older than they were."""
_LOCK_WITHIN: Final = 120.0
"""Seconds to wait for whoever writes the settings: declaring thousands of quorum queues takes its time."""
_REMEMBERED: Final = 24 * 3600
"""Seconds for which the settings of a group are remembered that was deleted."""
_PERSISTENT: Final = Basic.Properties(content_type="application/json", delivery_mode=2)


async def read_layout(connection: Connection, group: str, *, to_change: bool = False) -> GroupLayout | None:
    """The group's layout, None where there is no such group.

    Args:
        to_change: the newest one for certain, which takes a second: who wrote it may have died before the
            one before was dropped, and others may have either in their hands. Call it `locked` then.

    Raises ConfigError; CallTimeout where the settings are not there for long although there is a place for
    them; BrokerError.
    """
    channel = await connection.open_channel()
    try:
        messages = await _taken(channel, group)
        if to_change:
            clock = asyncio.get_running_loop().time
            deadline = clock() + _ALL_WITHIN
            while clock() < deadline:
                await asyncio.sleep(_BETWEEN_LOOKS)
                messages += await _got(channel, settings_queue(group))
        return await _newest(connection, channel, group, messages)
    except ChannelClosed as error:
        if error.code != _NOT_FOUND:
            raise
    finally:
        await channel.close()
    return None


async def read_layout_since(
    connection: Connection, group: str, known: GroupLayout | None
) -> GroupLayout | None:
    """`read_layout` for who knew one already, and must not go back to an older one.

    The older one can still be seen where whoever wrote the newer one died over it, and somebody else has
    that in his hands. Seen for longer than that it is of a group that was made anew.
    """
    for look in range(_LOOKS):
        if look:
            await asyncio.sleep(_BETWEEN_OLD)
        found = await read_layout(connection, group)
        if found is None or known is None or found.version >= known.version:
            break
    return found


async def write_layout(connection: Connection, group: str, layout: GroupLayout, *, new: bool = False) -> None:
    """Writes the settings in the place of those that are there. Call it `locked`. Raises BrokerError.

    The older ones are in our hands meanwhile, so that nobody reads them when the new ones are there.

    `new`: the group is; there are none.
    """
    channel = await connection.open_channel()
    try:
        if layout.version > 1 and not new:
            older = await _taken(channel, group)
        else:
            older = await _all_of(channel, settings_queue(group))
        await channel.select_confirms()
        await channel.publish("", settings_queue(group), layout.encode(), _PERSISTENT, mandatory=True)
        for message in older:
            channel.ack(message.tag)
    finally:
        await channel.close()


async def remember_former(connection: Connection, group: str, layout: GroupLayout) -> None:
    """Of a group that is to be deleted: what `former_layout` is to answer. Call it `locked`. Raises
    BrokerError."""
    queue = former_queue(group)
    await forget_former(connection, group)
    channel = await connection.open_channel()
    try:
        # A classic one would be away with its node, and nobody could create the group again.
        arguments = {"x-queue-type": layout.queue_type, "x-expires": _REMEMBERED * 1000}
        await channel.declare_queue(queue, durable=True, arguments=arguments)
        await channel.select_confirms()
        await channel.publish("", queue, layout.encode(), _PERSISTENT, mandatory=True)
    finally:
        await channel.close()


async def former_layout(connection: Connection, group: str) -> GroupLayout | None:
    """The settings of a group of this name that was deleted in the last day, where it is known. Call it
    `locked`. Raises BrokerError."""
    channel = await connection.open_channel()
    try:
        found = await _got(channel, former_queue(group))
        return GroupLayout.decode(found[-1].body) if found else None
    except ChannelClosed as error:
        if error.code != _NOT_FOUND:
            raise
    finally:
        await channel.close()
    return None


async def forget_former(connection: Connection, group: str) -> None:
    """Call it `locked`. Idempotent. Raises BrokerError."""
    channel = await connection.open_channel()
    try:
        await channel.delete_queue(former_queue(group))
    finally:
        await channel.close()


@asynccontextmanager
async def locked(connection: Connection, group: str) -> AsyncIterator[None]:
    """Nobody else writes the group's settings or declares its queues meanwhile. Not twice on one connection.

    Raises CallTimeout where it is not to be had in time; BrokerError.
    """
    name = settings_lock(group)
    channel = await connection.open_channel()
    try:
        async with asyncio.timeout(_LOCK_WITHIN):
            while True:
                try:
                    await channel.declare_queue(name, exclusive=True)
                    break
                except ChannelClosed as error:
                    if error.code != _LOCKED:
                        raise
                await asyncio.sleep(random.uniform(0.02, 0.1))
                channel = await connection.open_channel()
    except TimeoutError:
        raise CallTimeout(
            f"group {group}: somebody else has been writing its settings for {_LOCK_WITHIN:g} s"
            f" (the connection that owns the queue {name})"
        ) from None
    try:
        yield
    finally:
        if connection.error is None:
            # Its own channel, which nobody else can have closed.
            await channel.delete_queue(name)
            await channel.close()


# Inside -----------------------------------------------------------------------------------------------


async def _all_of(channel: Channel, queue: str) -> list[Message]:
    """What is ready in a queue; nothing, too, where it can't be reached now.

    Asked for a message of a quorum queue that has no leader, RabbitMQ (3.10) closes the connection
    (measured); of such a one it says that it has no messages.
    """
    if not (await channel.declare_queue(queue, passive=True)).messages:
        return []
    return await _got(channel, queue)


async def _got(channel: Channel, queue: str) -> list[Message]:
    messages = []
    while (message := await channel.get(queue)) is not None:
        messages.append(message)
    return messages


async def _taken(channel: Channel, group: str) -> list[Message]:
    """The settings, as soon as nobody else has them; the channel's end gives them back."""
    clock = asyncio.get_running_loop().time
    deadline, wait = clock() + _READ_WITHIN, _BETWEEN_LOOKS
    queue = settings_queue(group)
    while not (messages := await _all_of(channel, queue)):
        if clock() > deadline:
            # Once without looking first: that nothing is there has to be certain.
            messages = await _got(channel, queue)
            break
        await asyncio.sleep(wait * random.uniform(0.5, 1.5))
        wait = min(1.5 * wait, _LONGEST_BETWEEN)
    if not messages:
        raise CallTimeout(f"group {group}: its settings were not to be had for {_READ_WITHIN:g} s")
    return messages


async def _newest(
    connection: Connection, channel: Channel, group: str, messages: list[Message]
) -> GroupLayout:
    """The settings that count; the others are dropped, and the one message goes back."""
    layouts = [(GroupLayout.decode(message.body), message) for message in messages]
    newest, kept = max(layouts, key=lambda one: (one[0].version, -one[1].tag))
    reads = (kept.properties.headers or {}).get("x-delivery-count")
    worn = isinstance(reads, int) and reads >= _WRITE_ANEW
    if worn:
        anew = await connection.open_channel()
        await anew.select_confirms()
        await anew.publish("", settings_queue(group), newest.encode(), _PERSISTENT, mandatory=True)
        await anew.close()
    for message in messages:
        if message is not kept or worn:
            channel.ack(message.tag)
    return newest  # Closing the channel gives the one that is kept back.
