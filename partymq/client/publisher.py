"""`Publisher`: the face of the library for whoever puts messages into a group.

It computes the partition of a message from its key, and publishes to the partition's queue with a confirm.
All that is put in one turn of the event loop goes out in one write.
"""

import asyncio
import time
from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, Unpack

from pamqp.commands import Basic

from partymq.amqp.connection import Connection, connect
from partymq.amqp.url import BrokerUrl
from partymq.client.encoding import Key, key_bytes
from partymq.client.options import GroupOptions
from partymq.client.outbox import Batch, Item, Outbox
from partymq.client.sending import Sender
from partymq.errors import CallTimeout, ConnectionLost
from partymq.group.allowed import check_group, check_number
from partymq.group.layout import GroupLayout, key_rule
from partymq.group.names import DEFAULT_GROUP

_COALESCE: Final = 0.001
_CHUNK: Final = 250
_CHUNK_BYTES: Final = 1024 * 1024
"""Messages, and bytes, that `publish_many` puts before it lets others run."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message for `publish_many`.

    Attributes:
        body: as in `Publisher.publish`, and so the others.
        key: what it is ordered by.
        headers: its own.
        properties: its own.
    """

    body: Any
    key: Key | None = None
    headers: Mapping[str, Any] | None = None
    properties: Basic.Properties | None = None


Unsent = Outgoing | tuple[Any, Key | None]
"""What `publish_many` takes: an `Outgoing`, or a tuple of a body and its key."""


