"""Connections and channels as the real code uses them, over the model of the broker."""

import asyncio
import struct
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pamqp.commands import Basic

from partymq.amqp.content import Message as Content
from partymq.amqp.content import Returned
from partymq.amqp.topology import QueueInfo
from partymq.errors import BrokerError, ChannelClosed, ConnectionLost, Unroutable
from tests.simulation.broker import Channel, Connection, Consumer, Entry, Queue
from tests.simulation.frames import delivery
from tests.simulation.message import Message
from tests.simulation.pull_loop import Loop

_REFUSED, _NOT_FOUND, _LOCKED = 403, 404, 405
_FRAME = struct.Struct(">BHI")
_METHOD, _BODY = 1, 3
_ENDLESS = 1 << 30
_KEYS = 64
_T = TypeVar("_T")


class Wire:
    """The face of a connection. Whoever has it says `lost` when the client hears that it is gone.

    Attributes:
        blocked, error, channel_max, frame_max, username: see `partymq.amqp.connection.Connection`.
    """

    blocked: str | None = None
    write_buffer_full = False
    frame_max = 131_072
    username = "guest"
    channel_max = 2_047

    def __init__(self, loop: Loop, connection: Connection) -> None:
        self.loop = loop
        self.connection = connection
        self.error: BrokerError | None = None
        self.published: Callable[[], None] = lambda: None
        """Called when something is confirmed that was published by `WireChannel.publish`."""
        self.channels: list[WireChannel] = []

    def lost(self) -> None:
        """The client hears that it is gone."""
        self._fail(ConnectionLost("the broker has closed the connection"))

    def abort(self, error: BrokerError | None = None) -> None:
        """See `partymq.amqp.connection.Connection`."""
        if self.error is None:
            self.connection.cut()
            self._fail(error or ConnectionLost("closed by ourselves"))

    async def close(self, timeout: float = 5.0) -> None:
        """See `partymq.amqp.connection.Connection`."""
        if self.error is None:
            self.connection.close()
            self._fail(ConnectionLost("closed by ourselves"))

    def _fail(self, error: BrokerError) -> None:
        if self.error is None:
            self.error = error
            for channel in list(self.channels):
                channel.end(error)

    async def open_channel(self, number: int | None = None, *, timeout: float = 10.0) -> "WireChannel":
        """See `partymq.amqp.connection.Connection`."""
        if self.error is not None:
            raise self.error
        channel = WireChannel(self, self.connection.channel())
        await channel.call(lambda: None)
        return channel

    def write(self, data: bytes) -> None:
        """Publish frames of the one channel that has callbacks for confirms."""
        channel = next((channel for channel in self.channels if channel.raw), None)
        if channel is None:
            assert self.error is not None
            return
        for key, content, body in _publishes(data):
            channel.put(key, None, _message(body), content)

    def on_blocked(self, callback: Callable[[str | None], None]) -> Callable[[], None]:
        """It never is."""
        return lambda: None

    def on_writable(self, callback: Callable[[], None]) -> Callable[[], None]:
        """It always is."""
        return lambda: None

    def pause_reading(self, reason: str) -> None:
        """Without effect: what is written is away at once."""

    def resume_reading(self, reason: str) -> None:
        """Without effect."""


