"""The lease: who holds the group's state message is the coordinator. Lock and state are one thing.

The state queue is a single-active-consumer queue with one message. Whoever is delivered it keeps it unacked;
to change the state it publishes the new one, waits for the confirm, and acks the old one as soon as the new
one has come back to it, so that the queue is never without a state. When the holder's connection dies, the
broker gives the message to the next in line, which first writes it anew with the next epoch.

More than one message is left over by a crash between publish and ack: the highest (epoch, version) counts.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec
from pamqp.commands import Basic

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.amqp.content import Span, decode
from partymq.amqp.queues import arguments_of
from partymq.errors import BrokerError, CallTimeout, ChannelClosed, ConfigError, LeaseLost, ProtocolError
from partymq.group.names import state_queue
from partymq.group.state import GroupState
from partymq.log import get_logger

_SETTLE: Final = 0.1
"""Seconds in which what a dead coordinator had sent before it died arrives in its queues."""
_CONFIRM: Final = 10.0
"""Seconds in which the broker has to confirm a state, and to deliver it then."""
_PRECONDITION_FAILED: Final = 406

_log = get_logger(__name__)


class StateMessage(msgspec.Struct):
    """What the state queue holds."""

    epoch: int
    version: int
    instance: str
    state: GroupState

    @property
    def rank(self) -> tuple[int, int]:
        """The higher one counts."""
        return self.epoch, self.version


class _Rank(msgspec.Struct):
    """What every version's state has."""

    epoch: int
    version: int


_DECODE = msgspec.json.Decoder(StateMessage).decode
_RANK = msgspec.json.Decoder(_Rank).decode


@dataclass(slots=True)
class _Held:
    tag: int
    message: StateMessage


