"""Fetching leftovers back: what a member left in its queue goes to the new owners of its partitions.

A fetch has a connection of its own, so that it goes on while the source is not read, and a publish channel of
its own. It consumes the queue alone (a second consumer would get some of the messages), acks what is
confirmed, and ends when the queue is empty and all is acked. Given up before, it lets what is on its way be
confirmed, and closes: the rest goes back to the queue, in order, and nothing of it is repeated.
"""

import asyncio
import contextlib
from collections.abc import Callable
from time import monotonic
from typing import Final, NamedTuple

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection, connect
from partymq.amqp.content import Span
from partymq.amqp.url import BrokerUrl
from partymq.errors import BrokerError, ChannelClosed
from partymq.log import get_logger
from partymq.router.alone import CLOSE_TIMEOUT, Alone, closed, consume_alone, lock
from partymq.router.core import Core
from partymq.router.session import COALESCE, Session
from partymq.router.settings import RouterSettings
from partymq.router.stream import Stream

_POLL: Final = 0.02
_RETRY: Final = 0.25
_LONGEST_RETRY: Final = 2.0
"""Seconds."""
_NOT_FOUND: Final = 404

_log = get_logger(__name__)


class Wanted(NamedTuple):
    """A leftover to be fetched."""

    number: int
    queue: str


