"""What a pull group has in the broker: its settings, a queue for each partition, the exchanges before them.

Whoever comes first creates it: everything is declared, then the settings are written; so where there are
settings, there is all the rest. Who comes later reads the settings, and compares. Who writes holds a lock: a
queue that is exclusive to one connection and goes with it.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from pamqp.commands import Basic

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.content import Message
from partymq.amqp.queues import arguments_of, declare_missing
from partymq.coordinator.hash_ingress import PLUGINS, declare_ring, fill_ring, ring_type, turn_from
from partymq.coordinator.router_lock import leave
from partymq.errors import BrokerError, CallTimeout, ChannelClosed, ConfigError, ConnectionLost
from partymq.group.key import KeyFinder, make_finder
from partymq.group.layout import GroupLayout
from partymq.group.names import (
    dead_letter_queue,
    own_exchange,
    parked_queue,
    settings_lock,
    settings_queue,
    write_exchange,
)
from partymq.log import get_logger
from partymq.router.contents import leftover_finder

_NOT_FOUND: Final = 404
_LOCKED: Final = 405
_PRECONDITION_FAILED: Final = 406

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

_log = get_logger(__name__)


async def agree(
    connection: Connection, group: str, wish: Mapping[str, Any] | None = None, *, meant: bool = False
) -> GroupLayout:
    """The group's layout; the group is created where it is not there.

    Args:
        wish: settings (`partitions`, `queue_type`, `ingress`, `key`) that the group must have.
        meant: creating it is what is asked for; else it is a warning where nothing is wished.

    Raises ConfigError where it has others (both are named), where the broker has not what they need, or where
    something else of the same name is in the way; BrokerError.
    """
    wish = wish or {}
    wanted = GroupLayout.of(wish)
    found = None
    with suppress(CallTimeout):  # perhaps whoever began to create it is gone
        found = await read_layout(connection, group)
    if found is None:
        async with locked(connection, group):
            with suppress(CallTimeout):
                found = await read_layout(connection, group)
            if found is None:
                await declare(connection, group, wanted, new=True)
                await write_layout(connection, group, wanted)
                _say_created(group, wanted, meant=meant or bool(wish))
                return wanted
    found.check(group, wish)
    return found


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
                messages += await _all_of(channel, settings_queue(group))
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


async def write_layout(connection: Connection, group: str, layout: GroupLayout) -> None:
    """Writes the settings in the place of those that are there. Call it `locked`. Raises BrokerError.

    The older ones are in our hands meanwhile, so that nobody reads them when the new ones are there.
    """
    channel = await connection.open_channel()
    try:
        if layout.version > 1:
            older = await _taken(channel, group)
        else:
            older = await _all_of(channel, settings_queue(group))
        await channel.select_confirms()
        await channel.publish("", settings_queue(group), layout.encode(), _PERSISTENT, mandatory=True)
        for message in older:
            channel.ack(message.tag)
    finally:
        await channel.close()


async def declare(connection: Connection, group: str, layout: GroupLayout, *, new: bool = False) -> None:
    """Declares all that a layout needs, and binds it. Call it `locked`. What is there already stays.

    `new`: it is in nobody's settings yet.

    Raises ConfigError where the plugin for a hash exchange is missing, or a queue or an exchange of the same
    name has other attributes; BrokerError.
    """
    channel = await connection.open_channel()
    try:
        if layout.ingress == "hash-exchange":
            await declare_ring(channel, group, layout, new=new)
        await channel.declare_exchange(write_exchange(group), "direct", durable=True)
        await channel.declare_exchange(own_exchange(group), "direct", durable=True)
        arguments = arguments_of(layout.queue_type)
        exclusive = arguments | {"x-single-active-consumer": True}
        # The calls are sent at once and answered in order.
        async with asyncio.timeout(_LOCK_WITHIN), asyncio.TaskGroup() as calls:
            for partition in range(layout.partitions):
                calls.create_task(_declare_partition(channel, group, layout, partition, exclusive))
        if layout.ingress == "hash-exchange":
            await fill_ring(channel, group, layout, new=new)
        # Last: who finds it, finds the settings there, or somebody has them.
        await channel.declare_queue(settings_queue(group), durable=True, arguments=arguments, timeout=60)
    except ExceptionGroup as errors:
        raise _translated(errors.exceptions[0], group) from errors
    except (ChannelClosed, ConnectionLost) as error:
        raise _translated(error, group) from error
    except TimeoutError:
        raise CallTimeout(f"group {group}: its queues were not declared in {_LOCK_WITHIN:g} s") from None
    finally:
        await channel.close()
    for queue in (dead_letter_queue(group), parked_queue(group)):
        await declare_missing(connection, queue, arguments)
        await _bind_to_own(connection, group, queue)


async def declare_again(connection: Connection, group: str, layout: GroupLayout) -> None:
    """Declares what is missing of a layout, if it is still the group's: an older one would cost the order.

    Raises as `declare` and `read_layout` do.
    """
    async with locked(connection, group):
        if await read_layout(connection, group, to_change=True) == layout:
            await declare(connection, group, layout)


async def unbind(connection: Connection, group: str, layout: GroupLayout) -> None:
    """Takes the bindings of a layout away: what is published to it from now on comes back to its publisher,
    or goes to the next layout, where the broker hashes the keys. A router leaves it before.

    The queues stay. Call it `locked`, when the next layout is declared and written. Raises BrokerError.
    """
    if layout.ingress == "router":
        await leave(connection, group, layout.layout)
    channel = await connection.open_channel()
    try:
        for partition in range(layout.partitions):
            queue = layout.queue(group, partition)
            await channel.unbind_queue(queue, write_exchange(group), layout.routing_key(partition))
        if layout.ingress == "hash-exchange":
            await turn_from(channel, group, layout)
    finally:
        await channel.close()


async def resize(
    connection: Connection, group: str, partitions: int, prefetch: int | None = None
) -> GroupLayout:
    """Gives a group another number of partitions, or another prefetch (None: the same); what is in the
    present partitions is handled first.

    On return publishers have to use the new ones: theirs come back. The coordinator does the rest, and then
    the settings say nothing of the layout before any more (`previous`). Can be called again after a failure.

    Raises ConfigError where there is no such group, where it is being resized already to another number, and
    where the broker has not what that needs; BrokerError.
    """

    def wished(present: GroupLayout) -> int:
        return present.prefetch if prefetch is None else prefetch

    async with locked(connection, group):
        present = await read_layout(connection, group, to_change=True)
        if present is None:
            raise ConfigError(f"no pull group {group!r} on this broker")
        before = present.before()
        if before is not None:
            if (present.partitions, present.prefetch) != (partitions, wished(present)):
                raise ConfigError(
                    f"group {group} is being resized from {before.partitions} to {present.partitions}"
                    " partitions: wait until that is over (`partymq group describe` says how far it is)"
                )
            await unbind(connection, group, before)
            return present
        if (present.partitions, present.prefetch) == (partitions, wished(present)):
            return present
        new = present.resized(partitions, prefetch)
        await declare(connection, group, new, new=True)
        await write_layout(connection, group, new)
        await unbind(connection, group, present)
        _log.info("group resized", group=group, **new.describe())
        return new


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


def finder(layout: GroupLayout) -> KeyFinder:
    """Finds the keys of the messages in a group's partitions."""
    return leftover_finder(layout.key) if layout.ingress == "router" else make_finder(layout.key)