class Lease:
    """One candidacy for the coordination of a group, on one connection.

    Args:
        connection: its death ends the lease; the router has to publish on it, so that both end at once.
        group: the group's name.
        partitions: their number, which must be that of the state.
        instance: this process's name, for people.
        queue_type: `quorum` or `classic`.
        last_known: the state that this process last saved, used where the broker has lost its own.
        initial: the state of a group that has none, of which the number of partitions may change.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        group: str,
        partitions: int,
        instance: str,
        queue_type: str,
        last_known: StateMessage | None = None,
        initial: GroupState | None = None,
    ) -> None:
        self._connection = connection
        self._group = group
        self._queue = state_queue(group)
        self._partitions = partitions
        self._resizable = initial is not None
        self._instance = instance
        self.queue_type = queue_type
        self.current = last_known or StateMessage(0, 0, instance, initial or GroupState.new(partitions))
        """The state as it was last read or saved."""
        self._held: list[_Held] = []
        self._news = asyncio.Event()
        self._acquired = False
        self._lost: asyncio.Future[BrokerError] = asyncio.get_running_loop().create_future()
        self._channel: Channel | None = None

    @property
    def epoch(self) -> int:
        """Number of the present term."""
        return self.current.epoch

    async def acquire(self) -> GroupState:
        """Wait, for as long as it takes, until this process is the coordinator; the state it starts from.

        Raises:
            ConfigError: the state in the broker is that of another number of partitions.
            BrokerError: the connection or the channel is gone.
        """
        channel = self._channel = await self._connection.open_channel()
        ready = await self._declare()
        channel = self._channel
        await channel.select_confirms()
        if ready == 0:
            # Either nobody ever had this group, or somebody holds its state, which then counts for more.
            await self._publish(self.current)
        await channel.consume(self._queue, self._delivered, on_cancel=self._cancelled)
        await self._wait_until(lambda: bool(self._held))
        await asyncio.sleep(_SETTLE)
        while True:
            self._check()
            best = self._highest()
            if len(best.state.partitions) != self._partitions and not self._resizable:
                raise ConfigError(
                    f"group {self._group!r}: `partitions` is {self._partitions}, but the group's state in"
                    f" the broker (queue {self._queue}) was made for {len(best.state.partitions)}; set it"
                    " back, or stop the group, let its members finish, and delete that queue"
                )
            self.current = StateMessage(best.epoch + 1, 0, self._instance, best.state)
            await self._publish(self.current)
            try:
                async with asyncio.timeout(_CONFIRM):
                    await self._wait_until(self._holds_current)
            except TimeoutError:
                raise CallTimeout(
                    f"the state did not come back from the broker within {_CONFIRM:g} s"
                ) from None
            if self._highest().rank == self.current.rank:
                break
        self._check()
        self._acquired = True
        self._settle()
        return self.current.state

    async def save(self, state: GroupState) -> None:
        """Save the state; on return the broker has confirmed it.

        Raises LeaseLost when this process is not the coordinator any more, BrokerError when nobody can say.
        """
        self._check()
        self.current = StateMessage(self.epoch, self.current.version + 1, self._instance, state)
        await self._publish(self.current)
        self._check()

    async def wait_lost(self) -> BrokerError:
        """Wait until the lease is lost, and why."""
        channel = self._channel
        assert channel is not None
        closed = asyncio.ensure_future(channel.wait_closed())
        try:
            await asyncio.wait([closed, self._lost], return_when=asyncio.FIRST_COMPLETED)
            return self._lost.result() if self._lost.done() else closed.result()
        finally:
            closed.cancel()

    def _check(self) -> None:
        if self._lost.done():
            raise LeaseLost(str(self._lost.result()))

    async def _declare(self) -> int:
        arguments = arguments_of(self.queue_type) | {"x-single-active-consumer": True}
        assert self._channel is not None
        try:
            found = await self._channel.declare_queue(self._queue, durable=True, arguments=arguments)
        except ChannelClosed as error:
            if error.code != _PRECONDITION_FAILED:
                raise
            _log.warning(
                "the state queue stands with other arguments; it is used as it is", reason=error.text
            )
            self._channel = await self._connection.open_channel()
            found = await self._channel.declare_queue(self._queue, passive=True)
        return found.messages

    async def _publish(self, message: StateMessage) -> None:
        """Publish and wait for the confirm; the time in which the broker takes no messages does not count."""
        assert self._channel is not None
        properties = Basic.Properties(content_type="application/json", delivery_mode=2)
        body = msgspec.json.encode(message)
        publishing = asyncio.ensure_future(
            self._channel.publish("", self._queue, body, properties, mandatory=True, timeout=None)
        )
        try:
            blocked = True
            while not publishing.done() and (blocked or self._connection.blocked is not None):
                blocked = self._connection.blocked is not None
                await asyncio.wait([publishing], timeout=_CONFIRM)
            if not publishing.done():
                raise CallTimeout(f"the state was not confirmed by the broker within {_CONFIRM:g} s")
            publishing.result()
        finally:
            publishing.cancel()

    async def _wait_until(self, delivered: Callable[[], bool]) -> None:
        lost = asyncio.ensure_future(self.wait_lost())
        try:
            while not delivered():
                self._news.clear()
                news = asyncio.ensure_future(self._news.wait())
                try:
                    await asyncio.wait([lost, news], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    news.cancel()
                if lost.done():
                    raise lost.result()
        finally:
            lost.cancel()

    def _holds_current(self) -> bool:
        return any(held.message.rank == self.current.rank for held in self._held)

    def _delivered(self, buf: bytes, spans: list[Span]) -> None:
        assert self._channel is not None
        for span in spans:
            try:
                message = _DECODE(decode(buf, span).body)
            except (msgspec.DecodeError, ProtocolError) as error:
                self._unreadable(buf, span, error)
                continue
            self._held.append(_Held(span[0], message))
        if self._acquired:
            self._settle()
        self._news.set()

    def _unreadable(self, buf: bytes, span: Span, error: Exception) -> None:
        """Drop what is no state; leave a state that another version wrote to those who can read it."""
        assert self._channel is not None
        with suppress(msgspec.DecodeError, ProtocolError):
            rank = _RANK(decode(buf, span).body)
            self._lose(
                LeaseLost(
                    f"the group's state (epoch {rank.epoch}) can't be read by this version of PartyMQ"
                    f" ({error}): another version wrote it and has to go on"
                )
            )
            return
        _log.error("a message in the state queue is no state; dropped", reason=str(error))
        self._channel.ack(span[0])

    def _settle(self) -> None:
        """Ack what counts for less than the state in force, once that one is in our hands."""
        assert self._channel is not None
        if any(held.message.epoch > self.epoch for held in self._held):
            self._lose(LeaseLost("another coordinator's term has begun"))
            return
        if not self._holds_current():
            return
        for held in self._held:
            if held.message.rank < self.current.rank:
                self._channel.ack(held.tag)
        self._held = [held for held in self._held if held.message.rank >= self.current.rank]

    def _highest(self) -> StateMessage:
        return max((held.message for held in self._held), key=lambda message: message.rank)

    def _cancelled(self) -> None:
        self._lose(LeaseLost(f"the state queue {self._queue} was deleted or moved"))

    def _lose(self, error: BrokerError) -> None:
        if not self._lost.done():
            self._lost.set_result(error)
