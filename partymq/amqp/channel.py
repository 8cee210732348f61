"""One channel: calls that wait for their answer, deliveries and confirms that are handed on at once.

Answers come in the order of the calls, so a call does not wait for the one before it. Every call has a
timeout in seconds, and raises ChannelClosed or ConnectionLost when the channel or connection is gone, and
CallTimeout when no answer came. A caller that is cancelled, or times out, leaves the channel in order: the
late answer is swallowed, and what it brings (a consumer, a message) is given back to the broker.

Callbacks are called synchronously while a read is being handled; what one raises closes the connection.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pamqp import base
from pamqp.commands import Basic, Confirm
from pamqp.commands import Channel as Method

from partymq.amqp import codec, content
from partymq.amqp.calls import Calls
from partymq.amqp.content import Message, Returned, Span
from partymq.amqp.methods import encode_method, make, reason_of
from partymq.amqp.publishing import Publishing
from partymq.amqp.topology import Arguments, Topology
from partymq.errors import BrokerError, CallTimeout, ChannelClosed

if TYPE_CHECKING:
    from partymq.amqp.connection import Connection

_ACCESS_REFUSED: Final = 403
_ReplyT = TypeVar("_ReplyT")
OnConfirms = Callable[[list[codec.Confirm]], None]
OnReturn = Callable[[Returned], None]


@dataclass(slots=True)
class _Consuming:
    consumer: codec.Consumer
    no_ack: bool
    on_cancel: Callable[[], None] | None
    prefetch: int


class Channel(Topology):
    """A channel of a connection; made by `Connection.open_channel`.

    Attributes:
        number: the channel's number on its connection.
        error: why the channel can't be used any more; None while it can.
    """

    def __init__(self, connection: "Connection", number: int) -> None:
        self.number = number
        self.error: BrokerError | None = None
        self._connection = connection
        self._calls = Calls()
        self._consuming: dict[str, _Consuming] = {}
        self._tags = 0
        self._prefetch = 0
        self._confirming = False
        self._publishing: Publishing | None = None
        self._on_confirms: OnConfirms | None = None
        self._on_return: OnReturn | None = None
        self._on_closed: list[Callable[[BrokerError], None]] = []
        self._ended = asyncio.Event()
        self._released = asyncio.Event()

    def __repr__(self) -> str:
        state = f"closed: {self.error}" if self.error else f"{len(self._consuming)} consumers"
        return f"<Channel {self.number} of {self._connection.name}: {state}>"

    # Consuming ------------------------------------------------------------------------------------

    async def qos(self, prefetch: int, *, timeout: float = 10.0) -> None:
        """Unacknowledged messages at most for each consumer started after this; 0 = no limit."""
        await self._call(make(Basic.Qos, prefetch_count=prefetch), Basic.QosOk, timeout)
        self._prefetch = prefetch

    async def consume(
        self,
        queue: str,
        on_deliveries: codec.OnDeliveries,
        *,
        exclusive: bool = False,
        no_ack: bool = False,
        arguments: Arguments | None = None,
        on_cancel: Callable[[], None] | None = None,
        tag: str = "",
        timeout: float = 10.0,
    ) -> str:
        """Starts a consumer; answers its tag.

        `on_deliveries(buf, spans)` is called once for every read that brings it messages, perhaps even
        before this call has returned, and, after `cancel`, until the broker has confirmed that.
        `on_cancel()` is called when the broker cancels the consumer (the queue is gone).
        """
        self._check()
        if not tag:
            self._tags += 1
            tag = f"c{self._tags}"
        consumer = codec.Consumer(self.number, tag.encode(), on_deliveries)
        self._connection.parser.add_consumer(consumer)
        prefetch = 0 if no_ack else self._prefetch
        self._consuming[tag] = _Consuming(consumer, no_ack, on_cancel, prefetch)
        self._connection.expect(prefetch)
        method = make(
            Basic.Consume,
            queue=queue,
            consumer_tag=tag,
            exclusive=exclusive,
            no_ack=no_ack,
            arguments=dict(arguments or {}),
        )
        try:
            await self._call(method, Basic.ConsumeOk, timeout, self._unwanted_consumer)
        except ValueError:
            self._forget_consumer(tag)
            raise
        except BaseException:
            if tag in self._consuming:
                self._give_back_deliveries(self._consuming[tag])
            raise
        return tag

    async def cancel(self, tag: str, *, timeout: float = 10.0) -> None:
        """Ends a consumer; without effect where there is none of that tag (any more)."""
        if tag in self._consuming:
            await self._call(make(Basic.Cancel, consumer_tag=tag), Basic.CancelOk, timeout)

    async def get(self, queue: str, *, no_ack: bool = False, timeout: float = 10.0) -> Message | None:
        """One message of a queue, None where it has none ready.

        Raises ProtocolError where its properties can't be decoded (it stays unacknowledged then).
        """
        late = None if no_ack else self._unwanted_message
        method = make(Basic.Get, queue=queue, no_ack=no_ack)
        got = await self._ask(method, (codec.Got, Basic.GetEmpty), timeout, late)
        return content.decode(got.buf, got.span) if isinstance(got, codec.Got) else None

    def ack(self, tag: int, multiple: bool = False) -> None:
        """Acknowledges a delivery, or all up to it."""
        self._check()
        self._connection.write(content.ack_frame(self.number, tag, multiple))

    def ack_many(self, tags: Iterable[int]) -> None:
        """Acknowledges single deliveries, in one write."""
        self._check()
        self._connection.write(content.ack_frames(self.number, tags))

    async def acks_done(self, queue: str, *, timeout: float = 10.0) -> None:
        """Returns when the broker has carried out all acknowledgements of messages of that queue. The channel
        is only to be closed then: it gets a consumer that gets nothing.

        A quorum queue carries out 32 at a time; those behind them are forgotten when the channel is closed
        (measured, RabbitMQ 3.10), and their messages come again. A further consumer is taken in behind them.
        A classic queue may refuse one beside an exclusive one, which ends the channel; it forgets nothing.
        """
        try:
            await self.consume(queue, lambda _buf, _spans: None, timeout=timeout)
        except ChannelClosed as error:
            if error.code != _ACCESS_REFUSED:
                raise

    def nack(self, tag: int, multiple: bool = False, requeue: bool = True) -> None:
        """Gives a delivery back, or all up to it."""
        self._check()
        self._connection.write(content.nack_frame(self.number, tag, multiple, requeue))

    # Publishing -----------------------------------------------------------------------------------

    async def select_confirms(
        self,
        on_confirms: OnConfirms | None = None,
        on_return: OnReturn | None = None,
        *,
        timeout: float = 10.0,
    ) -> None:
        """Has every publish from here on confirmed; their sequence numbers begin with 1.

        With `on_confirms` (raw mode) whoever writes Publish frames counts them and gets
        `(sequence number, multiple, is_ack)`, all of a read at once and in stream order; `on_return` is
        called before the confirms that follow the returned message. Without, use `publish`.
        """
        self._on_confirms = on_confirms
        self._on_return = on_return
        self._confirming = True
        if on_confirms is None:
            self._publishing = Publishing()
        await self._call(Confirm.Select(), Confirm.SelectOk, timeout)

    async def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: Basic.Properties | None = None,
        *,
        mandatory: bool = False,
        timeout: float | None = 10.0,
    ) -> None:
        """Publishes a message and waits until the broker has taken it over (None: however long it takes).

        Needs `select_confirms()` before, not in raw mode (else RuntimeError). Raises Unroutable (only
        with `mandatory`), Nacked, and ValueError where the message can't be encoded. After CallTimeout
        or a cancellation it is not known whether the broker has it.
        """
        self._check()
        if self._publishing is None:
            raise RuntimeError("publish() needs select_confirms() without on_confirms")
        raw = content.publish_frame(self.number, exchange, routing_key, mandatory)
        raw += content.encode_content(self.number, body, properties, self._connection.frame_max)
        future = self._publishing.sent(exchange, routing_key, body, mandatory)
        self._connection.write(raw)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            blocked = self._connection.blocked
            told = f" (it blocks publishers: {blocked})" if blocked is not None else ""
            raise CallTimeout(
                f"{self._where()}: a message to exchange {exchange!r} was not confirmed within"
                f" {timeout:g} s{told}"
            ) from None

    # The channel's life ---------------------------------------------------------------------------

    def shut(self, why: BrokerError | None = None) -> None:
        """Closes the channel without waiting: no callback is called any more, and what was delivered and
        not acknowledged goes back to its queues, in order. Idempotent. `why`: its `error` from now on."""
        if self.error is None:
            self._connection.write(encode_method(self.number, make(Method.Close, reply_code=200)))
            self.end(why or ChannelClosed(200, "closed by ourselves"))

    async def close(self, timeout: float = 10.0) -> None:
        """`shut`, and waits until the broker has done so. Raises CallTimeout; does not mind a channel or
        connection that is gone already."""
        self.shut()
        try:
            async with asyncio.timeout(timeout):
                await self._released.wait()
        except TimeoutError:
            raise CallTimeout(f"{self._where()} was not closed by the broker within {timeout:g} s") from None

    async def wait_closed(self) -> BrokerError:
        """Waits until the channel can't be used any more, and answers why. Any number may wait."""
        await self._ended.wait()
        assert self.error is not None
        return self.error

    def on_closed(self, callback: Callable[[BrokerError], None]) -> None:
        """Calls `callback(error)` at once when the channel can't be used any more, whatever the reason."""
        self._on_closed.append(callback)

    # Called by the connection ---------------------------------------------------------------------

    async def open(self, timeout: float) -> None:
        """Opens the channel in the broker."""
        await self._call(Method.Open(), Method.OpenOk, timeout, lambda _: self.shut())

    def handle(self, frame: base.Frame | codec.Got) -> None:
        """Takes a method from the broker. Raises ProtocolError where it is not allowed here."""
        if isinstance(frame, Method.Close):
            self._connection.write(encode_method(self.number, Method.CloseOk()))
            self.release()
            self.end(ChannelClosed(reason_of(frame), frame.reply_text))
        elif isinstance(frame, Method.CloseOk):
            if self.error is not None:
                self.release()
        elif self.error is not None:
            pass  # Sent before the broker knew that we close.
        elif isinstance(frame, Basic.Cancel):
            self._cancelled(frame)
        elif isinstance(frame, Method.Flow):
            self._connection.write(encode_method(self.number, make(Method.FlowOk, active=frame.active)))
        else:
            if isinstance(frame, Basic.CancelOk):
                self._forget_consumer(frame.consumer_tag or "")
            self._calls.answer(frame, self._where())

    def confirmed(self, confirms: list[codec.Confirm]) -> None:
        """Takes the confirms of a read."""
        if self.error is not None:
            return
        if self._on_confirms is not None:
            self._on_confirms(confirms)
        elif self._publishing is not None:
            self._publishing.confirmed(confirms)

    def returned(self, message: Returned) -> None:
        """Takes a message that came back."""
        if self.error is not None:
            return
        if self._publishing is not None and self._publishing.returned(message):
            return
        if self._on_return is not None:
            self._on_return(message)

    def end(self, error: BrokerError) -> None:
        """Makes the channel unusable; everybody who waits gets the error."""
        if self.error is not None:
            return
        self.error = error
        for tag in tuple(self._consuming):
            self._forget_consumer(tag)
        self._calls.end(error)
        if self._publishing is not None:
            self._publishing.end(error)
        self._ended.set()
        for callback in self._on_closed:
            callback(error)

    def release(self) -> None:
        """The broker knows nothing of this channel any more: its number is free."""
        self._released.set()
        self._connection.release(self)

    # Inside ---------------------------------------------------------------------------------------

    def _where(self) -> str:
        return f"channel {self.number} of {self._connection.name}"

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    async def _call(
        self,
        method: base.Frame,
        kind: type[_ReplyT],
        timeout: float,
        late: Callable[[_ReplyT], None] | None = None,
    ) -> _ReplyT:
        reply: _ReplyT = await self._ask(method, (kind,), timeout, late)
        return reply

    async def _ask(
        self,
        method: base.Frame,
        kinds: tuple[type, ...],
        timeout: float,
        late: Callable[[Any], None] | None,
    ) -> Any:
        self._check()
        raw = encode_method(self.number, method)
        call = self._calls.begin(kinds, late)
        self._connection.write(raw)
        try:
            async with asyncio.timeout(timeout):
                return await call.future
        except TimeoutError:
            call.give_up()
            raise CallTimeout(f"{self._where()}: no answer to {method.name} within {timeout:g} s") from None
        except asyncio.CancelledError:
            call.give_up()
            raise

    def _cancelled(self, frame: Basic.Cancel) -> None:
        tag = frame.consumer_tag or ""
        if not frame.nowait:
            self._connection.write(encode_method(self.number, make(Basic.CancelOk, consumer_tag=tag)))
        consuming = self._forget_consumer(tag)
        if consuming is not None and consuming.on_cancel is not None:
            consuming.on_cancel()

    def _forget_consumer(self, tag: str) -> _Consuming | None:
        consuming = self._consuming.pop(tag, None)
        if consuming is not None:
            self._connection.parser.remove_consumer(consuming.consumer)
            self._connection.expect(-consuming.prefetch)
        return consuming

    def _give_back_deliveries(self, consuming: _Consuming) -> None:
        def give_back(_: bytes, spans: list[Span]) -> None:
            if not consuming.no_ack:
                for tag, *_rest in spans:
                    self.nack(tag, requeue=True)

        consuming.consumer.on_deliveries = give_back
        consuming.on_cancel = None

    def _unwanted_consumer(self, ok: Basic.ConsumeOk) -> None:
        if self.error is None:
            self._calls.begin((Basic.CancelOk,), None).give_up()
            cancel = make(Basic.Cancel, consumer_tag=ok.consumer_tag)
            self._connection.write(encode_method(self.number, cancel))

    def _unwanted_message(self, got: codec.Got | Basic.GetEmpty) -> None:
        if isinstance(got, codec.Got) and self.error is None:
            self.nack(got.span[0], requeue=True)
