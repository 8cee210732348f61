"""One session of a router: its channels, and the bytes between them and the core, which decides.

A session is a publish channel on the coordinator's connection and a consume channel of the same number on the
source connection, so that content is copied with its channel number. It ends as a whole:

    route nothing more ─► wait for confirms ─► ack what is confirmed ─► close the publish channel
                              ─► close the consume channel, which gives back the rest in order

Two things keep others from having newer messages before the older ones are back: as long as the source
connection is there for the broker, nobody else is let near the source (`alone.lock`), and acknowledgements
have been carried out before their channel is closed (`Alone.close`).
"""

import asyncio
import contextlib
from collections.abc import Callable
from time import monotonic
from typing import Final

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection, connect
from partymq.amqp.content import Returned, Span
from partymq.amqp.queues import declare_missing
from partymq.amqp.url import BrokerUrl
from partymq.errors import BrokerError, CallTimeout, ChannelClosed
from partymq.log import get_logger
from partymq.router.alone import CLOSE_TIMEOUT, Alone, closed, consume_alone, lock
from partymq.router.core import Core
from partymq.router.settings import RouterSettings
from partymq.router.stream import Stream

COALESCE: Final = 0.001
_TICK: Final = 0.05
"""Both in seconds."""

_PUBLISHING: Final = "publishing"
_HELD: Final = "held"
"""Reasons to read nothing: nothing can be published, or too much is held."""

_BLOCKED_TIMEOUT: Final = 1.0
"""Seconds for confirms while the broker takes no publishes."""

_ELECTION: Final = 5.0
"""Seconds in which a quorum queue of a cluster has a leader again."""

_LOOK: Final = 0.5
"""Seconds between two looks for messages held for too long."""

_log = get_logger(__name__)


