"""Where messages go that are given up: published with a confirm, byte for byte, the reason in headers."""

import asyncio
from collections.abc import Mapping
from typing import Final

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.content import Returned, body_of, publish_frame, with_channel
from partymq.amqp.publishing import Publishing
from partymq.amqp.queues import declare_missing
from partymq.client.failure import ERROR_HEADER, TRACEBACK_HEADER
from partymq.client.message import Raw
from partymq.errors import CallTimeout, Nacked, Unroutable
from partymq.group.key import HeaderKey
from partymq.group.names import dead_letter_queue, own_exchange, parked_queue
from partymq.router.contents import GROUP_HEADER, Fitter, to_keep

_CONFIRMED_WITHIN: Final = 30.0


class Outlet:
    """The group's dead-letter and parking queues, over one connection.

    Nothing is opened before the first message.

    Args:
        connection: that the messages were consumed on, so that the broker takes nothing more from a member
            whose messages it has given to others. While the broker takes no messages nothing must be
            published on it: the broker would not see the acks on it any more either.
        speak_on: another one, which shows whether the broker takes messages. None: it is not looked.
    """

    def __init__(self, connection: Connection, group: str, speak_on: Connection | None = None) -> None:
        self._connection = connection
        self._speak_on = speak_on
        self._probe: Channel | None = None
        self._group = group
        self._exchange = own_exchange(group)
        self._opening = asyncio.Lock()
        self._channel: Channel | None = None
        self._publishing = Publishing()

    async def dead_letter(self, raw: Raw, headers: Mapping[str, str]) -> None:
        """Publishes the message to the dead-letter queue. See `publish`."""
        await self.publish(dead_letter_queue(self._group), raw, headers)

    async def publish(
        self, queue: str, raw: Raw, headers: Mapping[str, str], *, needed: str | None = None
    ) -> None:
        """Publishes the message to one of the two queues, with these headers; it is there on return.

        Headers that do not fit are left out, the traceback and the error first, unless one is `needed`. What
        expires does so no more: the time is moved to a header.

        Raises BrokerError (it is not known then whether it is there), and ValueError where the message can't
        be published at all. Waits for as long as the broker takes no messages.
        """
        await self._until_taken()
        try:
            await self._publish(queue, raw, headers, needed)
        except (Nacked, Unroutable):
            # With another channel the queues and their bindings are declared again, and a quorum queue that
            # had no leader when the first one was new has one.
            await self._publish(queue, raw, headers, needed)

    async def _publish(self, queue: str, raw: Raw, headers: Mapping[str, str], needed: str | None) -> None:
        connection = self._connection
        async with self._opening:
            if self._channel is None or self._channel.error is not None:
                self._channel, self._publishing = await self._open()
            channel, publishing = self._channel, self._publishing
        limit = connection.frame_max
        fitter = Fitter(channel.number, connection.username, limit, limit)
        content, headers = to_keep(with_channel(raw.content, channel.number), headers)
        is_there = HeaderKey(needed or GROUP_HEADER).find
        for name in ("", TRACEBACK_HEADER, ERROR_HEADER):
            headers.pop(name, None)
            fitted = fitter.fit(content, headers)
            if is_there(fitted, 0, len(fitted), b"") is not None:
                break
        else:
            if needed is not None:
                raise ValueError(f"the headers that a message to {queue} needs do not fit into a frame")
        if channel.error is not None:
            raise channel.error
        frame = publish_frame(channel.number, self._exchange, queue, mandatory=True)
        future = publishing.sent(self._exchange, queue, body_of(fitted, 0, len(fitted)), True)
        connection.write(frame + fitted)
        try:
            async with asyncio.timeout(_CONFIRMED_WITHIN):
                await future
        except (Nacked, Unroutable):
            channel.shut()
            raise
        except TimeoutError:
            raise CallTimeout(f"a message to {queue} was not confirmed in {_CONFIRMED_WITHIN:g} s") from None

    async def _until_taken(self) -> None:
        if self._speak_on is None:
            return
        async with self._opening:
            probe = self._probe
            if probe is None or probe.error is not None:
                probe = self._probe = await self._speak_on.open_channel()
                await probe.select_confirms()
        # There is no queue of that name: it is confirmed, and goes nowhere.
        await probe.publish("", "", b"", timeout=None)

    async def _open(self) -> tuple[Channel, Publishing]:
        queues = dead_letter_queue(self._group), parked_queue(self._group)
        for queue in queues:
            await declare_missing(self._connection, queue)
        channel = await self._connection.open_channel()
        await channel.declare_exchange(self._exchange, "direct", durable=True)
        for queue in queues:
            await channel.bind_queue(queue, self._exchange, queue)
        publishing = Publishing()
        channel.on_closed(publishing.end)

        def came_back(message: Returned) -> None:
            publishing.returned(message)

        await channel.select_confirms(publishing.confirmed, came_back)
        return channel, publishing
