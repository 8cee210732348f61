"""What has to stand in the broker before a group can route, and what is there already and is respected."""

from typing import Final

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.queues import AWAY, arguments_of, declare_missing
from partymq.config.group import CommonSettings
from partymq.config.settings import GroupSettings
from partymq.errors import BrokerError, ChannelClosed
from partymq.group.names import dead_letter_queue, member_key, own_exchange
from partymq.log import get_logger

_NOT_FOUND: Final = 404
_LOCKED: Final = 405
"""Exclusive to another connection."""
_PRECONDITION_FAILED: Final = 406

_log = get_logger(__name__)


async def declare_write_exchange(connection: Connection, settings: GroupSettings) -> None:
    """Declare what clients bind their queues to, before the first of them is told its name.

    Raises BrokerError.
    """
    await _declare_exchange(connection, settings.exchange)


async def prepare(connection: Connection, settings: GroupSettings) -> None:
    """Declare the write exchange, the dead-letter queue and, where the settings say so, the source.

    What stands already with other attributes is used as it is, with a warning. A source queue that PartyMQ is
    not to declare is not touched. Raises BrokerError.
    """
    own, dead_letters = own_exchange(settings.name), dead_letter_queue(settings.name)
    await _declare_exchange(connection, settings.exchange)
    await _declare_exchange(connection, own)
    await declare_missing(connection, dead_letters, arguments_of(settings.state_queue_type))
    channel = await connection.open_channel()
    try:
        await channel.bind_queue(dead_letters, own, dead_letters)
    except ChannelClosed as error:
        if error.code != AWAY:
            raise
        _log.warning("until its node is back nothing can be rejected", queue=dead_letters, reason=error.text)
    finally:
        await channel.close()
    await prepare_source(connection, settings)


async def prepare_source(connection: Connection, settings: CommonSettings) -> None:
    """Declare and bind the source where the settings say so; see `prepare`. Raises BrokerError."""
    if not settings.declares_source:
        return
    arguments = arguments_of(settings.source_queue_type)
    if settings.source_queue_type == "quorum":
        # Else a router whose node has died stays its consumer until that node is back.
        arguments |= {"x-single-active-consumer": True}
    await declare_missing(connection, settings.source_queue, arguments)
    if settings.source_exchange is None:
        return
    channel = await connection.open_channel()
    try:
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


async def _declare_exchange(connection: Connection, name: str) -> None:
    channel = await connection.open_channel()
    try:
        await channel.declare_exchange(name, "direct", durable=True)
    except ChannelClosed as error:
        if error.code != _PRECONDITION_FAILED:
            raise
        if "'type'" in error.text and "'topic'" not in error.text:
            raise BrokerError(
                f"the exchange {name!r} is no direct one, and would bring every message to every member:"
                f" delete it, or name another in `exchange` ({error.text})"
            ) from error
        _log.warning("the exchange stands with other attributes; it is used as it is", reason=error.text)
    finally:
        await channel.close()
