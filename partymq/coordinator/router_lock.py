"""Which process fills a pull group, and how it is asked to leave a layout.

The lock is a queue that is exclusive to the connection on which its holder publishes: when another one gets
it, the broker has given that connection up and takes nothing more from it. What is sent to the queue reaches
the holder, and comes back where there is none. So those who stand by find out when it is free, and whoever
resizes the group has the holder end its session in good order: one that finds out only by messages that come
back may repeat some that did not.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from uuid import uuid4

from pamqp.commands import Basic

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.content import Span, decode, encode_content, publish_frame
from partymq.errors import CallTimeout, ChannelClosed, ProtocolError, Unroutable
from partymq.group.names import control_queue, router_lock
from partymq.log import get_logger

_STAND_BY: Final = 0.2
"""Seconds between two looks whether the lock is free, on average."""
_SETTLE: Final = 0.1
"""Seconds in which what a dead holder had sent before it died arrives in its queues."""
_LEFT_WITHIN: Final = 15.0
"""Seconds in which a session has ended, also one whose confirms don't come."""
_ASK: Final = 1.0
"""Seconds between two questions."""
_LOCKED: Final = 405

_log = get_logger(__name__)


class RouterLock:
    """The lock, on one connection.

    Args:
        connection: its death is the end of the lock.
        on_lost: called when the lock is gone though the connection is not.
        on_asked: called with the number of a layout that is to be left: when nothing can be published to it
            any more, `left` has to be called.
    """

    def __init__(
        self, connection: Connection, group: str, on_lost: Callable[[], None], on_asked: Callable[[int], None]
    ) -> None:
        self._connection = connection
        self._group = group
        self._name = router_lock(group)
        self._on_lost = on_lost
        self._on_asked = on_asked
        self._channel: Channel | None = None
        self._waiting: list[str] = []

    async def acquire(self, on_standing_by: Callable[[], None]) -> None:
        """Wait until no other connection has it, and take it. Raises BrokerError.

        `on_standing_by` is called once, where somebody else has it.
        """
        looking: Channel | None = None
        while True:
            channel = await self._connection.open_channel()
            try:
                await channel.declare_queue(self._name, exclusive=True)
                break
            except ChannelClosed as error:
                if error.code != _LOCKED:
                    raise
            if looking is None:
                _log.info("standing by: another process routes", group=self._group)
                on_standing_by()
                looking = await self._connection.open_channel()
                await looking.select_confirms()
            await self._wait(looking)
        self._channel = channel
        await channel.consume(self._name, self._delivered, no_ack=True, on_cancel=self._on_lost)
        if looking is not None:
            await looking.close()
        await asyncio.sleep(_SETTLE)

    def left(self) -> None:
        """Whoever asked is told that the layout is left."""
        waiting, self._waiting = self._waiting, []
        for queue in waiting:
            self._answer(queue)

    async def _wait(self, channel: Channel) -> None:
        """Wait until the lock is gone. Trying to declare it would fill the broker's log with errors."""
        with suppress(Unroutable):
            while True:
                await asyncio.sleep(_STAND_BY * random.uniform(0.5, 1.5))
                await channel.publish("", self._name, b"", mandatory=True, timeout=None)

    def _delivered(self, buf: bytes, spans: list[Span]) -> None:
        for span in spans:
            try:
                message = decode(buf, span)
            except ProtocolError:
                continue  # none of ours
            if message.properties.reply_to and message.body.isdigit():
                self._waiting.append(message.properties.reply_to)
                self._on_asked(int(message.body))

    def _answer(self, queue: str) -> None:
        channel = self._channel
        assert channel is not None
        if channel.error is None:
            content = encode_content(channel.number, b"", Basic.Properties(), self._connection.frame_max)
            self._connection.write(publish_frame(channel.number, "", queue) + content)


async def leave(connection: Connection, group: str, layout: int) -> None:
    """Has the router leave a layout, when the next one is written; at once where no process routes.

    One that does not answer has it taken away: what it publishes from then on comes back. Raises BrokerError.
    """
    channel = await connection.open_channel()
    try:
        answer = control_queue(group, uuid4().hex)
        answered = asyncio.Event()
        await channel.declare_queue(answer, exclusive=True, auto_delete=True)
        await channel.consume(answer, lambda _buf, _spans: answered.set(), no_ack=True)
        await channel.select_confirms()
        asked = Basic.Properties(reply_to=answer, expiration=str(int(_LEFT_WITHIN * 1000)))
        async with asyncio.timeout(_LEFT_WITHIN):
            # Again and again, as the one that was asked may die.
            while not answered.is_set():
                await channel.publish("", router_lock(group), b"%d" % layout, asked, mandatory=True)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_ASK):
                        await answered.wait()
    except Unroutable:
        pass
    except (TimeoutError, CallTimeout):
        _log.warning("the router does not answer", group=group, layout=layout)
    finally:
        await channel.close()