class Publisher:
    """Publishes to a pull group, over lost connections and changes of the number of partitions.

    Messages are sent in the order of the calls, and those of one key are queued in that order. What was not
    confirmed when the connection was lost is sent again, in order: then the broker may have some of it twice.

        async with Publisher("amqp://localhost", group="orders") as publisher:
            await publisher.publish({"amount": 7}, key="customer-42")

    Args:
        url: of the broker.
        group: the group's name; it is created where it is not there.
        timeout: seconds within which a message has to be confirmed, lost connections included.
        max_in_flight: messages sent and not confirmed at most; the rest waits here.
        max_in_flight_bytes: the same in bytes.
        options: settings that the group must have, by name; see `GroupLayout`. `key` may be written
            `header:NAME` or `routing_key`.

    Raises:
        ConfigError: a setting is not possible.
    """

    def __init__(
        self,
        url: str | BrokerUrl,
        *,
        group: str = DEFAULT_GROUP,
        timeout: float = 30.0,
        max_in_flight: int = 4_000,
        max_in_flight_bytes: int = 32 * 1024 * 1024,
        **options: Unpack[GroupOptions],
    ) -> None:
        check_group(group)
        self.url = BrokerUrl.of(url)
        self.group = group
        wish: dict[str, Any] = {**options}
        if isinstance(wish.get("key"), str):
            wish["key"] = key_rule(wish["key"])
        GroupLayout.of(wish)
        check_number("timeout", timeout, 0.001, unit="s")
        check_number("max_in_flight", max_in_flight, 1, whole=True)
        check_number("max_in_flight_bytes", max_in_flight_bytes, 1, whole=True)
        self._timeout = timeout
        self._limit = max_in_flight
        self._limit_bytes = max_in_flight_bytes
        self._outbox = Outbox(max_in_flight, max_in_flight_bytes)
        self._sender = Sender(self._dial, group, wish, self._outbox)
        self._sweeper: asyncio.TimerHandle | None = None
        self._clock = time.monotonic
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<Publisher of group {self.group}: {len(self._outbox)} unconfirmed{self._sender.hindrance}>"

    # Life -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connects, and learns the group's layout. The first connection is not tried again.

        Raises:
            ConfigError: the group has other settings than wished.
            LoginRefused: the broker does not let us in.
            BrokerError: it can't be reached, or does not do what is asked.
            RuntimeError: it is open already.
        """
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        await self._sender.open()
        self._sweep()

    async def close(self) -> None:
        """Waits until everything is confirmed or has timed out, and closes the connection. Idempotent."""
        sender = self._sender
        if sender.over is None:
            sender.over = ConnectionLost("the publisher is closed")
            while not self._outbox.settled:
                sender.progress.clear()
                await sender.progress.wait()
        await self._end()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        finally:
            await self._end()

    # Publishing -----------------------------------------------------------------------------------

    async def publish(
        self,
        body: Any,
        key: Key | None = None,
        *,
        headers: Mapping[str, Any] | None = None,
        properties: Basic.Properties | None = None,
    ) -> None:
        """Publishes a message; returns when the broker has taken it over.

        Who is cancelled meanwhile does not know whether the broker has it.

        Args:
            body: bytes as they are, a text in UTF-8, anything else as JSON.
            key: what it is ordered by; left out, what stands in the group's key header already. Without one
                it goes to any partition, and is ordered by nothing.
            headers: its own.
            properties: its own; persistent, with the content type of the body, where they say nothing else.

        Raises:
            CallTimeout: not confirmed in time; the text says whether there is no connection, or publishers
                are blocked. It is not known whether the broker has it.
            ConnectionLost: the publisher was closed. It is not known whether the broker has it.
            Nacked: the broker has refused it several times, within some seconds.
            Unroutable: its queue is gone for good; the broker has not got it.
            ChannelClosed: the broker took offence at it, and has not got it.
            RuntimeError: it was opened in another event loop.
            TypeError: it can't be encoded.
            ValueError: it can't be encoded.
        """
        future: asyncio.Future[None] = self._here().create_future()
        self._put(body, key, headers, properties, future, None)
        await future

    async def publish_many(
        self,
        messages: Iterable[Unsent] | AsyncIterable[Unsent],
    ) -> int:
        """Publishes messages (`Outgoing`, or `(body, key)`) as fast as the broker takes them; their number.

        Takes only as many from the iterable as may be in flight. Returns when all are confirmed; raises the
        first error, as `publish` does, when all are settled. What raises in the iterable ends it: what is
        sent is sent then, the rest is not.

        Args:
            messages: an iterable, async or not.
        """
        self._here()
        batch = Batch()
        try:
            await self._put_all(messages, batch)
            batch.seal()
            await batch.done
        except BaseException:
            batch.done.cancel()
            raise
        if batch.error is not None:
            total = batch.failed + batch.confirmed
            batch.error.add_note(f"{batch.failed} of {total} messages were not confirmed")
            raise batch.error
        return batch.confirmed

    async def _put_all(self, messages: Iterable[Unsent] | AsyncIterable[Unsent], batch: Batch) -> None:
        if isinstance(messages, AsyncIterable):
            async for message in messages:
                self._put_of(message, batch)
                await self._wait_for_room()
        else:
            outbox = self._outbox
            upto = outbox.bytes + _CHUNK_BYTES
            for count, message in enumerate(messages, 1):
                self._put_of(message, batch)
                if not count % _CHUNK or outbox.bytes >= upto:
                    await asyncio.sleep(0)
                    await self._wait_for_room()
                    upto = outbox.bytes + _CHUNK_BYTES

    # State ----------------------------------------------------------------------------------------

    @property
    def layout(self) -> GroupLayout:
        """The group's layout, as last learnt.

        Raises:
            RuntimeError: it was never open.
        """
        if self._sender.layout is None:
            raise RuntimeError("the publisher was never open")
        return self._sender.layout

    def describe(self) -> dict[str, Any]:
        """What it is doing, for logs and for a health page."""
        layout = self._sender.layout
        return {
            "group": self.group,
            "connected": self._sender.connected,
            "blocked": self._sender.blocked,
            "partitions": layout.partitions if layout is not None else None,
            "confirmed": self._outbox.confirmed,
            "in_flight": len(self._outbox.flight),
            "waiting": len(self._outbox.waiting) + len(self._outbox.back),
        }

    # Sending --------------------------------------------------------------------------------------

    def _here(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if loop is not self._loop and self._loop is not None:
            raise RuntimeError(
                "the publisher was opened in another event loop: open one in each, or use SyncPublisher,"
                " which is for all threads"
            )
        return loop

    def _put_of(self, message: Unsent, batch: Batch) -> None:
        if isinstance(message, Outgoing):
            self._put(message.body, message.key, message.headers, message.properties, None, batch)
        elif isinstance(message, tuple) and len(message) == 2:
            self._put(message[0], message[1], None, None, None, batch)
        else:
            what = f"a {type(message).__name__}"
            size = f" of {len(message)}" if isinstance(message, tuple) else ""
            raise TypeError(f"{what}{size}: publish_many takes tuples (body, key), or Outgoing")

    def _put(
        self,
        body: Any,
        key: Key | None,
        headers: Mapping[str, Any] | None,
        properties: Basic.Properties | None,
        future: "asyncio.Future[None] | None",
        batch: Batch | None,
    ) -> None:
        sender = self._sender
        if sender.over is not None:
            raise sender.over
        if key is None and (headers is not None or properties is not None):
            key = sender.encoder.key_in(headers, properties)
        raw = key_bytes(key)
        if raw is not None and sender.routes is not None and len(raw) > sender.routes.longest_key:
            longest = sender.routes.longest_key
            raise ValueError(f"a key of {len(raw)} bytes: group {self.group} allows {longest}")
        content = sender.encoder.encode(body, raw, headers, properties)
        item = Item(content, raw, self._clock(), future, batch)
        self._outbox.put(item)
        sender.schedule()

    async def _wait_for_room(self) -> None:
        outbox = self._outbox
        while len(outbox) >= 2 * self._limit or (outbox.waiting and outbox.bytes >= 2 * self._limit_bytes):
            self._sender.progress.clear()
            await self._sender.progress.wait()

    # Connection, and time -------------------------------------------------------------------------

    async def _dial(self) -> Connection:
        return await connect(self.url, name=f"partymq publisher {self.group}", coalesce=_COALESCE)

    async def _end(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._sender.close()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(min(self._timeout / 5, 1.0), self._sweep)
        outbox = self._outbox
        if len(outbox):
            outbox.expire(loop.time() - self._timeout, self._late)
            # Also for those whose callers have gone.
            self._sender.progress.set()

    def _late(self) -> CallTimeout:
        why = self._sender.hindrance
        return CallTimeout(f"group {self.group}: a message was not confirmed within {self._timeout:g} s{why}")
