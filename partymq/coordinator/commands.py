"""Commands to the coordinator and their answers, both ends.

A command goes to the group's coordinator queue, which only the coordinator consumes; the answer comes to the
control queue of the front end, exclusive to its connection. Neither is persistent: a front end sends a
command that got no answer again, under the same request id, and gives up in bounded time.

The coordinator queue is of the type of the group's state: a classic one is away with its node, and as long as
that is, nobody could coordinate. A quorum queue is the reason for the confirms: where the first command on a
channel comes while the queue has no leader, RabbitMQ (3.10) refuses it, and all others on that channel for as
long as the node of the old leader is away (measured). Another channel is needed then.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Final
from uuid import uuid4

import msgspec
from pamqp.commands import Basic

from partymq.amqp.channel import Channel
from partymq.amqp.codec import Confirm
from partymq.amqp.connection import Connection
from partymq.amqp.content import Span, decode, encode_content, publish_frame
from partymq.amqp.queues import declare_or_take
from partymq.errors import (
    BrokerError,
    ChannelClosed,
    ConnectionLost,
    Nacked,
    NoCoordinator,
    PartyMQError,
    ProtocolError,
)
from partymq.group.names import control_queue, coordinator_queue
from partymq.group.wire import (
    Assignment,
    Call,
    Command,
    Ready,
    Reply,
    decode_assignment,
    decode_command,
    decode_reply,
    encode,
)
from partymq.log import get_logger

ASSIGNMENT: Final = "assignment"
"""Type (a property) of the messages in a control queue that are assignments."""
_LOCKED: Final = 405
_RETRY: Final = 0.1
_SHORTEST: Final = 0.01
"""Seconds for which nothing is sent again."""

_log = get_logger(__name__)

AnswerTo = Callable[[Reply], None]
OnCommand = Callable[[Command, AnswerTo], None]


async def serve_commands(
    connection: Connection, group: str, on_command: OnCommand, *, queue_type: str
) -> Channel:
    """Consume the coordinator queue; returns the channel, whose end is the end of the service.

    While an earlier coordinator still consumes the queue, this one waits, or gets nothing. `on_command` gets
    a command and the function that answers it, which may be called at any later time. Raises BrokerError.
    """
    queue = coordinator_queue(group)
    channel = await connection.open_channel()

    def delivered(buf: bytes, spans: list[Span]) -> None:
        for span in spans:
            try:
                message = decode(buf, span)
                if not message.body:
                    continue  # from `probe`
                command = decode_command(message.body)
            except (msgspec.DecodeError, ProtocolError) as error:
                _log.warning("a message in the coordinator queue is no command; dropped", reason=str(error))
                continue
            reply_to = message.properties.reply_to or ""

            def answer(reply: Reply, reply_to: str = reply_to) -> None:
                _send(connection, channel, reply_to, encode(reply), Basic.Properties())

            on_command(command, answer)

    while True:
        channel, alone = await _declare(connection, channel, queue, queue_type)
        try:
            # A queue that is deleted ends only its consumer.
            await channel.consume(queue, delivered, exclusive=not alone, no_ack=True, on_cancel=channel.shut)
            return channel
        except ChannelClosed as error:
            if error.code != _LOCKED and not error.in_exclusive_use:
                raise
        await asyncio.sleep(_RETRY)
        channel = await connection.open_channel()


def probe(connection: Connection, channel: Channel, group: str) -> None:
    """Publish something of no consequence: only to those who publish the broker says that it takes nothing.

    `channel`: from `serve_commands`, which drops it.
    """
    _send(connection, channel, coordinator_queue(group), b"", Basic.Properties())


class CommandClient:
    """The front end's side. `start` it on a connection; it ends with that connection.

    Args:
        connection: may be shared with other things; what comes from the coordinator comes here.
        group: the group's name.
        timeout: seconds that a call may take; half of it after the first try it is sent again.
        queue_type: of the coordinator queue; None: it is there already.
        on_assignment: called with the assignments that come without being asked for, of pull groups.
        speak_on: another connection to send on; a broker that takes no messages stops reading from those that
            send, and would not see acks of the first one either.

    Attributes:
        control: name of the control queue; it is there for as long as the connection.
        speaking: the connection that it sends on.
    """

    def __init__(
        self,
        connection: Connection,
        group: str,
        *,
        timeout: float,
        queue_type: str | None,
        on_assignment: Callable[[Assignment], None] | None = None,
        speak_on: Connection | None = None,
    ) -> None:
        self._connection = connection
        self.speaking = speak_on or connection
        self._queue = coordinator_queue(group)
        self.control = control_queue(group, uuid4().hex)
        self._timeout = timeout
        # What nobody takes in time must not be found there by a later coordinator.
        self._properties = Basic.Properties(reply_to=self.control, expiration=str(int(timeout * 1000)))
        self._queue_type = queue_type
        self._on_assignment = on_assignment
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._channel: Channel | None = None
        self._voice: Channel | None = None
        self._heard = False
        """Whether the broker has taken anything on it."""
        self._finding_voice = asyncio.Lock()

    @property
    def blocked(self) -> str | None:
        """The broker's reason for taking no commands now; None where it does."""
        return self.speaking.blocked

    async def start(self) -> None:
        """Declare the queues and listen for answers. Raises BrokerError."""
        channel = await self._connection.open_channel()
        if self._queue_type is not None:
            channel, _ = await _declare(self._connection, channel, self._queue, self._queue_type)
        await channel.declare_queue(self.control, exclusive=True, auto_delete=True)
        await channel.consume(self.control, self._delivered, no_ack=True, on_cancel=channel.shut)
        channel.on_closed(self._closed)
        self.speaking.on_blocked(self._blocked)
        await self._speak()
        self._channel = channel

    async def call(self, request_id: str, call: Call) -> Reply:
        """Ask the coordinator.

        Raises NoCoordinator when nobody answered in time, ConnectionLost when the connection is gone.
        """
        channel = self._channel
        if channel is None or channel.error is not None:
            raise ConnectionLost(f"no connection to the broker: {channel and channel.error}")
        blocked = self.speaking.blocked
        if blocked is not None:
            raise _taking_nothing(blocked)
        body = encode(Command(request_id, call))
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = answer
        # A `ready` that is sent again could count for the next incarnation of a pod that died meanwhile.
        once = isinstance(call, Ready)
        patience = self._timeout if once else self._timeout / 2
        until = monotonic() + self._timeout
        try:
            while (left := until - monotonic()) > _SHORTEST:
                voice = await self._speak()
                _send(self.speaking, voice, self._queue, body, self._properties)
                closed = asyncio.ensure_future(voice.wait_closed())
                waiting: set[asyncio.Future[Any]] = {answer, closed}
                try:
                    await asyncio.wait(
                        waiting, timeout=min(left, patience), return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    closed.cancel()
                if answer.done():
                    return answer.result()
                if once:
                    break
                if voice.error is not None:
                    if not isinstance(voice.error, Nacked):
                        raise _lost(voice.error)
                    await asyncio.wait([answer], timeout=_RETRY)
        finally:
            del self._waiting[request_id]
            answer.cancel()
        raise NoCoordinator(f"no coordinator answered within {self._timeout:g} s; try again")

    def tell(self, call: Call) -> None:
        """Send a call to which there is no answer, or another than a `Reply`."""
        if self._voice is not None:
            _send(self.speaking, self._voice, self._queue, encode(Command("", call)), self._properties)

    async def wait_closed(self) -> BrokerError:
        """Wait until it is of no use any more."""
        assert self._channel is not None
        return await self._channel.wait_closed()

    async def _speak(self) -> Channel:
        """The channel to send on; another one where the broker has refused to take something on it. Raises
        ConnectionLost."""
        async with self._finding_voice:
            voice = self._voice
            if voice is None or voice.error is not None:
                try:
                    voice = await self.speaking.open_channel()
                    await voice.select_confirms(partial(self._confirmed, voice))
                except BrokerError as error:
                    raise _lost(error) from error
                self._voice, self._heard = voice, False
            return voice

    def _confirmed(self, voice: Channel, confirms: list[Confirm]) -> None:
        """What the broker has taken once on a channel it goes on taking."""
        if self._heard:
            return
        self._heard = confirms[0][2]
        if not self._heard:
            voice.shut(Nacked("the broker did not take over a command"))

    def _blocked(self, reason: str | None) -> None:
        """What was just sent may not get through before long: its callers had better ask elsewhere."""
        if reason is not None:
            self._fail(_taking_nothing(reason))

    def _closed(self, error: BrokerError) -> None:
        self._fail(_lost(error))

    def _fail(self, error: PartyMQError) -> None:
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error)

    def _delivered(self, buf: bytes, spans: list[Span]) -> None:
        for span in spans:
            try:
                message = decode(buf, span)
                if message.properties.message_type == ASSIGNMENT:
                    if self._on_assignment is not None:
                        self._on_assignment(decode_assignment(message.body))
                    continue
                reply = decode_reply(message.body)
            except (msgspec.DecodeError, ProtocolError) as error:
                _log.warning("a message in the control queue is no reply; dropped", reason=str(error))
                continue
            answer = self._waiting.get(reply.request_id)
            if answer is not None and not answer.done():
                answer.set_result(reply)


async def _declare(
    connection: Connection, channel: Channel, queue: str, queue_type: str
) -> tuple[Channel, bool]:
    """Declare the coordinator queue; on this channel if that is possible. And whether it is one of which the
    broker serves only one consumer, which is the only way to be alone with a quorum queue. One of the other
    type is used as it is."""
    alone = queue_type == "quorum"
    arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True} if alone else {}
    channel, refused = await declare_or_take(connection, channel, queue, arguments)
    return channel, alone == (refused is None)


def _lost(error: BrokerError) -> ConnectionLost:
    lost = ConnectionLost(f"{error}; try again")
    lost.__cause__ = error
    return lost


def _taking_nothing(reason: str) -> NoCoordinator:
    return NoCoordinator(f"the broker takes no messages at the moment ({reason}); try again")


def _send(connection: Connection, channel: Channel, queue: str, body: bytes, properties: Any) -> None:
    """Publish without waiting for anything; a lost connection is noticed elsewhere."""
    if channel.error is not None:
        return
    content = encode_content(channel.number, body, properties, connection.frame_max)
    connection.write(publish_frame(channel.number, "", queue) + content)
