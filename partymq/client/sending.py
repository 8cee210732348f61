"""Getting messages to a group's partitions, in the order in which they are put: what is behind `Publisher`.

`Sender` has the connection. It writes what the outbox has as far as the broker takes it, sends again what was
not confirmed when the connection was lost, and learns of another layout by the messages that come back.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from partymq.amqp.channel import Channel
from partymq.amqp.codec import Confirm
from partymq.amqp.connection import Connection
from partymq.amqp.content import Returned
from partymq.client.encoding import Encoder
from partymq.client.firsts import Firsts
from partymq.client.outbox import Outbox
from partymq.client.routes import Routes
from partymq.coordinator.layout_store import read_layout_since
from partymq.coordinator.pull_topology import agree, declare_again
from partymq.errors import (
    BrokerError,
    ChannelClosed,
    ConfigError,
    ConnectionLost,
    Nacked,
    PartyMQError,
    Unroutable,
)
from partymq.group.key import KeyRule
from partymq.group.layout import WISHES, GroupLayout
from partymq.group.names import write_exchange
from partymq.log import get_logger

_CHANNEL: Final = 1
"""Always the same number, so that messages need not be put together anew for another connection."""
_FIRST_RETRY: Final = 0.1
_LAST_RETRY: Final = 2.0
"""Seconds until it connects again; doubled each time, half of it by chance."""
_LAST_CONFIRMS: Final = 1.0
"""Seconds for which the others are waited for when a message was refused."""
_SAME_LAYOUT: Final = 3
"""Times that messages come back before they are given up although the group's layout has not changed."""
_NOT_FOUND: Final = 404

_log = get_logger(__name__)


