"""Handlers in tests, without a broker: a message as a handler gets it, and one call of the handler."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from pamqp import frame
from pamqp.commands import Basic

from partymq.client.consumer import Consumer
from partymq.client.encoding import Encoder, Key, key_bytes
from partymq.client.handlers import make_handler
from partymq.client.message import Lost, Message, Origin, RawCopy
from partymq.errors import ConfigError
from partymq.group.key import KeyRule
from partymq.group.layout import GroupLayout
from partymq.group.names import DEFAULT_GROUP, write_exchange
from partymq.group.partitioner import partition_of

_CHANNEL: Final = 1
_LAYOUT: Final = GroupLayout()


def make_message(
    body: Any,
    key: Key | None = None,
    *,
    group: str = DEFAULT_GROUP,
    headers: Mapping[str, Any] | None = None,
    properties: Basic.Properties | None = None,
    partition: int | None = None,
    fencing_token: int = 1,
    attempt: int = 1,
    redelivered: bool = False,
) -> Message:
    """A message as a handler gets it, put together as `Publisher.publish` does.

    To have its partition lost, set its `lost`.

    Args:
        body: bytes as they are, a text in UTF-8, anything else as JSON.
        key: what it is ordered by.
        group: whose exchange it was published to.
        headers: its own.
        properties: its own.
        partition: None: that of the key among 64.
        fencing_token: see `Message`.
        attempt: see `Message`.
        redelivered: whether the broker has delivered it before.

    Raises:
        TypeError: it can't be encoded.
        ValueError: it can't be encoded.
    """
    raw_key = key_bytes(key)
    if partition is None:
        partition = partition_of(raw_key, _LAYOUT.partitions) if raw_key is not None else 0
    delivered = Basic.Deliver("test", 1, redelivered, write_exchange(group), _LAYOUT.routing_key(partition))
    method = frame.marshal(delivered, _CHANNEL)
    content = Encoder(_CHANNEL, 0, KeyRule()).encode(body, raw_key, headers, properties)
    origin = Origin(partition, fencing_token, Lost())
    return Message(RawCopy(method + content, len(method)), raw_key, origin, attempt)


async def deliver(consumer: Consumer, message: Message) -> None:
    """Has the consumer's handler handle a message once, as a running consumer would.

    The body is decoded if the handler asks for that; a plain function runs in a thread. Nothing is tried
    again, and there are no hooks.

    Args:
        consumer: need not run.
        message: made by `make_message`.

    Raises:
        Undecodable: the body is not what the handler asks for.
        ConfigError: the consumer has no handler.
        Exception: what the handler raises.
    """
    function = consumer.function
    if function is None:
        raise ConfigError(f"group {consumer.group}: the consumer has no handler: use @consumer.handler")
    with ThreadPoolExecutor(1) as threads:
        await make_handler(function, threads).call(message)