class WireChannel:
    """The face of a channel. Calls are on their way to the broker, and their answers on the way back.

    Attributes:
        error: see `partymq.amqp.channel.Channel`.
        raw: whether frames are written, and confirms counted, by whoever has it.
    """

    number = 1

    def __init__(self, wire: Wire, channel: Channel) -> None:
        self.error: BrokerError | None = None
        self.raw = False
        self._wire = wire
        self._channel = channel
        self._broker = channel.broker
        self._calls: dict[asyncio.Future[Any], None] = {}
        self._got: dict[int, tuple[Consumer, int]] = {}
        self._tags = 0
        self._published = 0
        self._contents: dict[int, bytes] = {}
        self._unconfirmed: dict[int, asyncio.Future[None]] = {}
        self._ended: asyncio.Event = asyncio.Event()
        channel.confirms = False
        wire.channels.append(self)

    # -- calls -------------------------------------------------------------------------------------------

    async def call(self, do: Callable[[], _T]) -> _T:
        """Have something done by the broker."""
        if self.error is not None:
            raise self.error
        future: asyncio.Future[_T] = self._wire.loop.create_future()
        self._calls[future] = None
        self._channel.to_broker.send(self._carry_out, do, future)
        try:
            return await future
        finally:
            self._calls.pop(future, None)

    def _carry_out(self, do: Callable[[], _T], future: "asyncio.Future[_T]") -> None:
        try:
            result = do()
        except ChannelClosed as error:
            process = self._channel.connection.process
            self._channel.close(flush=False)
            process.timer(process.world.lag(), self.end, error)
        else:
            self._channel.to_client.send(_answer, future, result)

    def end(self, error: BrokerError) -> None:
        """It is closed."""
        if self.error is not None:
            return
        self.error = error
        self._ended.set()
        if self in self._wire.channels:
            self._wire.channels.remove(self)
        for future in (*self._calls, *self._unconfirmed.values()):
            if not future.done():
                future.set_exception(error)
        self._calls.clear()
        self._unconfirmed.clear()

    def shut(self) -> None:
        """See `partymq.amqp.channel.Channel`."""
        if self.error is None:
            self._channel.to_broker.send(self._channel.close)
            self.end(ChannelClosed(200, "closed by ourselves"))

    async def close(self, timeout: float = 10.0) -> None:
        """In good order: all that was sent arrives before."""
        if self.error is not None:
            return
        done: asyncio.Future[None] = self._wire.loop.create_future()
        self._calls[done] = None
        process = self._channel.connection.process

        def closed() -> None:
            self._channel.close()
            process.timer(process.world.lag(), _answer, done, None)

        self._channel.to_broker.send(closed)
        try:
            await done
        except BrokerError:
            return
        finally:
            self._calls.pop(done, None)
            self.end(ChannelClosed(200, "closed by ourselves"))

    async def wait_closed(self) -> BrokerError:
        """See `partymq.amqp.channel.Channel`."""
        await self._ended.wait()
        assert self.error is not None
        return self.error

    # -- what there is -----------------------------------------------------------------------------------

    async def declare_queue(
        self,
        name: str,
        *,
        durable: bool = False,
        exclusive: bool = False,
        passive: bool = False,
        arguments: dict[str, Any] | None = None,
        timeout: float = 10.0,
    ) -> QueueInfo:
        """See `partymq.amqp.topology.Topology`."""
        connection = self._channel.connection

        def declare() -> QueueInfo:
            if not passive:
                single = bool(arguments and arguments.get("x-single-active-consumer"))
                owner = connection if exclusive else None
                self._broker.declare(name, durable=durable, owner=owner, single_active=single)
            queue = self._queue(name)
            if queue.owner is not None and queue.owner is not connection:
                raise ChannelClosed(_LOCKED, f"RESOURCE_LOCKED - {name}")
            return QueueInfo(name, len(queue.ready), len(queue.consumers))

        return await self.call(declare)

    async def delete_queue(self, name: str, *_: bool, timeout: float = 10.0) -> int:
        """See `partymq.amqp.topology.Topology`."""

        def delete() -> int:
            messages = self._broker.look(name).ready
            self._broker.delete(name)
            return messages

        return await self.call(delete)

    async def bind_queue(self, queue: str, exchange: str, key: str = "", *, timeout: float = 10.0) -> None:
        """See `partymq.amqp.topology.Topology`; there is one exchange."""

        def bind() -> None:
            self._queue(queue)
            self._broker.bind(queue, key)

        await self.call(bind)

    async def unbind_queue(self, queue: str, exchange: str, key: str = "", *, timeout: float = 10.0) -> None:
        """See `partymq.amqp.topology.Topology`."""
        await self.call(lambda: self._broker.unbind(queue, key))

    async def declare_exchange(self, *_: object, **options: object) -> None:
        """See `partymq.amqp.topology.Topology`; without effect, as what is done with exchanges here."""
        await self.call(lambda: None)

    delete_exchange = bind_exchange = unbind_exchange = declare_exchange

    def _queue(self, name: str) -> Queue:
        if name not in self._broker.queues:
            raise ChannelClosed(_NOT_FOUND, f"NOT_FOUND - no queue '{name}'")
        return self._broker.queues[name]

    # -- what is in it -----------------------------------------------------------------------------------

    async def qos(self, prefetch: int, *, timeout: float = 10.0) -> None:
        """Without effect: what is consumed here has no limit."""
        await self.call(lambda: None)

    async def get(self, queue: str, *, timeout: float = 10.0) -> Content | None:
        """See `partymq.amqp.channel.Channel`."""

        def get() -> tuple[Consumer, Entry] | None:
            found = self._queue(queue)
            if not found.ready:
                return None
            entry = found.ready.popleft()
            # Who asks is no consumer, but has it like one.
            consumer = Consumer(self._channel, found, 0, False, lambda entry: None, lambda: None)
            self._channel.consumers.append(consumer)
            found.unacked[entry.position] = (entry, consumer)
            consumer.unacked += 1
            return consumer, entry

        got = await self.call(get)
        if got is None:
            return None
        consumer, entry = got
        return Content(entry.body, Basic.Properties(), tag=self._took(consumer, entry))

    async def consume(
        self, queue: str, on_deliveries: Callable[[bytes, list[Any]], None], **options: Any
    ) -> str:
        """See `partymq.amqp.channel.Channel`. Messages of the group, or settings, come as they are sent."""

        def consume() -> Consumer:
            found = self._queue(queue)
            exclusive = bool(options.get("exclusive"))
            if any(one.exclusive for one in found.consumers) or (exclusive and found.consumers):
                raise ChannelClosed(_REFUSED, f"ACCESS_REFUSED - queue '{queue}' in exclusive use")
            if not self._channel.open:
                raise ChannelClosed(_NOT_FOUND, "the last things that a connection does that breaks")
            consumer = self._broker.consume(
                self._channel, queue, _ENDLESS, delivered, lambda: None, exclusive=exclusive
            )
            taking.append(consumer)
            return consumer

        taking: list[Consumer] = []

        def delivered(entry: Entry) -> None:
            if self.error is None:
                on_deliveries(
                    *delivery(entry.body, _KEYS, 1, self._took(taking[0], entry), entry.redelivered)
                )

        await self.call(consume)
        return "consumer"

    async def cancel(self, tag: str, *, timeout: float = 10.0) -> None:
        """See `partymq.amqp.channel.Channel`; of all that it consumes."""

        def cancel() -> None:
            for consumer in list(self._channel.consumers):
                self._broker.cancel(consumer)

        await self.call(cancel)

    def _took(self, consumer: Consumer, entry: Entry) -> int:
        self._tags += 1
        self._got[self._tags] = consumer, entry.position
        return self._tags

    def ack(self, tag: int, multiple: bool = False) -> None:
        """See `partymq.amqp.channel.Channel`."""
        for number in [number for number in self._got if number <= tag] if multiple else [tag]:
            self._channel.ack(*self._got.pop(number))

    async def select_confirms(
        self,
        on_confirms: Callable[[list[tuple[int, bool, bool]]], None] | None = None,
        on_return: Callable[[Returned], None] | None = None,
    ) -> None:
        """See `partymq.amqp.channel.Channel`."""
        channel = self._channel
        if on_confirms is None:
            unconfirmed = self._unconfirmed
            channel.on_confirm = lambda seq: _settle(unconfirmed.pop(seq, None), None)
            channel.on_return = lambda seq: _settle(
                unconfirmed.pop(seq, None), Unroutable(312, "NO_ROUTE", "", "")
            )
        else:
            assert on_return is not None
            self.raw = True

            def confirmed(seq: int) -> None:
                del self._contents[seq]
                if self.error is None:
                    self._wire.loop.run(on_confirms, [(seq, False, True)])

            def returned(seq: int) -> None:
                if self.error is None:
                    self._wire.loop.run(on_return, Returned(312, "NO_ROUTE", "", "", self._contents[seq]))

            channel.on_confirm, channel.on_return = confirmed, returned

        def select() -> None:
            channel.confirms = True

        await self.call(select)

    def put(self, key: str | None, queue: str | None, body: object, content: bytes = b"") -> int:
        """Publish; the number that will be confirmed."""
        self._published += 1
        self._contents[self._published] = content
        self._channel.publish(key, queue, body, self._published)
        return self._published

    async def publish(
        self, exchange: str, routing_key: str, body: bytes, *_: object, mandatory: bool = False
    ) -> None:
        """See `partymq.amqp.channel.Channel`. Our exchange takes a message to the queue of that name."""
        if self.error is not None:
            raise self.error
        future: asyncio.Future[None] = self._wire.loop.create_future()
        self._unconfirmed[self.put(None, routing_key, _message(body) if exchange else body)] = future
        await future
        self._wire.published()


def _publishes(data: bytes) -> Iterator[tuple[str, bytes, bytes]]:
    """Routing key, content, and body of each message that is published."""
    at = begins = 0
    key, body = "", b""
    while at < len(data):
        kind, _, size = _FRAME.unpack_from(data, at)
        payload, end = data[at + 7 : at + 7 + size], at + size + 8
        if kind == _METHOD:
            name = 7 + payload[6]
            key, begins = payload[name + 1 : name + 1 + payload[name]].decode(), end
        elif kind == _BODY:
            body = payload
            yield key, data[begins:end], body
        at = end


def _message(body: bytes) -> Message:
    key, number = body.split(b":")
    return Message(int(key), int(number))


def _answer(future: "asyncio.Future[_T]", result: _T) -> None:
    if not future.done():
        future.set_result(result)


def _settle(future: "asyncio.Future[None] | None", error: BrokerError | None) -> None:
    if future is not None and not future.done():
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
