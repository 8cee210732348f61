"""`Publisher`: the face of the library for whoever puts messages into a group.

It computes the partition of a message from its key, and publishes to the partition's queue with a confirm.
All that is put in one turn of the event loop goes out in one write.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from pamqp.commands import Basic

from partymq.amqp.channel import Channel
from partymq.amqp.codec import Confirm
from partymq.amqp.connection import Connection, connect
from partymq.amqp.content import Returned
from partymq.amqp.url import BrokerUrl
from partymq.client.encoding import Encoder, Key, key_bytes
from partymq.client.outbox import Batch, Item, Outbox
from partymq.client.routes import Routes
from partymq.coordinator.pull_topology import agree, declare, locked, read_layout
from partymq.errors import (
    BrokerError,
    CallTimeout,
    ChannelClosed,
    ConfigError,
    ConnectionLost,
    PartyMQError,
    Unroutable,
)
from partymq.group.key import KeyRule
from partymq.group.layout import WISHES, GroupLayout, key_rule
from partymq.group.names import DEFAULT_GROUP, write_exchange
from partymq.log import get_logger

_CHANNEL: Final = 1
"""Always the same number, so that messages need not be put together anew for another connection."""
_COALESCE: Final = 0.001
_CHUNK: Final = 250
_CHUNK_BYTES: Final = 1024 * 1024
"""Messages, and bytes, that `publish_many` puts before it lets others run."""
_FIRST_RETRY: Final = 0.1
_LAST_RETRY: Final = 2.0
"""Seconds until it connects again; doubled each time, half of it by chance."""
_SAME_LAYOUT: Final = 3
"""Times that messages come back before they are given up although the group's layout has not changed."""
_NOT_FOUND: Final = 404

_log = get_logger(__name__)


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


