"""A connection to the broker: connecting and logging in, channels, and handing on what every read brings.

For each read (`data_received`), in this order: messages that came back, confirms (once for a channel),
deliveries (once for a consumer), all other methods. An exception in one of these callbacks closes the
connection at once, with that exception as the error's cause: what is not settled is redelivered.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from pamqp import base
from pamqp.commands import Connection as Method

from partymq.amqp.channel import Channel
from partymq.amqp.codec import Got, Parser
from partymq.amqp.dialing import first_that_answers
from partymq.amqp.login import Login
from partymq.amqp.methods import encode_method, make
from partymq.amqp.transport import Transport
from partymq.amqp.url import BrokerUrl
from partymq.errors import BrokerError, ConnectionLost, LoginRefused, ProtocolError

_LINGER: Final = 2.0
"""Seconds in which the last bytes of a connection that the broker closes may still be written."""


async def connect(url: BrokerUrl, *, name: str, timeout: float = 10.0, coalesce: float = 0.0) -> "Connection":
    """Connects and logs in, to the first node of a cluster that answers.

    Args:
        name: what the broker shows as the connection's name.
        timeout: seconds for all of it (the URL's `connection_timeout` counts before it).
        coalesce: seconds (0.001) for which reads are put together at most while the connection is busy
            (some thousand messages a second); 0 = never. Adds up to that much latency then, and none else.

    Raises ConfigError (TLS files), LoginRefused (credentials, virtual host), ConnectionLost (everything
    else, timeout included) and ProtocolError (no AMQP 0-9-1 there).
    """

    async def attempt(node: BrokerUrl, address: str) -> Connection:
        connection = Connection(node, name, coalesce)
        try:
            await connection.establish(address)
        except BaseException:
            connection.abort()
            raise
        return connection

    return await first_that_answers(url, url.connection_timeout or timeout, attempt)


class Connection:
    """One connection; made by `connect`. All callbacks are called synchronously.

    Attributes:
        name: what the broker shows as its name.
        username: who is logged in.
        frame_max: bytes of a frame at most, both ways.
        channel_max: the highest channel number.
        heartbeat: seconds, 0 = none.
        server_properties: what the broker says of itself (product, version, capabilities …).
        blocked: the broker's reason for taking no publishes now (an alarm); None when it does.
        error: why the connection is gone; None while it is alive.
        parser: for the channels.
    """

    def __init__(self, url: BrokerUrl, name: str, coalesce: float = 0.0) -> None:
        self.name = name
        self.username = url.username
        self.frame_max = 131_072
        self.channel_max = 0
        self.heartbeat = 0
        self.server_properties: dict[str, Any] = {}
        self.blocked: str | None = None
        self.error: BrokerError | None = None
        self.parser = Parser()
        self._url = url
        self._transport = Transport(self._received, self._lost, coalesce=coalesce)
        self._channels: dict[int, Channel] = {}
        self._login: Login | None = None
        self._closing: asyncio.Event | None = None
        self._ended = asyncio.Event()
        self._on_blocked: list[Callable[[str | None], None]] = []
        self._on_writable: list[Callable[[], None]] = []
        self._on_lost: list[Callable[[BrokerError], None]] = []
        self._transport.on_writable = self._writable

    def __repr__(self) -> str:
        state = f"lost: {self.error}" if self.error else f"{len(self._channels)} channels"
        if self.blocked is not None:
            state += f", blocked: {self.blocked}"
        return f"<Connection {self.name} to {self._url.where}: {state}>"

    # State ----------------------------------------------------------------------------------------

    @property
    def channel_numbers(self) -> frozenset[int]:
        """The channel numbers in use, also those that are being closed."""
        return frozenset(self._channels)

    @property
    def write_buffer_full(self) -> bool:
        """Whether 4 MB or more wait to be written (until they are 1 MB again: see `on_writable`)."""
        return self._transport.write_buffer_full

    @property
    def bytes_waiting(self) -> int:
        """Bytes that wait to be written."""
        return self._transport.bytes_waiting

    async def wait_lost(self) -> BrokerError:
        """Waits until the connection is gone, and answers why. Any number may wait."""
        await self._ended.wait()
        assert self.error is not None
        return self.error

    def on_lost(self, callback: Callable[[BrokerError], None]) -> Callable[[], None]:
        """Calls `callback(error)` when the connection is gone. Answers how to undo that."""
        return _listen(self._on_lost, callback)

    def on_blocked(self, callback: Callable[[str | None], None]) -> Callable[[], None]:
        """Calls `callback(reason)` when the broker stops taking publishes, `callback(None)` when it takes
        them again. Answers how to undo that."""
        return _listen(self._on_blocked, callback)

    def on_writable(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback()` when the write buffer was full and is not any more. Answers how to undo that."""
        return _listen(self._on_writable, callback)

    # Reading and writing --------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Sends whole frames; without effect once the connection is gone."""
        self._transport.write(data)

    @contextmanager
    def one_write(self) -> Iterator[None]:
        """What is written in this block is sent at its end, in one system call. Not to be awaited in."""
        self._transport.cork()
        try:
            yield
        finally:
            self._transport.uncork()

    def pause_reading(self, reason: str) -> None:
        """Takes nothing from the broker until every reason to pause is taken back; missed heartbeats do
        not count meanwhile. Idempotent for each reason."""
        self._transport.pause_reading(reason)

    def resume_reading(self, reason: str) -> None:
        """Takes a reason to pause back."""
        self._transport.resume_reading(reason)

    # Channels and the end -------------------------------------------------------------------------

    async def open_channel(self, number: int | None = None, *, timeout: float = 10.0) -> Channel:
        """Opens a channel: of this number, or of the lowest one that is free.

        Raises ValueError for a number that is in use or not allowed, BrokerError when all are in use,
        ChannelClosed, ConnectionLost, CallTimeout.
        """
        if self.error is not None:
            raise self.error
        if self._closing is not None:
            raise ConnectionLost(f"{self.name} is being closed by ourselves")
        if number is None:
            number = next((free for free in range(1, self.channel_max + 1) if free not in self._channels), 0)
            if not number:
                raise BrokerError(f"{self.name}: all {self.channel_max} channels are in use")
        elif not 1 <= number <= self.channel_max or number in self._channels:
            raise ValueError(f"channel {number}: allowed are free ones of 1 to {self.channel_max}")
        channel = self._channels[number] = Channel(self, number)
        await channel.open(timeout)
        return channel

    def expect(self, prefetch: int) -> None:
        """That many more (or less) messages may come before they are acknowledged."""
        self._transport.window += prefetch

    def release(self, channel: Channel) -> None:
        """Forgets a channel that is closed on both sides."""
        if self._channels.get(channel.number) is channel:
            del self._channels[channel.number]

    async def close(self, timeout: float = 5.0) -> None:
        """Closes the connection; everything written before is still taken by the broker.

        Takes `timeout` seconds at most (then it is cut) and never raises. From the call on, no callback of
        a channel is called any more.
        """
        if self.error is not None:
            return
        try:
            async with asyncio.timeout(timeout):
                if self._closing is None:
                    self._closing = asyncio.Event()
                    self._transport.resume_reading_for_good()
                    method = make(Method.Close, reply_code=200, reply_text="bye")
                    self.write(encode_method(0, method))
                await self._closing.wait()
                await self._transport.wait_closed()
        except TimeoutError:
            pass
        finally:
            self.abort(self._by_us())

    def abort(self, error: BrokerError | None = None) -> None:
        """Cuts the connection at once, without a word to the broker."""
        self._lost(error or ConnectionLost(f"{self.name} was cut by ourselves"))

    def _by_us(self) -> ConnectionLost:
        return ConnectionLost(f"{self.name} was closed by ourselves")

    # Connecting -----------------------------------------------------------------------------------

    async def establish(self, address: str) -> None:
        """Connects to this address of the host and logs in; for `connect`, which bounds it."""
        url = self._url
        context = url.ssl_context()
        self._login = Login(url, self.name, self.write)
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: self._transport,
                address,
                url.port,
                ssl=context,
                server_hostname=(url.server_name or url.host) if context else None,
            )
        except (OSError, UnicodeError) as error:
            what = "TLS" if context and "ssl" in type(error).__module__ else "connecting"
            raise ConnectionLost(f"{url.where}: {what} failed: {error}") from error
        agreed = await self._login.run()
        self._login = None
        self.server_properties = agreed.server_properties
        self.channel_max = agreed.channel_max
        self.frame_max = self.parser.frame_max = agreed.frame_max
        self.heartbeat = agreed.heartbeat
        self._transport.start_heartbeats(self.heartbeat)

    def _send(self, method: base.Frame) -> None:
        self.write(encode_method(0, method))

    # From the transport ---------------------------------------------------------------------------

    def _received(self, data: bytes) -> int:
        if self.error is not None:
            return 0
        batch = self.parser.feed(data)
        count = 0
        try:
            if self._closing is None:
                for number, message in batch.returns:
                    if self.error is None and number in self._channels:
                        self._channels[number].returned(message)
                for number, confirms in batch.confirms.items():
                    count += len(confirms)
                    if self.error is None and number in self._channels:
                        self._channels[number].confirmed(confirms)
                for consumer, spans in batch.deliveries:
                    count += len(spans)
                    if consumer.active:
                        consumer.on_deliveries(batch.buf, spans)
            for number, frame in batch.frames:
                if self.error is None:
                    self._frame(number, frame)
        except Exception as error:
            self._fail(error)
        if batch.error is not None:
            self._fail(batch.error)
        return count

    def _frame(self, number: int, frame: base.Frame | Got) -> None:
        if number:
            # A channel that is not known has been closed: what still comes on it is late.
            if number in self._channels and self._closing is None:
                self._channels[number].handle(frame)
        elif isinstance(frame, Method.Close):
            self._closed_by_broker(frame)
        elif isinstance(frame, Method.CloseOk) and self._closing is not None:
            self._transport.close(self._by_us())
            self._closing.set()
        elif isinstance(frame, Method.Blocked | Method.Unblocked):
            self.blocked = frame.reason if isinstance(frame, Method.Blocked) else None
            for callback in tuple(self._on_blocked):
                callback(self.blocked)
        elif self._login is not None and isinstance(frame, base.Frame):
            self._login.heard(frame)
        elif self._closing is None:
            name = frame.name if isinstance(frame, base.Frame) else "a message"
            raise ProtocolError(f"{self.name}: {name} on channel 0, which nobody asked for")

    def _closed_by_broker(self, frame: Method.Close) -> None:
        told = f"the broker closed the connection: {frame.reply_code} {frame.reply_text}"
        refused = self._login is not None and frame.reply_code in (403, 530)
        error = LoginRefused(f"{self._url.masked()}: {told}") if refused else ConnectionLost(told)
        self._send(Method.CloseOk())
        self._transport.close(error)
        asyncio.get_running_loop().call_later(_LINGER, self._transport.abort, error)
        self._lost(error)

    def _fail(self, error: Exception) -> None:
        """Something that must not happen has happened: nothing more goes out or in."""
        if isinstance(error, BrokerError):
            self.abort(error)
            return
        wrapped = ConnectionLost(f"{self.name} was cut by ourselves, because a callback failed: {error!r}")
        wrapped.__cause__ = error
        self.abort(wrapped)

    def _lost(self, error: BrokerError) -> None:
        """Nothing more is read or written; everybody is told."""
        if self.error is not None:
            return
        self.error = error
        if not self._transport.closing:
            self._transport.abort(error)
        if self._login is not None:
            self._login.heard(error)
        if self._closing is not None:
            self._closing.set()
        channels = tuple(self._channels.values())
        self._channels.clear()
        for channel in channels:
            self._tell(channel.end, error)
            channel.release()
        self._ended.set()
        for callback in tuple(self._on_lost):
            self._tell(callback, error)

    def _tell(self, callback: Callable[[BrokerError], None], error: BrokerError) -> None:
        """The connection can't be closed by what this raises, as it is closed already: the loop gets it."""
        try:
            callback(error)
        except Exception as raised:
            context = {"message": f"{self.name}: a callback failed at the end", "exception": raised}
            asyncio.get_running_loop().call_exception_handler(context)

    def _writable(self) -> None:
        try:
            for callback in tuple(self._on_writable):
                callback()
        except Exception as error:
            self._fail(error)


_CallbackT = TypeVar("_CallbackT")


def _listen(listeners: list[_CallbackT], callback: _CallbackT) -> Callable[[], None]:
    listeners.append(callback)

    def undo() -> None:
        if callback in listeners:
            listeners.remove(callback)

    return undo
