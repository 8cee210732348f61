"""One partition that is ours: its channel, what comes in on it, and the acknowledgements that go out."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from partymq.amqp.channel import Channel
from partymq.amqp.codec import OnDeliveries
from partymq.amqp.connection import Connection
from partymq.amqp.content import Span, routing_key_at
from partymq.client.lanes import RUNNING, Item, Lanes, Stream
from partymq.client.message import Delivery, Lost, Origin
from partymq.client.ownership import Owned
from partymq.errors import BrokerError, CallTimeout, ChannelClosed, ConnectionLost
from partymq.group.key import HeaderKey, KeyFinder

_CLOSED_WITHIN: Final = 10.0
"""Seconds that the broker gets to close a channel."""


class Partition:
    """A partition from `open` until it is given up or lost; for another time there is another one.

    Attributes:
        owned: which one, its queue and its fencing token.
        stream: what it has delivered.
        side: what else is handled of its keys: parked messages.
        lost: set when it is not ours any more although its handlers have not ended, or they are to end now
            because it is given up.
        gone: nothing of it can be acknowledged any more.
        origin: for its messages.
        prefetch: messages at most that are delivered and not acknowledged.
        dirty: whoever flushes knows that there is something.
        pending: messages handled since the last flush.
        since: when the first of these was handled, in seconds of the event loop.
        enough: with how many of these a flush is due at once.
        proven: it is certain that it is ours; until then its messages wait in `aside`.

    Args:
        lanes: where its messages go.
        finder: finds their keys.
        on_messages: called when there are new ones.
        on_broken: called when the broker has closed its channel or cancelled its consumer.
    """

    def __init__(
        self,
        owned: Owned,
        lanes: Lanes,
        finder: KeyFinder,
        prefetch: int,
        on_messages: Callable[[], None],
        on_broken: "Callable[[Partition, BrokerError], None]",
    ) -> None:
        self.owned = owned
        self.stream = Stream(self)
        self.side = Stream(self)
        self.lost = Lost()
        self.gone = False
        self.origin = Origin(owned.number, owned.token, self.lost)
        self.prefetch = prefetch
        self.dirty = False
        self.pending = 0
        self.since = 0.0
        self.enough = prefetch
        self.proven = False
        self.aside: list[Item] = []
        self._lanes = lanes
        self._finder = finder
        self._on_messages = on_messages
        self._on_broken = on_broken
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._idle = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Partition {self.owned.number}: {self.stream!r}>"

    async def open(self, connection: Connection) -> None:
        """Begins to consume. Raises BrokerError; then it is to be lost."""
        self._connection = connection
        channel = self._channel = await connection.open_channel()
        await channel.qos(self.prefetch)
        await channel.consume(self.owned.queue, self._receiver(), on_cancel=self._cancelled)
        channel.on_closed(self._closed)

    @property
    def empty(self) -> bool:
        """Whether there is nothing of it that is not acknowledged."""
        return not (self.stream or self.side or self.aside)

    def prove(self) -> None:
        """It is ours for certain: what has waited for that goes on."""
        self.proven = True
        waiting, self.aside = self.aside, []
        if not self.stream.dropped:
            for item in waiting:
                self._lanes.add(item)
            self._on_messages()

    def ended(self) -> None:
        """To be called when a handler has ended: whoever gives the partition up may be waiting for that."""
        if self.stream.dropped and not self.stream.running and not self.side.running:
            self._idle.set()

    def flush(self, *, all_now: bool = False) -> bool:
        """Acknowledges what may be; whether there is something left for the next time."""
        self.pending = 0
        stream = self.stream
        upto, alone = stream.acks(all_now=all_now)
        if stream.behind * 2 >= self.prefetch:
            # The broker would run out of what it may deliver.
            alone += stream.acks(all_now=True)[1]
        channel = self._channel
        if channel is None or channel.error is not None:
            return False
        if upto:
            channel.ack(upto, multiple=True)
        if alone:
            channel.ack_many(alone)
        return stream.done

    def drop(self) -> None:
        """Starts nothing more."""
        self._lanes.drop(self.stream)
        self._lanes.drop(self.side)

    async def quiesce(self) -> None:
        """Starts nothing more, and waits until what is running has ended."""
        self.drop()
        self.ended()
        await self._idle.wait()

    async def close(self) -> None:
        """Acknowledges what is done, and gives everything else back, in order: by closing the channel, as
        cancelling the consumer before would let the next owner have later messages first. The broker has done
        all of that when this returns. Never raises a BrokerError."""
        self.flush(all_now=True)
        if self._channel is None or self._connection is None:
            return
        try:
            with suppress(ChannelClosed, ConnectionLost):
                await self._channel.acks_done(self.owned.queue, timeout=_CLOSED_WITHIN)
            await self._channel.close(_CLOSED_WITHIN)
        except CallTimeout as error:
            # Not closed means not given back: nobody may be told that it is.
            self._connection.abort(error)

    def cut_short(self) -> list[Item]:
        """What is running has had its time, and is to end: answers these items. They go back."""
        self.drop()
        self.lost.set()
        return [item for item in (*self.stream.items(), *self.side.items()) if item.state == RUNNING]

    def lose(self) -> list[Item]:
        """It is not ours any more: answers the items whose handlers are still running."""
        running = self._lanes.forget(self.stream) + self._lanes.forget(self.side)
        self.gone = True
        self.lost.set()
        self._idle.set()
        if self._channel is not None:
            self._channel.shut()
        return running

    # Inside ---------------------------------------------------------------------------------------

    def _receiver(self) -> OnDeliveries:
        stream, add_all, find = self.stream, self._lanes.add_all, self._finder.find
        on_messages = self._on_messages
        by_header = isinstance(self._finder, HeaderKey)

        def receive(buf: bytes, spans: list[Span]) -> None:
            if stream.dropped:
                return
            items = []
            for tag, method_at, header_at, end in spans:
                # A copy, so that one slow message does not keep a whole read in memory.
                data = buf[method_at:end]
                at = header_at - method_at
                key = find(data, at, end - method_at, b"" if by_header else routing_key_at(data, 0))
                items.append(Delivery(stream, tag, key, data, at))
            if not self.proven:
                self.aside += items
                return
            add_all(stream, items)
            on_messages()

        return receive

    def _cancelled(self) -> None:
        self._on_broken(
            self, ChannelClosed(404, f"the broker cancelled the consumer of {self.owned.queue}: is it gone?")
        )

    def _closed(self, error: BrokerError) -> None:
        if not self.stream.dropped and isinstance(error, ChannelClosed) and error.code != 200:
            self._on_broken(self, error)