class Session:
    """One session. `begin`, `over`, `end`, in this order, each once.

    Args:
        core: frozen; routes for the session.
        settings: the router's.
        connection: where messages are published.
        url: where they are consumed.
        after: called whenever the core may have something to tell.
    """

    def __init__(
        self,
        core: Core,
        settings: RouterSettings,
        connection: Connection,
        url: BrokerUrl,
        after: Callable[[], None],
    ) -> None:
        self.connection = connection
        self.why: str | None = None
        self.expected = False
        self.publish: Channel | None = None
        self._core = core
        self._settings = settings
        self._url = url
        self._after = after
        self._source: Connection | None = None
        self._alone: Alone | None = None
        self._stream: Stream | None = None
        self._over = asyncio.Event()
        self._confirmed = asyncio.Event()
        self._undo: list[Callable[[], None]] = []
        self._gates: dict[Stream, Connection] = {}
        self._ack_writers: dict[Stream, Callable[[bytes], None]] = {}

    async def begin(self) -> bool:
        """Consume the source from now on; False where the session was over before.

        Raises BrokerError, told in a way that says what to do.
        """
        beginning = asyncio.ensure_future(self._begin())
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait([beginning, over], return_when=asyncio.FIRST_COMPLETED)
            if not self._over.is_set():
                await beginning
            return not self._over.is_set()
        finally:
            over.cancel()
            beginning.cancel()
            await asyncio.gather(beginning, return_exceptions=True)

    async def _begin(self) -> None:
        settings, core = self._settings, self._core
        name = f"partymq {settings.group} source"
        source = self._source = await connect(self._url, name=name, coalesce=COALESCE)
        if settings.key.missing == "reject":
            await self._declare_dead_letter_queue(source)
        publish = self.publish = await self.connection.open_channel()
        stream = self._stream = core.begin(
            publish.number, self.connection.username, self.connection.frame_max, source.frame_max, monotonic()
        )
        publish.on_closed(lambda error: self.fail(f"publishing: {error}"))
        await publish.select_confirms(
            lambda confirms: self.confirmed(stream, confirms), lambda message: self.returned(stream, message)
        )
        self._undo.append(self.connection.on_blocked(lambda _: self.flush()))
        self._undo.append(self.connection.on_writable(self._writable))
        self.attach(stream, source, self._ack)
        try:
            await lock(source, settings.source_queue)
            alone = await consume_alone(
                source,
                publish.number,
                settings.source_queue,
                settings.prefetch,
                self._delivered,
                lambda: self.fail(f"source queue {settings.source_queue!r} was deleted"),
                doubt=_ELECTION if len(self._url.nodes()) > 1 else 0.0,
            )
        except ChannelClosed as error:
            raise BrokerError(_explained(f"source queue {settings.source_queue!r}", error)) from error
        self._alone = alone
        alone.channel.on_closed(lambda error: self.fail(f"consuming: {error}"))
        self.flush()

    async def over(self) -> None:
        """Wait until the session has to end, keeping time meanwhile."""
        core = self._core
        next_look = 0.0
        while not self._over.is_set():
            now = monotonic()
            for stream, acks in core.tick(now):
                self._ack_writers[stream](acks)
            self.flush()
            if now >= next_look:
                next_look = now + _LOOK
                if core.oldest(now) > self._settings.max_hold:
                    self.finish(f"a message was held for {self._settings.max_hold:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self._over.wait()

    def finish(self, why: str) -> None:
        """The session has to end, as was to be expected."""
        if not self._over.is_set():
            self.why, self.expected = why, True
            self._core.freeze()
            self._over.set()

    def fail(self, why: str) -> None:
        """The session has to end, because something went wrong."""
        self._core.freeze()
        self._confirmed.set()
        if not self._over.is_set():
            self.why = why
            self._over.set()
            self._after()

    async def end(self) -> None:
        """Ack what is confirmed (waiting for what is on its way), and close. Bounded; raises nothing.

        A publish channel that the broker did not close in time is left to `wait_released`.
        """
        self.finish("the end was asked for")
        for undo in self._undo:
            undo()
        source, alone, publish = self._source, self._alone, self.publish
        if self._stream is not None:
            self.detach(self._stream)
        try:
            if publish is not None and alone is not None and self._stream is not None:
                await self.all_confirmed(self._stream, publish, alone.channel)
                self._ack(self._stream.ledger.last_acks())
            if publish is not None and self.connection.blocked is None:
                await closed(publish)
            if alone is not None:
                await alone.close()
            if source is not None:
                await source.close(CLOSE_TIMEOUT)
        finally:
            if publish is not None:
                publish.shut()
            if source is not None:
                source.abort()

    async def wait_released(self) -> None:
        """Wait until nothing of the session can be published any more. Raises ConnectionLost."""
        if self.publish is None:
            return
        while self.connection.error is None:
            try:
                await self.publish.close(CLOSE_TIMEOUT)
                return
            except CallTimeout:
                _log.info("waiting for the broker to close a channel", blocked=self.connection.blocked)
        raise self.connection.error

    # Shared with the fetching of leftovers --------------------------------------------------------------

    def attach(self, stream: Stream, connection: Connection, write_acks: Callable[[bytes], None]) -> None:
        """A stream comes in on a connection: it is read only while what it brings can be taken."""
        self._gates[stream] = connection
        self._ack_writers[stream] = write_acks

    def detach(self, stream: Stream) -> None:
        """The stream brings nothing more that counts."""
        connection = self._gates.pop(stream, None)
        if connection is not None:
            connection.resume_reading(_PUBLISHING)
            connection.resume_reading(_HELD)

    def forget(self, stream: Stream) -> None:
        """The stream's channels are closed."""
        self._ack_writers.pop(stream, None)

    def flush(self) -> None:
        """Write what the core has to say, and see to the rest of the consequences."""
        core, outlet, connection = self._core, self._core.outlet, self.connection
        while True:
            now = monotonic()
            for piece in outlet.take(now):
                connection.write(piece)
            outlet.choked = connection.write_buffer_full
            if not outlet.more or outlet.choked:
                break
            core.go_on(now)
        stuck = outlet.choked or connection.blocked is not None
        for stream, gated in self._gates.items():
            full = stream.bytes >= self._settings.hold_bytes
            (gated.pause_reading if stuck else gated.resume_reading)(_PUBLISHING)
            (gated.pause_reading if full else gated.resume_reading)(_HELD)
        if core.fault is not None:
            self.finish_with_fault(core.fault)
        self._after()

    def finish_with_fault(self, fault: str) -> None:
        """A message came back or was refused."""
        if not self._over.is_set():
            self.why = fault
            self._over.set()

    def confirmed(self, stream: Stream, confirms: list[tuple[int, bool, bool]]) -> None:
        """The broker's answers for a stream."""
        core = self._core
        if acks := core.confirms(stream, confirms, monotonic()):
            self._ack_writers[stream](acks)
        self._confirmed.set()
        if core.fault is not None:
            self.flush()

    def returned(self, stream: Stream, message: Returned) -> None:
        """A message that came back, of a stream."""
        self._core.returned(stream, message.routing_key, f"{message.code} {message.text}")
        self.flush()

    async def all_confirmed(self, stream: Stream, publish: Channel, consume: Channel) -> bool:
        """Wait until a stream's publishes are confirmed, while that is of use; at most `settle_timeout`."""
        seconds = self._settings.settle_timeout if self.connection.blocked is None else _BLOCKED_TIMEOUT
        try:
            async with asyncio.timeout(seconds):
                while stream.ledger.outstanding and publish.error is None and consume.error is None:
                    self._confirmed.clear()
                    await self._confirmed.wait()
        except TimeoutError:
            _log.warning("publishes were not confirmed in time", outstanding=stream.ledger.outstanding)
        return not stream.ledger.outstanding

    # Inside ------------------------------------------------------------------------------------------------

    async def _declare_dead_letter_queue(self, connection: Connection) -> None:
        queue = self._settings.dead_letter_queue
        try:
            await declare_missing(connection, queue)
        except ChannelClosed as error:
            raise BrokerError(_explained(f"dead-letter queue {queue!r}", error)) from error

    def _delivered(self, buf: bytes, spans: list[Span]) -> None:
        core, connection = self._core, self.connection
        now = monotonic()
        core.deliveries(buf, spans, now)
        for piece in core.outlet.take(now):
            connection.write(piece)
        if core.statistics.held_messages or core.fault is not None or connection.write_buffer_full:
            self.flush()

    def _ack(self, acks: bytes) -> None:
        alone, source = self._alone, self._source
        if acks and alone is not None and alone.channel.error is None and source is not None:
            source.write(acks)

    def _writable(self) -> None:
        self._core.outlet.choked = False
        self._core.go_on(monotonic())
        self.flush()


def _explained(what: str, error: ChannelClosed) -> str:
    match error.code:
        case 404:
            return f"{what} does not exist"
        case 403 if error.in_exclusive_use:
            return f"{what} is consumed by somebody else; PartyMQ has to be alone"
        case 405 if "alone" in error.text:
            return f"{what} is consumed by somebody else: another router, which may hang"
        case 405:
            return f"{what} is exclusive to another connection"
        case _:
            return f"{what}: {error}"
