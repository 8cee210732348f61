"""Publishing into the source queue of a group that a router fills: a plain client (aio-pika), one message at
a time, each until it is confirmed."""

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterable, Iterable
from types import TracebackType
from typing import Any, Self

import aio_pika

from partymq.group.layout import GroupLayout

_RETRY = 0.2
_CONFIRMED_WITHIN = 60.0
"""Seconds; longer than the broker is ever short of memory."""


class SourcePublisher:
    """Has the calls of a `Publisher`. What is not confirmed when the connection breaks is sent again."""

    def __init__(self, url: str, queue: str) -> None:
        login, _, rest = url.partition("@")
        nodes, _, vhost = rest.partition("/")
        self._urls = [f"{login}@{node}/{vhost}?heartbeat=2" for node in nodes.split(",")]
        self._queue = queue
        self._header = GroupLayout().key.name
        self._turn = asyncio.Lock()
        self._connection: Any = None
        self._exchange: Any = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def publish(self, body: str, key: str) -> None:
        """Returns when it is confirmed."""
        message = aio_pika.Message(
            body.encode(), headers={self._header: key}, delivery_mode=aio_pika.DeliveryMode.PERSISTENT
        )
        async with self._turn:  # taken in the order of the calls
            while True:
                try:
                    exchange = await self._connected()
                    await asyncio.wait_for(exchange.publish(message, self._queue), _CONFIRMED_WITHIN)
                except (Exception, asyncio.CancelledError) as failure:  # whatever it may be: again
                    task = asyncio.current_task()
                    if task is not None and task.cancelling():
                        raise
                    # Else the client cancels what waits on a connection that it gives up.
                    print(f"{time.monotonic():.3f} {failure!r}", file=sys.stderr, flush=True)
                    self._exchange = None
                    await asyncio.sleep(_RETRY)
                else:
                    return

    async def publish_many(
        self, messages: Iterable[tuple[str, str]] | AsyncIterable[tuple[str, str]]
    ) -> None:
        """Returns when all are confirmed."""
        if isinstance(messages, AsyncIterable):
            async for body, key in messages:
                await self.publish(body, key)
        else:
            for body, key in messages:
                await self.publish(body, key)

    async def _connected(self) -> Any:
        if self._exchange is None:
            if self._connection is not None:
                await asyncio.wait([asyncio.ensure_future(self._connection.close())], timeout=1.0)
            self._connection = await asyncio.wait_for(aio_pika.connect(random.choice(self._urls)), 10.0)
            channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
            self._exchange = channel.default_exchange
        return self._exchange