class Leftovers:
    """Fetches one leftover after the other, for the length of a session.

    Args:
        session: the session.
        on_fetched: gets the number of one that is done.
        on_blocked: gets the number of one that can't be consumed now, and why; once for each.
    """

    def __init__(
        self,
        session: Session,
        core: Core,
        settings: RouterSettings,
        url: BrokerUrl,
        on_fetched: Callable[[int], None],
        on_blocked: Callable[[int, str], None],
    ) -> None:
        self._session = session
        self._core = core
        self._settings = settings
        self._url = url
        self._on_fetched = on_fetched
        self._on_blocked = on_blocked
        self._wanted: Wanted | None = None
        self._changed = asyncio.Event()
        self._closing = False

    def want(self, wanted: Wanted | None) -> None:
        """Fetch this one from now on, or none. Another one under way is given up."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    def close(self) -> None:
        """Give up what is under way, in order; then `run` returns."""
        self._closing = True
        self._changed.set()

    async def run(self) -> None:
        """Fetch what is wanted, until `close`."""
        failures, told = 0, -1
        while not self._closing:
            self._changed.clear()
            wanted = self._wanted
            if wanted is None:
                await self._changed.wait()
                continue
            fetch = _Fetch(wanted.queue, self._session, self._core, self._settings, self._url)
            try:
                done = await fetch.run(self._changed)
                failures = 0
            except BrokerError as error:
                done = False
                failures += 1
                _log.info("a leftover can't be fetched now", queue=wanted.queue, reason=str(error))
                if told != wanted.number:
                    told = wanted.number
                    self._on_blocked(wanted.number, str(error))
            if done and self._wanted == wanted:
                self._wanted = None
                self._on_fetched(wanted.number)
            elif failures:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(_LONGEST_RETRY, _RETRY * 2 ** min(failures, 10))):
                        await self._changed.wait()


class _Fetch:
    """One try at one queue."""

    def __init__(
        self, queue: str, session: Session, core: Core, settings: RouterSettings, url: BrokerUrl
    ) -> None:
        self._queue = queue
        self._session = session
        self._core = core
        self._settings = settings
        self._url = url
        self._delivered = 0
        self._gone = False
        self._ending = False

    async def run(self, given_up: asyncio.Event) -> bool:
        """Fetch until the queue is empty (True) or `given_up` (False). Raises BrokerError."""
        session = self._session
        source = await connect(self._url, name=f"partymq {self._settings.group} leftover", coalesce=COALESCE)
        publish: Channel | None = None
        alone: Alone | None = None
        stream: Stream | None = None
        try:
            publish = await session.connection.open_channel()
            stream = self._begin(publish, source)
            alone = await self._consume(publish, source, stream)
            if alone is None:
                return True  # The queue is gone, and what was in it.
            consume = alone.channel
            while not given_up.is_set():
                if stream.is_settled and not self._gone and await self._is_empty(alone, stream):
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POLL):
                        await given_up.wait()
                if self._gone and stream.is_settled:
                    return True
                if consume.error is not None:
                    raise consume.error
        finally:
            await self._end(source, publish, alone, stream)
        if given_up.is_set():
            return False
        return await self._is_really_empty()

    def _begin(self, publish: Channel, source: Connection) -> Stream:
        core, connection = self._core, self._session.connection
        return core.begin_leftover(
            publish.number, connection.username, connection.frame_max, source.frame_max
        )

    async def _consume(self, publish: Channel, source: Connection, stream: Stream) -> Alone | None:
        session = self._session

        def publish_closed(error: BrokerError) -> None:
            if not self._ending:
                session.fail(f"publishing a leftover: {error}")

        def write_acks(acks: bytes) -> None:
            if not self._gone and source.error is None and publish.number in source.channel_numbers:
                source.write(acks)

        await publish.select_confirms(
            lambda confirms: session.confirmed(stream, confirms),
            lambda message: session.returned(stream, message),
        )
        publish.on_closed(publish_closed)
        session.attach(stream, source, write_acks)
        try:
            await lock(source, self._queue)
            return await consume_alone(
                source, publish.number, self._queue, self._settings.fetch_prefetch, self._take, self._deleted
            )
        except ChannelClosed as error:
            if error.code == _NOT_FOUND:
                return None
            raise

    def _take(self, buf: bytes, spans: list[Span]) -> None:
        self._delivered += len(spans)
        self._core.fetched(buf, spans, monotonic())
        self._session.flush()

    def _deleted(self) -> None:
        # What is in our hands is all that is left of it, and goes on its way.
        self._gone = True

    async def _is_empty(self, alone: Alone, stream: Stream) -> bool:
        """Whether the queue has nothing for us any more.

        Asked twice: a delivery that had left the queue before the first answer has arrived by the second.
        """
        before = self._delivered
        for _ in range(2):
            if not await alone.has_nothing_ready():
                return False
        return self._delivered == before and stream.is_settled

    async def _end(
        self, source: Connection, publish: Channel | None, alone: Alone | None, stream: Stream | None
    ) -> None:
        session = self._session
        try:
            if stream is not None:
                self._core.drop_leftover(monotonic())
                session.detach(stream)
                session.flush()
            if stream is not None and publish is not None and alone is not None:
                await self._settle(stream, publish, alone.channel)
                if alone.channel.error is None:
                    source.write(stream.ledger.last_acks())
            self._ending = True
            if publish is not None:
                await closed(publish)
            if alone is not None:
                await alone.close()
            await source.close(CLOSE_TIMEOUT)
        finally:
            self._ending = True
            if publish is not None:
                publish.shut()
            source.abort()
            self._core.end_leftover()
            if stream is not None:
                session.forget(stream)

    async def _settle(self, stream: Stream, publish: Channel, consume: Channel) -> None:
        session = self._session
        while not await session.all_confirmed(stream, publish, consume):
            if self._core.frozen or consume.error is not None or session.connection.blocked is None:
                break
        if stream.ledger.outstanding:
            # What becomes of it is not known: it may only be sent again after a new beginning.
            session.fail("a leftover's messages were not confirmed")

    async def _is_really_empty(self) -> bool:
        """Whether nothing went back to the queue at the end: it would be fetched next."""
        connection = await connect(self._url, name=f"partymq {self._settings.group} leftover")
        try:
            channel = await connection.open_channel()
            return (await channel.declare_queue(self._queue, passive=True)).messages == 0
        except ChannelClosed as error:
            if error.code == _NOT_FOUND:
                return True
            raise
        finally:
            await connection.close(CLOSE_TIMEOUT)
