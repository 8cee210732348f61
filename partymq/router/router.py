"""The router of one group, as its coordinator sees it: commands in, events out, one `run` a term."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from random import random
from time import monotonic
from typing import Any, Final

from partymq.amqp.connection import Connection
from partymq.amqp.url import BrokerUrl
from partymq.errors import BrokerError
from partymq.log import get_logger
from partymq.router.core import Core
from partymq.router.events import (
    Depth,
    FetchBlocked,
    Fetched,
    RouterEvent,
    SessionEnded,
    SessionStarted,
)
from partymq.router.leftover import Leftovers, Wanted
from partymq.router.session import Session
from partymq.router.settings import RouterSettings
from partymq.router.statistics import Statistics

Prepare = Callable[[], Awaitable[None]]

_YOUNG: Final = 5.0
"""Seconds below which a session that fails is one that died young."""
_NOT_STARTED: Final = "nothing is consumed from the source: there is no member to route to"

_log = get_logger(__name__)


class Router:
    """Takes messages from the source to the queues of the members, in order, losing none.

    All commands are synchronous, may be given at any time (with a session, without, before `run`), take
    effect at once, and are idempotent. A router is for one `run`: another term needs another router.

    Args:
        settings: of the group.
        source_url: the broker; the router makes a connection of its own for consuming.
        on_event: gets every event, see `events`.
        prepare: awaited before each session; makes sure that the exchange and the source stand. What it
            raises (BrokerError) counts as a session that could not be begun.
        statistics: to go on counting in.
    """

    def __init__(
        self,
        settings: RouterSettings,
        source_url: BrokerUrl,
        on_event: Callable[[RouterEvent], None],
        *,
        prepare: Prepare | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        self._settings = settings
        self._url = source_url
        self._on_event = on_event
        self._prepare = prepare
        self._core = Core(settings, statistics or Statistics(), monotonic())
        self._connection: Connection | None = None
        self._started = False
        self._finishing = False
        self._at_rest = False
        self._changed = asyncio.Event()
        self._current: Session | None = None
        self._leftovers: Leftovers | None = None
        self._wanted: Wanted | None = None
        self._sessions = 0
        self._session = 0
        self._why: str | None = _NOT_STARTED

    def __repr__(self) -> str:
        state = f"session {self._session}" if self._session else f"no session: {self._why}"
        return f"<Router of {self._settings.group!r}: {state}, {self._core!r}>"

    async def run(self, connection: Connection) -> None:
        """Route until `finish`, publishing on `connection`, whose loss is the end.

        Sessions begin after `start`, and again (with backoff) whenever one fails. Cancelled, it ends in good
        order too, within some seconds more than `settle_timeout`.

        Raises ConnectionLost when `connection` is lost.
        """
        if self._connection is not None:
            raise RuntimeError("a router is for one run")
        self._connection = connection
        undo = connection.on_lost(lambda _: self._changed.set())
        failures = 0
        try:
            while not self._finishing and connection.error is None:
                self._changed.clear()
                if not self._started:
                    self._why = _NOT_STARTED
                    self._at_rest = True
                    await self._changed.wait()
                    self._at_rest = False
                    continue
                began = monotonic()
                session = await self._one_session(connection)
                if session.expected or monotonic() - began >= _YOUNG:
                    failures = 0
                else:
                    failures += 1
                if failures:
                    await self._back_off(failures)
                if not self._finishing:
                    await session.wait_released()
        finally:
            undo()
        if connection.error is not None:
            raise connection.error

    # Commands ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Consume the source from now on."""
        self._started = True
        self._changed.set()

    def stop(self) -> None:
        """Consume nothing any more, in good order: what is routed is confirmed and acked, all else goes back.

        Gives up a fetch too.
        """
        self._started = False
        self._want(None)
        if self._current is not None:
            self._current.finish("stopped")

    def finish(self) -> None:
        """`stop`, after which `run` returns (when all is acked, at most `settle_timeout` later)."""
        self._finishing = True
        self._changed.set()
        self.stop()

    def pause(self, hostname: str) -> None:
        """Send the member nothing more; hold what is meant for it."""
        self._core.traffic.pause(hostname)

    def resume(self, hostname: str) -> None:
        """Send the member what is held for it, and go on."""
        self._core.traffic.resume(hostname, monotonic())
        self._flush()

    def give_way(self, hostname: str) -> None:
        """Send a paused member what is held for it now; it stays paused. Locked partitions stay held."""
        self._core.traffic.give_way(hostname, monotonic())
        self._flush()

    def assign(self, owners: Mapping[int, str], locked: bool = False) -> None:
        """Route partitions to these owners from now on, with what is held for them.

        `locked`: hold them until `unlock` or until they are assigned without. Otherwise they are unlocked.
        """
        self._core.traffic.assign(owners, locked, monotonic())
        self._flush()

    def lock(self, partitions: Iterable[int]) -> None:
        """Hold what comes for these partitions until they are assigned or unlocked."""
        self._core.traffic.lock(partitions, monotonic())
        self._flush()

    def unlock(self, partitions: Iterable[int]) -> None:
        """What is held for these partitions may go on to their owners."""
        self._core.traffic.unlock(partitions, monotonic())
        self._flush()

    def forget(self, hostname: str) -> None:
        """The member is no more; what it still owns has no owner."""
        self._core.traffic.forget(hostname, monotonic())

    def fetch(self, number: int, queue: str) -> None:
        """Fetch a leftover back, in order, to the owners of its partitions, ahead of what is held for them.

        Ends with the event `Fetched`. One under way with another number is given up first (what of it is
        not acked goes back to its queue, in order); with the same number nothing changes. Survives sessions.
        """
        self._want(Wanted(number, queue))

    def cancel_fetch(self, number: int) -> None:
        """Give the fetch up, if it is under way."""
        if self._wanted is not None and self._wanted.number == number:
            self._want(None)

    def observe(self, hostname: str, depth: Depth, now: float) -> None:
        """What the broker said of the member's queue at `now` (monotonic seconds): sets its window.

        The more often it is told, the better the window fits: four times a second is good.
        """
        self._core.traffic.observe(hostname, depth, now)
        self._flush()

    # Questions ---------------------------------------------------------------------------------------

    @property
    def session(self) -> int:
        """Number of the present session, 0 = none. Another number means: begun anew in between."""
        return 0 if self._core.frozen else self._session

    def settled(self, hostname: str) -> bool:
        """Whether every publish of this session to the member is confirmed, or nothing is routed at all.

        While the member is paused nothing more is sent to it, so that this stays true. False between the
        sessions: what an ended one has sent may still be on its way.
        """
        if self.session == 0:
            return self._at_rest
        lane = self._core.traffic.table.lanes.get(hostname)
        return lane is None or lane.outstanding == 0

    def published(self, hostname: str) -> int:
        """Messages sent to the member in this session, leftovers included."""
        lane = self._core.traffic.table.lanes.get(hostname)
        return 0 if lane is None else lane.sent - lane.began

    def idle_since(self, partition: int) -> float:
        """Monotonic seconds at which a partition's last message was sent; if none, the router was made."""
        return self._core.outlet.last[partition]

    def unready(self) -> str | None:
        """Why nothing is routed now, in words; None where all is well."""
        connection = self._connection
        if self._session and connection is not None and connection.blocked is not None:
            return f"the broker takes no messages at the moment: {connection.blocked}"
        return self._why

    @property
    def statistics(self) -> Statistics:
        """The counters."""
        return self._core.statistics

    def held_by_partition(self) -> dict[int, int]:
        """Messages held now, by partition; without those that hold none."""
        return self._core.traffic.held_by_partition()

    def add_to(self, described: dict[str, Any]) -> None:
        """Add what the router knows to the coordinator's description of the group.

        To each of `members`: held, outstanding (sent, not confirmed), window (messages; None = no limit),
        rate (messages a second that it gets through, as estimated). To each of `partitions`: held, messages.
        At the top: `router` with session, unready, held_messages, held_bytes, fetching.
        """
        core = self._core
        held = core.traffic.held_by_partition()
        for member in described["members"]:
            lane = core.traffic.table.lanes.get(member["hostname"])
            window = lane.window if lane is not None else None
            member["held"] = len(lane.held) + len(lane.leftover) if lane is not None else 0
            member["outstanding"] = lane.outstanding if lane is not None else 0
            member["window"] = window.size if window is not None else None
            member["rate"] = round(window.rate, 1) if window is not None else None
        for partition in described["partitions"]:
            number = partition["partition"]
            partition["held"] = held.get(number, 0)
            partition["messages"] = core.outlet.counts[number]
        described["router"] = {
            "session": self.session,
            "unready": self.unready(),
            "held_messages": core.statistics.held_messages,
            "held_bytes": core.statistics.held_bytes,
            "fetching": self._wanted.queue if self._wanted is not None else None,
        }

    # Inside ------------------------------------------------------------------------------------------

    async def _one_session(self, connection: Connection) -> Session:
        core = self._core
        session = self._current = Session(core, self._settings, connection, self._url, self._tell)
        leftovers = self._leftovers = Leftovers(
            session, core, self._settings, self._url, self._fetched, self._fetch_blocked
        )
        leftovers.want(self._wanted)
        if self._why in (None, _NOT_STARTED):
            self._why = "a session is about to begin"
        fetching: asyncio.Task[None] | None = None
        try:
            if self._prepare is not None:
                await self._prepare()
            if await session.begin():
                self._began()
                fetching = asyncio.create_task(leftovers.run(), name="leftovers")
                await session.over()
        except BrokerError as error:
            session.fail(str(error))
        finally:
            leftovers.close()
            try:
                await _together(session.end(), fetching, self._settings.settle_timeout)
            finally:
                self._ended(session)
        return session

    def _began(self) -> None:
        self._sessions += 1
        self._session = self._sessions
        self._why = None
        self._core.statistics.sessions += 1
        _log.info("router session begins", group=self._settings.group, session=self._session)
        self._on_event(SessionStarted(self._session))

    def _ended(self, session: Session) -> None:
        number, self._session = self._session, 0
        self._current = self._leftovers = None
        self._core.end()
        self._why = why = session.why or "ended"
        if not session.expected:
            self._core.statistics.session_failures += 1
            _log.warning("router session failed", group=self._settings.group, session=number, reason=why)
        if number:
            self._on_event(SessionEnded(number, why, session.expected))

    async def _back_off(self, failures: int) -> None:
        settings = self._settings
        longest = min(settings.longest_backoff, settings.backoff * 2 ** min(failures - 1, 20))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest * (0.5 + random() / 2)):
                while not self._finishing and self._started:
                    await self._changed.wait()
                    self._changed.clear()
                    if self._connection is not None and self._connection.error is not None:
                        return

    def _want(self, wanted: Wanted | None) -> None:
        self._wanted = wanted
        if self._leftovers is not None:
            self._leftovers.want(wanted)

    def _fetched(self, number: int) -> None:
        if self._wanted is not None and self._wanted.number == number:
            self._wanted = None
            self._on_event(Fetched(number))

    def _fetch_blocked(self, number: int, reason: str) -> None:
        self._on_event(FetchBlocked(number, reason))

    def _flush(self) -> None:
        if self._current is not None:
            self._current.flush()

    def _tell(self) -> None:
        events = self._core.events
        if events:
            self._core.events = []
            for event in events:
                self._on_event(event)


async def _together(ending: Awaitable[None], fetching: asyncio.Task[None] | None, seconds: float) -> None:
    """End a session and its fetch at the same time; the fetch gets some seconds more than `seconds`."""
    try:
        await ending
        if fetching is not None:
            await asyncio.wait([fetching], timeout=seconds)
    finally:
        if fetching is not None:
            fetching.cancel()
            await asyncio.wait([fetching])
            if not fetching.cancelled() and (error := fetching.exception()) is not None:
                raise error
