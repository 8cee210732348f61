"""What a pull group has in the broker: a queue for each partition, the exchanges before them, its settings.

Whoever comes first creates it: everything is declared, then the settings are written (`layout_store`); so
where there are settings, there is all the rest. Who comes later reads the settings, and compares.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.queues import arguments_of, declare_missing
from partymq.coordinator.hash_ingress import PLUGINS, declare_ring, fill_ring, ring_type, turn_from
from partymq.coordinator.layout_store import (
    forget_former,
    former_layout,
    locked,
    read_layout,
    write_layout,
)
from partymq.coordinator.router_lock import leave
from partymq.errors import BrokerError, CallTimeout, ChannelClosed, ConfigError, ConnectionLost
from partymq.group.key import KeyFinder, make_finder
from partymq.group.layout import GroupLayout
from partymq.group.names import (
    dead_letter_queue,
    own_exchange,
    parked_queue,
    settings_queue,
    write_exchange,
)
from partymq.log import get_logger
from partymq.router.contents import leftover_finder

_PRECONDITION_FAILED: Final = 406

_DECLARED_WITHIN: Final = 120.0
"""Seconds: thousands of quorum queues take their time."""

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
                wanted = wanted.after(await former_layout(connection, group))
                await declare(connection, group, wanted, new=True)
                await write_layout(connection, group, wanted, new=True)
                await forget_former(connection, group)
                _say_created(group, wanted, meant=meant or bool(wish))
                return wanted
    found.check(group, wish)
    return found


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
        async with asyncio.timeout(_DECLARED_WITHIN), asyncio.TaskGroup() as calls:
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
        raise CallTimeout(f"group {group}: its queues were not declared in {_DECLARED_WITHIN:g} s") from None
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


def finder(layout: GroupLayout) -> KeyFinder:
    """Finds the keys of the messages in a group's partitions."""
    return leftover_finder(layout.key) if layout.ingress == "router" else make_finder(layout.key)


# Inside -----------------------------------------------------------------------------------------------


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
    await channel.declare_queue(queue, durable=True, arguments=arguments, timeout=_DECLARED_WITHIN)
    await channel.bind_queue(
        queue, write_exchange(group), layout.routing_key(partition), timeout=_DECLARED_WITHIN
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
