"""Empties a queue into another one, in order.

Every message is acked only after the broker has confirmed it there. It is copied byte for byte, but for what
whoever moves it wants changed.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.content import Returned, Span, publish_frame, with_channel
from partymq.errors import BrokerError, ConnectionLost, Nacked, Unroutable
from partymq.router.alone import Alone, consume_alone
from partymq.router.contents import Fitter

_PREFETCH: Final = 256
"""Messages on their way at once: of any size, so not too many; a move is to be short, so not too few."""
_WRITING: Final = "writing what is moved"
"""Reason to read nothing: what was read is not written yet, and may be large."""
_SETTLE: Final = 3.0
"""Seconds for confirms when a move is given up."""
_LOOKS: Final = 2
"""Times that a queue has to be found empty."""
_LOOK: Final = 0.03
"""Seconds between two looks at most."""

Change = Callable[[bytes, int, bytes], tuple[bytes, Mapping[str, str]]]
"""From the buffer, where in it the delivery's method frame begins, and its content: the content to be
published, and headers to be added to it."""


class Move:
    """One go at moving, on two channels of one connection.

    Args:
        queue: is emptied.
        exchange, target: what is published there goes to the other queue: `target` is its name, and the
            routing key.
        change: see `Change`.

    Attributes:
        moved: messages that are acked in the one queue and confirmed in the other.
    """

    def __init__(
        self, connection: Connection, queue: str, exchange: str, target: str, change: Change
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._exchange = exchange
        self._target = target
        self._change = change
        self.moved = 0
        self._tags: deque[int] = deque()
        self._confirmed: set[int] = set()
        self._next = 1
        self._settled = 0
        self._acked = 0
        self._ending = False
        self._error: BrokerError | None = None
        self._progress = asyncio.Event()

    async def run(self) -> None:
        """Returns when nothing is left in the queue. Given up or failed, what was not confirmed goes back to
        its place.

        Raises ChannelClosed (403) where the queue has a consumer, (404) where it is not there; BrokerError.
        """
        connection, tags = self._connection, self._tags
        publish = await connection.open_channel()
        undo = connection.on_writable(lambda: connection.resume_reading(_WRITING))
        try:
            await publish.select_confirms(self._confirms, self._returned)
            number = publish.number
            fitter = Fitter(number, connection.username, connection.frame_max, connection.frame_max)
            frame = publish_frame(number, self._exchange, self._target, mandatory=True)

            def delivered(buf: bytes, spans: list[Span]) -> None:
                if self._ending:
                    return  # goes back to its place when the channel is closed
                for tag, method_at, header_at, end in spans:
                    tags.append(tag)
                    content = fitter.fit(*self._change(buf, method_at, buf[header_at:end]))
                    connection.write(frame + with_channel(content, number))
                if connection.write_buffer_full:
                    connection.pause_reading(_WRITING)

            alone = await consume_alone(connection, None, self._queue, _PREFETCH, delivered, self._cancelled)
            try:
                await self._until_empty(publish, alone)
            finally:
                await self._let_settle(publish, alone.channel)
                if self._tags:
                    # The member might come back before what goes back is there.
                    await alone.channel.close()
                else:
                    await alone.close()
        finally:
            undo()
            connection.resume_reading(_WRITING)
            await publish.close()

    async def _until_empty(self, publish: Channel, alone: Alone) -> None:
        empty, consume = 0, alone.channel
        while empty < _LOOKS:
            self._progress.clear()
            for error in (self._error, publish.error, consume.error):
                if error is not None:
                    raise error
            self._ack(consume)
            # What was on its way to us when the queue was found empty has arrived by now.
            nothing = not self._tags and await alone.has_nothing_ready()
            empty = empty + 1 if nothing and not self._tags else 0
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._progress.wait()

    async def _let_settle(self, publish: Channel, consume: Channel) -> None:
        """Given up or failed: what is on its way is not to be repeated, if its confirms come in time."""
        self._ending = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE):
                while self._tags and not (self._error or publish.error or consume.error):
                    self._progress.clear()
                    await self._progress.wait()
        if consume.error is None:
            self._ack(consume)

    def _ack(self, consume: Channel) -> None:
        if self._settled != self._acked:
            self._acked = self._settled
            consume.ack(self._acked, multiple=True)

    def _confirms(self, confirms: list[tuple[int, bool, bool]]) -> None:
        for seq, multiple, acked in confirms:
            if not acked:
                self._error = Nacked(f"the queue {self._target} refused a message")
            self._confirmed.update(range(self._next, seq + 1) if multiple else (seq,))
        while self._next in self._confirmed and self._error is None:
            self._confirmed.discard(self._next)
            self._next += 1
            self._settled = self._tags.popleft()
            self.moved += 1
        self._progress.set()

    def _returned(self, message: Returned) -> None:
        self._error = Unroutable(message.code, message.text, message.exchange, message.routing_key)
        self._progress.set()

    def _cancelled(self) -> None:
        self._error = ConnectionLost(f"the queue {self._queue} was deleted while it was being emptied")
        self._progress.set()