class Sender:
    """Sends what is put into its outbox, over lost connections and other layouts, in order.

    Args:
        dial: makes a connection.
        group: the group's name.
        wish: settings that the group must have; see `agree`.
        outbox: what is to be sent, and what is not confirmed.

    Attributes:
        encoder: puts messages together for this connection; another one with each connection and layout.
        routes: where the partitions are; None before the first connection.
        layout: the group's, as last learnt; None before the first connection.
        over: why nothing can be put; None while it can.
        progress: set whenever something was settled, or there is more room.
    """

    def __init__(
        self,
        dial: Callable[[], Awaitable[Connection]],
        group: str,
        wish: Mapping[str, Any],
        outbox: Outbox,
    ) -> None:
        self.encoder = Encoder(_CHANNEL, 0, KeyRule())
        self.routes: Routes | None = None
        self.layout: GroupLayout | None = None
        self.over: PartyMQError | None = ConnectionLost("the publisher is not open: use `async with`")
        self.progress = asyncio.Event()
        self._dial = dial
        self._group = group
        self._wish = wish
        self._outbox = outbox
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._running: asyncio.Task[None] | None = None
        self._learning: asyncio.Task[None] | None = None
        self._firsts: Firsts | None = None
        self._scheduled = self._stale = False
        self._same_layout = 0
        self._delay = _FIRST_RETRY
        self._trouble = ""

    async def open(self) -> None:
        """Connects, and learns the group's layout; raises what goes wrong the first time."""
        if self._running is not None and not self._running.done():
            raise RuntimeError("the publisher is open already")
        channel = await self._connect()
        self.over = None
        self._running = asyncio.create_task(self._run(channel))
        self._running.add_done_callback(self._ran)

    async def close(self) -> None:
        """Closes the connection; what is not confirmed has failed. Idempotent."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.wait([running])
        await self._stop_learning()
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            await connection.close()
        self._fail(self.over or ConnectionLost("the publisher is closed"))

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._channel is not None

    @property
    def blocked(self) -> str | None:
        """Why the broker blocks publishers; None where it does not."""
        return self._connection.blocked if self._connection is not None else None

    @property
    def hindrance(self) -> str:
        """What keeps messages from being confirmed, as the end of a sentence."""
        if not self.connected:
            return f" (not connected{': ' if self._trouble else ''}{self._trouble})"
        return f" (the broker blocks publishers: {self.blocked})" if self.blocked is not None else ""

    # Sending --------------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Sends what is in the outbox at the end of this turn of the event loop."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        connection, channel, routes = self._connection, self._channel, self.routes
        if connection is None or channel is None or routes is None or self._stale:
            return
        if connection.blocked is not None or connection.write_buffer_full:
            return
        firsts = self._firsts
        taken = self._outbox.take(firsts.may_go if firsts is not None and not firsts.over else None)
        if taken:
            connection.write(routes.frames(taken))

    def _confirmed(self, confirms: list[Confirm]) -> None:
        outbox = self._outbox
        outbox.confirms(confirms)
        self._delay = _FIRST_RETRY
        if outbox.refused:
            self._refused()
        elif outbox.back:
            if not outbox.flight and self._learning is None:
                self._learning = asyncio.get_running_loop().create_task(self._learn(outbox.back[0].returned))
        elif outbox.waiting:
            self.schedule()
        else:
            self._same_layout = 0
        self.progress.set()

    def _refused(self) -> None:
        """Nothing more goes this way: the channel may refuse whatever follows. When all else is confirmed,
        another connection is made, and what was refused sent on it again."""
        outbox, connection = self._outbox, self._connection
        self._stale = True
        if connection is None:
            return
        why = Nacked("the broker did not take over a message: is its queue full, or down?")
        tries = max(item.refusals for item in outbox.refused)
        self._delay = min(_FIRST_RETRY * 2**tries, _LAST_RETRY)
        if not outbox.flight:
            connection.abort(why)
        elif len(outbox.refused) == 1:
            asyncio.get_running_loop().call_later(_LAST_CONFIRMS, connection.abort, why)

    def _came_back(self, message: Returned) -> None:
        if not self._outbox.came_back(message, self.encoder.frame_max):
            raise ConnectionLost("a message came back that was not published here")
        # Nothing is sent until it is known where to: order.
        self._stale = True

    # Another layout -------------------------------------------------------------------------------

    async def _learn(self, returned: Returned | None) -> None:
        """Messages came back, and nothing is in flight: what is the group's layout now?"""
        connection = self._connection
        assert connection is not None
        assert self.layout is not None
        try:
            found = await read_layout_since(connection, self._group, self.layout)
            if found is None:
                self._give_back_up(returned, "the group was deleted")
            elif found.layout != self.layout.layout or found.ingress != self.layout.ingress:
                self._same_layout = 0
                _log.info("the group's layout has changed", group=self._group, **found.describe())
                self._learnt(connection, found)
            elif self._same_layout < _SAME_LAYOUT:
                self._same_layout += 1
                await self._repair(connection, found)
            else:
                self._give_back_up(returned, "its queue can't be reached")
            self._outbox.again()
            self._stale = False
        except (BrokerError, ConfigError) as error:
            _log.warning("the group's layout could not be read", group=self._group, error=str(error))
            connection.abort(error if isinstance(error, BrokerError) else None)
        finally:
            self._learning = None
            self.progress.set()
        self.schedule()

    async def _repair(self, connection: Connection, layout: GroupLayout) -> None:
        """A queue or a binding has gone although the layout is the same."""
        _log.warning("a partition's queue or binding is gone; it is declared again", group=self._group)
        await declare_again(connection, self._group, layout)

    def _give_back_up(self, returned: Returned | None, why: str) -> None:
        code, text = (returned.code, returned.text) if returned is not None else (312, "NO_ROUTE")
        self._outbox.fail_back(
            lambda: Unroutable(code, f"{text} ({why})", write_exchange(self._group), "of its partition")
        )

    def _learnt(self, connection: Connection, layout: GroupLayout) -> None:
        self.layout = layout
        self.encoder = Encoder(_CHANNEL, connection.frame_max, layout.key)
        self.routes = routes = Routes(_CHANNEL, self._group, layout)
        quorum = routes.ordered and layout.queue_type == "quorum"
        self._firsts = Firsts(routes.partition, layout.partitions) if quorum else None

    # Connections ----------------------------------------------------------------------------------

    async def _connect(self, *, repair: bool = False) -> Channel:
        connection = await self._dial()
        try:
            channel = await connection.open_channel(_CHANNEL)
            layout = await self._agree(connection, known=repair)
            if repair:
                await self._repair(connection, layout)
            if connection.frame_max < self.encoder.frame_max:
                self._outbox.refit(connection.frame_max)
            self._learnt(connection, layout)
            await channel.select_confirms(self._confirmed, self._came_back)
        except BaseException:
            connection.abort()
            raise
        connection.on_blocked(self._blocked)
        connection.on_writable(self.schedule)
        self._connection, self._channel, self._trouble = connection, channel, ""
        return channel

    async def _agree(self, connection: Connection, *, known: bool) -> GroupLayout:
        """Once it has run, another number of partitions is no error: the group may have been resized.

        A broker that lost everything gets the group again; one that lost only the group (`known`) does not.
        """
        last = self.layout
        if last is None:
            return await agree(connection, self._group, self._wish)
        wish = {name: getattr(last, name) for name in WISHES}
        found = await read_layout_since(connection, self._group, last)
        if found is not None:
            del wish["partitions"]
            found.check(self._group, wish)
            return found
        if known:
            raise ConfigError(f"group {self._group} was deleted while it was published to")
        return await agree(connection, self._group, wish)

    async def _run(self, channel: Channel) -> None:
        while True:
            self.schedule()
            error = await channel.wait_closed()
            connection, self._connection, self._channel = self._connection, None, None
            await self._stop_learning()
            self._count_attempt(error)
            self._trouble = str(error)
            _log.warning("the publisher has to connect again", group=self._group, error=str(error))
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
            why = ConnectionLost(f"the publisher of group {self._group} failed: {error!r}")
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
        self.progress.set()

    async def _stop_learning(self) -> None:
        task = self._learning
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            self._learning = None

    def _blocked(self, reason: str | None) -> None:
        if reason is None:
            self.schedule()
        else:
            _log.warning("the broker blocks publishers", group=self._group, reason=reason)

    def _fail(self, error: PartyMQError) -> None:
        self.over = error
        self._outbox.fail(error)
        self.progress.set()
