"""What has to stand in the broker before a group can route, and what is there already and is respected."""

from typing import Final

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.config.group import CommonSettings
from partymq.config.settings import GroupSettings
from partymq.errors import BrokerError, ChannelClosed
from partymq.group.names import dead_letter_queue, member_key, own_exchange
from partymq.log import get_logger

_NOT_FOUND: Final = 404
_LOCKED: Final = 405
"""Exclusive to another connection."""
_PRECONDITION_FAILED: Final = 406

_DELIVERY_LIMIT: Final = 1_000_000
"""Every end of a router session counts as a delivery of what was unacked. RabbitMQ 4 drops a message of a
quorum queue after 20 by default; and with a limit, what is given back keeps its place."""

_log = get_logger(__name__)


async def declare_write_exchange(connection: Connection, settings: GroupSettings) -> None:
    """Declare what clients bind their queues to, before the first of them is told its name.

    Raises BrokerError.
    """
    channel = await connection.open_channel()
    channel = await _declare_exchange(connection, channel, settings.exchange)
    await channel.close()


async def prepare(connection: Connection, settings: GroupSettings) -> None:
    """Declare the write exchange, the dead-letter queue and, where the settings say so, the source.

    What stands already with other attributes is used as it is, with a warning. A source queue that PartyMQ is
    not to declare is not touched. Raises ChannelClosed  and other
    BrokerErrors.
    """
    channel = await connection.open_channel()
    try:
        channel = await _declare_exchange(connection, channel, settings.exchange)
        own, dead_letters = own_exchange(settings.name), dead_letter_queue(settings.name)
        channel = await _declare_exchange(connection, channel, own)
        channel = await _declare_queue(connection, channel, dead_letters, "classic")
        await channel.bind_queue(dead_letters, own, dead_letters)
    finally:
        await channel.close()
    await prepare_source(connection, settings)


async def prepare_source(connection: Connection, settings: CommonSettings) -> None:
    """Declare and bind the source where the settings say so; see `prepare`. Raises BrokerError."""
    if not settings.declares_source:
        return
    channel = await connection.open_channel()
    try:
        channel = await _declare_queue(connection, channel, settings.source_queue, settings.source_queue_type)
        if settings.source_exchange is not None:
            await _bind_source(channel, settings, settings.source_exchange)
    finally:
        await channel.close()


async def _bind_source(channel: Channel, settings: CommonSettings, exchange: str) -> None:
    try:
        for key in settings.source_binding_keys:
            await channel.bind_queue(settings.source_queue, exchange, key)
    except ChannelClosed as error:
        if error.code != _NOT_FOUND:
            raise
        raise BrokerError(
            f"the source can't be bound: there is no exchange {exchange!r} (`source_exchange`); declare it,"
            " or name another"
        ) from error


async def unbind_member(connection: Connection, exchange: str, hostname: str, queue: str) -> None:
    """Remove the binding of a member's key to a queue; nothing where it is not there. Raises BrokerError."""
    channel = await connection.open_channel()
    try:
        await channel.unbind_queue(queue, exchange, member_key(hostname))
    except ChannelClosed as error:
        if error.code not in (_NOT_FOUND, _LOCKED):
            raise
    else:
        await channel.close()


async def _declare_exchange(connection: Connection, channel: Channel, name: str) -> Channel:
    try:
        await channel.declare_exchange(name, "direct", durable=True)
        return channel
    except ChannelClosed as error:
        if error.code != _PRECONDITION_FAILED:
            raise
        if "'type'" in error.text and "'topic'" not in error.text:
            raise BrokerError(
                f"the exchange {name!r} is no direct one, and would bring every message to every member:"
                f" delete it, or name another in `exchange` ({error.text})"
            ) from error
        _log.warning("the exchange stands with other attributes; it is used as it is", reason=error.text)
        return await connection.open_channel()


async def _declare_queue(connection: Connection, channel: Channel, name: str, kind: str) -> Channel:
    """Declare a durable queue unless there is one of that name."""
    try:
        await channel.declare_queue(name, passive=True)
        return channel
    except ChannelClosed as error:
        if error.code != _NOT_FOUND:
            raise
    channel = await connection.open_channel()
    arguments: dict[str, str | int] = {"x-queue-type": kind}
    if kind == "quorum":
        arguments["x-delivery-limit"] = _DELIVERY_LIMIT
    await channel.declare_queue(name, durable=True, arguments=arguments)
    return channel