Message = Outgoing | tuple[Any, Key | None]


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
        wish: settings that the group must have, by name; see `GroupLayout`. `key` may be written
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
        **wish: Any,
    ) -> None:
        self.url = BrokerUrl.parse(url) if isinstance(url, str) else url
        self.group = group
        if isinstance(wish.get("key"), str):
            wish["key"] = key_rule(wish["key"])
        GroupLayout.of(wish)
        for name, value in (("timeout", timeout), ("max_in_flight", max_in_flight)):
            if value <= 0:
                raise ConfigError(f"{name} = {value!r}: allowed is more than 0")
        self._wish = wish
        self._timeout = timeout
        self._limit = max_in_flight
        self._limit_bytes = max_in_flight_bytes
        self._outbox = Outbox(max_in_flight, max_in_flight_bytes)
        self._encoder = Encoder(_CHANNEL, 0, KeyRule())
        self._routes: Routes | None = None
        self._layout: GroupLayout | None = None
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._running: asyncio.Task[None] | None = None
        self._learning: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._scheduled = self._stale = False
        self._room = asyncio.Event()
        self._same_layout = 0
        self._delay = _FIRST_RETRY
        self._clock = time.monotonic
        self._over: PartyMQError | None = ConnectionLost("the publisher is not open: use `async with`")
        self._trouble = ""

    def __repr__(self) -> str:
        return f"<Publisher of group {self.group}: {len(self._outbox)} unconfirmed{self._state()}>"

    # Life -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connects, and learns the group's layout. The first connection is not tried again.

        Raises:
            ConfigError: the group has other settings than wished.
            LoginRefused: the broker does not let us in.
            BrokerError: it can't be reached, or does not do what is asked.
        """
        self._clock = asyncio.get_running_loop().time
        channel = await self._connect()
        self._over = None
        self._running = asyncio.create_task(self._run(channel))
        self._running.add_done_callback(self._ran)
        self._sweep()

    async def close(self) -> None:
        """Waits until everything is confirmed or has timed out, and closes the connection. Idempotent."""
        if self._over is None:
            self._over = ConnectionLost("the publisher is closed")
            while not self._outbox.settled:
                self._room.clear()
                await self._room.wait()
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
            key: what it is ordered by. Without one it goes to any partition, and is ordered by nothing.
            headers: its own.
            properties: its own; persistent, with the content type of the body, where they say nothing else.

        Raises:
            CallTimeout: not confirmed in time; the text says whether there is no connection, or publishers
                are blocked. It is not known whether the broker has it.
            ConnectionLost: the publisher was closed. It is not known whether the broker has it.
            Nacked: the broker has refused it.
            Unroutable: its queue is gone for good; the broker has not got it.
            ChannelClosed: the broker took offence at it, and has not got it.
            TypeError: it can't be encoded.
            ValueError: it can't be encoded.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(body, key, headers, properties, future, None)
        await future

    async def publish_many(
        self,
        messages: Iterable[Message] | AsyncIterable[Message],
    ) -> int:
        """Publishes messages (`Outgoing`, or `(body, key)`) as fast as the broker takes them; their number.

        Takes only as many from the iterable as may be in flight. Returns when all are confirmed; raises the
        first error, as `publish` does, when all are settled. What raises in the iterable ends it: what is
        sent is sent then, the rest is not.

        Args:
            messages: an iterable, async or not.
        """
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

    async def _put_all(self, messages: Iterable[Message] | AsyncIterable[Message], batch: Batch) -> None:
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
        if self._layout is None:
            raise RuntimeError("the publisher was never open")
        return self._layout

    def describe(self) -> dict[str, Any]:
        """What it is doing, for logs and for a health page."""
        return {
            "group": self.group,
            "connected": self._channel is not None,
            "blocked": self._connection.blocked if self._connection is not None else None,
            "partitions": self._layout.partitions if self._layout is not None else None,
            "confirmed": self._outbox.confirmed,
            "in_flight": len(self._outbox.flight),
            "waiting": len(self._outbox.waiting) + len(self._outbox.back),
        }

    # Sending --------------------------------------------------------------------------------------

    def _put_of(self, message: Message, batch: Batch) -> None:
        if isinstance(message, Outgoing):
            self._put(message.body, message.key, message.headers, message.properties, None, batch)
        else:
            self._put(message[0], message[1], None, None, None, batch)

    def _put(
        self,
        body: Any,
        key: Key | None,
        headers: Mapping[str, Any] | None,
        properties: Basic.Properties | None,
        future: "asyncio.Future[None] | None",
        batch: Batch | None,
    ) -> None:
        if self._over is not None:
            raise self._over
        if key is None and headers is not None:
            key = self._encoder.key_in(headers)
        raw = key_bytes(key)
        if raw is not None and self._routes is not None and len(raw) > self._routes.longest_key:
            longest = self._routes.longest_key
            raise ValueError(f"a key of {len(raw)} bytes: group {self.group} allows {longest}")
        content = self._encoder.encode(body, raw, headers, properties)
        item = Item(content, raw, self._clock(), future, batch)
        self._outbox.put(item)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        connection, channel, routes = self._connection, self._channel, self._routes
        if connection is None or channel is None or routes is None or self._stale:
            return
        if connection.blocked is not None or connection.write_buffer_full:
            return
        taken = self._outbox.take()
        if taken:
            connection.write(routes.frames(taken))

    def _confirmed(self, confirms: list[Confirm]) -> None:
        outbox = self._outbox
        outbox.confirms(confirms)
        self._delay = _FIRST_RETRY
        if outbox.back:
            if not outbox.flight and self._learning is None:
                self._learning = asyncio.get_running_loop().create_task(self._learn(outbox.back[0].returned))
        elif outbox.waiting:
            self._schedule()
        else:
            self._same_layout = 0
        self._room.set()

    def _came_back(self, message: Returned) -> None:
        if not self._outbox.came_back(message, self._encoder.frame_max):
            raise ConnectionLost("a message came back that was not published here")
        # Nothing is sent until it is known where to: order.
        self._stale = True

    async def _wait_for_room(self) -> None:
        outbox = self._outbox
        while len(outbox) >= 2 * self._limit or (outbox.waiting and outbox.bytes >= 2 * self._limit_bytes):
            self._room.clear()
            await self._room.wait()

    # Another layout -------------------------------------------------------------------------------

    async def _learn(self, returned: Returned | None) -> None:
        """Messages came back, and nothing is in flight: what is the group's layout now?"""
        connection = self._connection
        assert connection is not None
        assert self._layout is not None
        try:
            found = await read_layout(connection, self.group)
            if found is None:
                self._give_back_up(returned, "the group was deleted")
            elif found.layout != self._layout.layout or found.ingress != self._layout.ingress:
                self._same_layout = 0
                _log.info("the group's layout has changed", group=self.group, **found.describe())
                self._learnt(connection, found)
            elif self._same_layout < _SAME_LAYOUT:
                self._same_layout += 1
                await self._repair(connection, found)
            else:
                self._give_back_up(returned, "its queue can't be reached")
            self._outbox.again()
            self._stale = False
        except (BrokerError, ConfigError) as error:
            _log.warning("the group's layout could not be read", group=self.group, error=str(error))
            connection.abort(error if isinstance(error, BrokerError) else None)
        finally:
            self._learning = None
            self._room.set()
        self._schedule()

    async def _repair(self, connection: Connection, layout: GroupLayout) -> None:
        """A queue or a binding has gone although the layout is the same."""
        _log.warning("a partition's queue or binding is gone; it is declared again", group=self.group)
        async with locked(connection, self.group):
            if await read_layout(connection, self.group) == layout:
                await declare(connection, self.group, layout)

    def _give_back_up(self, returned: Returned | None, why: str) -> None:
        code, text = (returned.code, returned.text) if returned is not None else (312, "NO_ROUTE")
        self._outbox.fail_back(
            lambda: Unroutable(code, f"{text} ({why})", write_exchange(self.group), "of its partition")
        )

    def _learnt(self, connection: Connection, layout: GroupLayout) -> None:
        self._layout = layout
        self._encoder = Encoder(_CHANNEL, connection.frame_max, layout.key)
        self._routes = Routes(_CHANNEL, self.group, layout)

    # Connections ----------------------------------------------------------------------------------

    async def _connect(self, *, repair: bool = False) -> Channel:
        connection = await connect(self.url, name=f"partymq publisher {self.group}", coalesce=_COALESCE)
        try:
            channel = await connection.open_channel(_CHANNEL)
            layout = await self._agree(connection, known=repair)
            if repair:
                await self._repair(connection, layout)
            if connection.frame_max < self._encoder.frame_max:
                self._outbox.refit(connection.frame_max)
            self._learnt(connection, layout)
            await channel.select_confirms(self._confirmed, self._came_back)
        except BaseException:
            connection.abort()
            raise
        connection.on_blocked(self._blocked)
        connection.on_writable(self._schedule)
        self._connection, self._channel, self._trouble = connection, channel, ""
        return channel

    async def _agree(self, connection: Connection, *, known: bool) -> GroupLayout:
        """Once it has run, another number of partitions is no error: the group may have been resized.

        A broker that lost everything gets the group again; one that lost only the group (`known`) does not.
        """
        last = self._layout
        if last is None:
            return await agree(connection, self.group, self._wish)
        wish = {name: getattr(last, name) for name in WISHES}
        found = await read_layout(connection, self.group)
        if found is not None:
            del wish["partitions"]
            found.check(self.group, wish)
            return found
        if known:
            raise ConfigError(f"group {self.group} was deleted while it was published to")
        return await agree(connection, self.group, wish)

    async def _run(self, channel: Channel) -> None:
        while True:
            self._schedule()
            error = await channel.wait_closed()
            connection, self._connection, self._channel = self._connection, None, None
            await self._stop_learning()
            self._count_attempt(error)
            self._trouble = str(error)
            _log.warning("the publisher has to connect again", group=self.group, error=str(error))
            if connection is not None:
                await connection.close(1.0)
            repair = isinstance(error, ChannelClosed) and error.code == _NOT_FOUND
            while True:
                await asyncio.sleep(self._delay * random.uniform(0.5, 1.0))
                self._delay = min(self._delay * 2, _LAST_RETRY)
                try:
                    channel = await self._connect(repair=repair)
                    break
                except ConfigError as error_of_ours:
                    self._fail(error_of_ours)
                    return
                except BrokerError as again:
                    self._trouble = str(again)

    def _ran(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            why = ConnectionLost(f"the publisher of group {self.group} failed: {error!r}")
            why.__cause__ = error
            self._fail(why)

    def _count_attempt(self, error: BrokerError) -> None:
        """What the channel had is sent again: one at a time where the broker closed it because of one of
        them, and not again where it is known which one."""
        outbox = self._outbox
        self._stale = False
        if isinstance(error, ChannelClosed):
            if outbox.careful and len(outbox.flight) == 1:
                for item in outbox.flight.values():
                    item.settle(error)
                outbox.careful -= 1
                outbox.rewind()
            else:
                outbox.careful = outbox.rewind()
        else:
            outbox.rewind()
        self._room.set()

    async def _stop_learning(self) -> None:
        task = self._learning
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            self._learning = None

    def _blocked(self, reason: str | None) -> None:
        if reason is None:
            self._schedule()
        else:
            _log.warning("the broker blocks publishers", group=self.group, reason=reason)

    def _fail(self, error: PartyMQError) -> None:
        self._over = error
        self._outbox.fail(error)
        self._room.set()

    async def _end(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.wait([running])
        await self._stop_learning()
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            await connection.close()
        self._fail(self._over or ConnectionLost("the publisher is closed"))

    # Time -----------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(min(self._timeout / 5, 1.0), self._sweep)
        outbox = self._outbox
        if len(outbox) and outbox.expire(loop.time() - self._timeout, self._late):
            self._room.set()

    def _late(self) -> CallTimeout:
        return CallTimeout(
            f"group {self.group}: a message was not confirmed within {self._timeout:g} s{self._state()}"
        )

    def _state(self) -> str:
        if self._channel is None:
            return f" (not connected{': ' if self._trouble else ''}{self._trouble})"
        blocked = self._connection.blocked if self._connection is not None else None
        return f" (the broker blocks publishers: {blocked})" if blocked is not None else ""