# Inside -----------------------------------------------------------------------------------------------

_PERSISTENT: Final = Basic.Properties(content_type="application/json", delivery_mode=2)


async def _all_of(channel: Channel, queue: str) -> list[Message]:
    messages = []
    while (message := await channel.get(queue)) is not None:
        messages.append(message)
    return messages


async def _taken(channel: Channel, group: str) -> list[Message]:
    """The settings, as soon as nobody else has them; the channel's end gives them back."""
    clock = asyncio.get_running_loop().time
    deadline, wait = clock() + _READ_WITHIN, _BETWEEN_LOOKS
    while not (messages := await _all_of(channel, settings_queue(group))):
        if clock() > deadline:
            raise CallTimeout(f"group {group}: its settings were not to be had for {_READ_WITHIN:g} s")
        await asyncio.sleep(wait * random.uniform(0.5, 1.5))
        wait = min(1.5 * wait, _LONGEST_BETWEEN)
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


def _say_created(group: str, layout: GroupLayout, *, meant: bool) -> None:
    """Who has asked for nothing in particular may have misspelt its name."""
    if meant:
        _log.info("group created", group=group, **layout.describe())
    else:
        _log.warning("group created as there was none of this name", group=group, **layout.describe())
    if layout.ingress == "hash-exchange" and ring_type(layout) == "x-consistent-hash":
        _log.warning(
            "keys in a header are hashed by an exchange whose queues may change places when the broker starts"
            " anew: their order is kept until then",
            group=group,
        )


async def _declare_partition(
    channel: Channel, group: str, layout: GroupLayout, partition: int, arguments: dict[str, Any]
) -> None:
    queue = layout.queue(group, partition)
    await channel.declare_queue(queue, durable=True, arguments=arguments, timeout=_LOCK_WITHIN)
    await channel.bind_queue(
        queue, write_exchange(group), layout.routing_key(partition), timeout=_LOCK_WITHIN
    )


async def _bind_to_own(connection: Connection, group: str, queue: str) -> None:
    channel = await connection.open_channel()
    try:
        await channel.bind_queue(queue, own_exchange(group), queue)
    finally:
        await channel.close()


def _translated(error: Exception, group: str) -> Exception:
    text = str(error)
    if "unknown exchange type" in text or "invalid exchange type" in text:
        plugin = next((plugin for kind, plugin in PLUGINS.items() if kind in text), "of that type")
        return ConfigError(
            f"group {group}: ingress = 'hash-exchange' with such a key needs the plugin {plugin}, which the"
            f" broker does not have: `rabbitmq-plugins enable {plugin}`, or another ingress (it says: {text})"
        )
    if isinstance(error, ChannelClosed) and error.code == _PRECONDITION_FAILED:
        return ConfigError(
            f"group {group}: something of the same name is in the way, with other attributes: {error.text};"
            " delete it, or use the queue type that it has"
        )
    if isinstance(error, BrokerError | TimeoutError):
        return error
    raise error
