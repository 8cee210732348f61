"""The messages that are measured with, ready to be written, and how they get into a queue fast."""

import asyncio
import json
import random
import uuid
from collections.abc import Callable, Iterator

from pamqp.commands import Basic

from bench.broker import Vhost
from bench.waiting import until
from partymq.amqp.connection import Connection
from partymq.amqp.content import encode_content, publish_frame

KEY_HEADER = "partitionKey"
BODY_KEY = "customer.id"
BODY_SIZE = 700
_CHANNEL = 1
_CHUNK = 200
_SEED = 20130101
_LOADED_WITHIN = 300.0


def keys(count: int) -> list[str]:
    """Distinct uuids, the same ones in every run."""
    chooser = random.Random(_SEED)
    return [str(uuid.UUID(int=chooser.getrandbits(128), version=4)) for _ in range(count)]


def message(queue: str, key: str, **more: object) -> bytes:
    """A message as bytes for channel 1, to `queue` through the default exchange.

    A JSON body of 700 bytes, persistent, the key in the body and as the first of three headers.
    """
    body = {
        "order": 0,
        "customer": {"id": key, "tier": "gold"},
        **more,
        "lines": [{"sku": "A-1", "count": 2, "price": 12.5}, {"sku": "B-7", "count": 1, "price": 99.0}],
        "note": "",
    }
    body["note"] = "x" * (BODY_SIZE - len(json.dumps(body)))
    properties = Basic.Properties(
        content_type="application/json",
        delivery_mode=2,
        headers={KEY_HEADER: key, "schema": 3, "shop": "bench"},
    )
    return publish_frame(_CHANNEL, "", queue) + encode_content(
        _CHANNEL, json.dumps(body).encode(), properties
    )


def small_message(queue: str, key: str) -> bytes:
    """A transient message of 40 bytes with the key as its header."""
    properties = Basic.Properties(delivery_mode=1, headers={KEY_HEADER: key})
    return publish_frame(_CHANNEL, "", queue) + encode_content(_CHANNEL, b"." * 40, properties)


class Stock:
    """Messages of `count` distinct keys, each to the queue that `queue_of` its key names, encoded once."""

    def __init__(self, queue_of: Callable[[str], str], count: int) -> None:
        self._messages = [message(queue_of(key), key) for key in keys(count)]

    def chunks(self, total: int) -> Iterator[bytes]:
        """`total` messages in writes of some hundred, key after key, over and over."""
        many = len(self._messages)
        for start in range(0, total, _CHUNK):
            yield b"".join(
                [self._messages[at % many] for at in range(start, min(start + _CHUNK, total))],
            )


class Writer:
    """Writes messages on a connection of its own, no faster than the broker takes them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._writable = asyncio.Event()
        connection.on_writable(self._writable.set)

    @classmethod
    async def open(cls, vhost: Vhost) -> "Writer":
        """Connects."""
        connection = await vhost.connect("bench publisher")
        await connection.open_channel(_CHANNEL)
        return cls(connection)

    async def write(self, messages: bytes) -> None:
        """Hand messages to the broker; returns when the next may be written."""
        self._writable.clear()
        self._connection.write(messages)
        if self._connection.error is not None:
            raise self._connection.error
        while self._connection.write_buffer_full:
            await self._writable.wait()
            self._writable.clear()
        await asyncio.sleep(0)


async def load(vhost: Vhost, queue: str, stock: Stock, total: int) -> None:
    """Put `total` messages into an empty queue; returns when they are all there."""
    writer = await Writer.open(vhost)
    for chunk in stock.chunks(total):
        await writer.write(chunk)

    async def loaded() -> bool:
        return await vhost.depth(queue) >= total

    await until(loaded, f"{total:,} messages in {queue}", _LOADED_WITHIN)
