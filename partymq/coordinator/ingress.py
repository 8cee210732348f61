"""Filling a pull group from a source queue: ingress `router`.

One process at a time routes, the others stand by (`router_lock`). Besides, a router is alone at its source
(`partymq.router.alone.lock`).

Order over a resize. A session routes with one layout. When it is asked to leave that, or a message comes back
because the old partitions are not bound any more, it ends: what is confirmed is acked, all else goes back to
the source, in order. The next one begins with the layout that is read then. So of each key the first ones are
in the old layout, all later ones in the new one, as nobody goes back: a process takes no older layout than
it had, and reads its first one while nobody is changing it.
"""

import asyncio
import random
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection, connect
from partymq.config.pull import PullGroupSettings
from partymq.config.settings import BrokerSettings
from partymq.coordinator.layout_store import locked, read_layout_since
from partymq.coordinator.pull_topology import declare_again
from partymq.coordinator.reconnect import Backoff, again_and_again
from partymq.coordinator.router_lock import RouterLock
from partymq.coordinator.settings import ingress_settings
from partymq.coordinator.topology import prepare_source
from partymq.errors import BrokerError, ChannelClosed, ConfigError
from partymq.group.layout import GroupLayout
from partymq.log import get_logger
from partymq.router.core import Core
from partymq.router.session import COALESCE, Session
from partymq.router.statistics import Statistics

_LONGEST_WAIT: Final = 5.0
_NOT_FOUND: Final = 404

_log = get_logger(__name__)


class Ingress:
    """The router of a pull group as one process has it. `run` it; the other methods may be called meanwhile.

    Args:
        broker: where the broker is.
        settings: the group's. Its number of partitions and the key are read from the broker.
        instance: this process's name, for people.
        statistics: to count in.
    """

    def __init__(
        self,
        broker: BrokerSettings,
        settings: PullGroupSettings,
        *,
        instance: str,
        statistics: Statistics | None = None,
    ) -> None:
        self._broker = broker
        self._settings = settings
        self._group = settings.name
        self._instance = instance
        self.statistics = statistics or Statistics()
        self._layout: GroupLayout | None = None
        """The newest that was seen."""
        self._connection: Connection | None = None
        """On which the lock is held."""
        self._lock: RouterLock | None = None
        self._lock_lost = False
        self._stale = False
        """The layout has to be read anew."""
        self._happened = asyncio.Event()
        self._session: Session | None = None
        self._number = 0
        self._routing = False
        self._trouble: str | None = "starting"

    def __repr__(self) -> str:
        doing = f"session {self._number}" if self._routing else "no session"
        return f"<Ingress of {self._group}: {doing}, unready: {self.unready()}>"

    async def run(self) -> None:
        """Route, or stand by for it, until cancelled; then end in good order: what is routed is confirmed and
        acked, all else goes back to the source, and another process routes.

        A broker that is away does not end it. Raises ConfigError where the group has another ingress.
        """
        await again_and_again(self._stand, longest=_LONGEST_WAIT, failed=self._failed)

    def unready(self) -> str | None:
        """Why nothing is routed now, in words; None where all is well, or another process has to do it."""
        connection = self._connection
        if self._routing and connection is not None and connection.blocked is not None:
            return f"the broker takes no messages at the moment: {connection.blocked}"
        return self._trouble

    def describe(self) -> dict[str, Any]:
        """What can be said of it: `source`, and `router` with what it is doing here."""
        return {
            "source": {"queue": self._settings.source_queue},
            "router": {
                "instance": self._instance,
                "routes": self._connection is not None,
                "session": self._number if self._routing else 0,
                "layout": self._layout.layout if self._layout is not None else None,
                "unready": self.unready(),
            },
        }

    # The lock -----------------------------------------------------------------------------------------

    async def _stand(self) -> None:
        name = f"partymq {self._group} router {self._instance}"
        connection = await connect(self._broker.url, name=name, coalesce=COALESCE)
        try:
            self._lock_lost = False
            lock = self._lock = RouterLock(connection, self._group, self._lose_lock, self._leave)
            await lock.acquire(self._stand_by)
            self._connection = connection
            connection.on_lost(lambda _: self._happened.set())
            await self._route(connection, lock)
        finally:
            self._connection = self._lock = None
            await connection.close()

    def _stand_by(self) -> None:
        self._trouble = None

    def _lose_lock(self) -> None:
        self._lock_lost = True
        self._happened.set()
        if self._session is not None:
            self._session.fail("the queue that is the router's lock was deleted")

    def _leave(self, layout: int) -> None:
        """Somebody asks to leave a layout."""
        self._stale = True
        self._happened.set()
        known = self._layout
        if self._session is not None and known is not None and known.layout <= layout:
            self._session.finish("the group's layout has changed")
        elif self._lock is not None:
            self._lock.left()

    # Sessions -----------------------------------------------------------------------------------------

    async def _route(self, connection: Connection, lock: RouterLock) -> None:
        """One session after the other. Raises the BrokerError that is the end."""
        backoff = Backoff(_LONGEST_WAIT)
        async with locked(connection, self._group):
            layout = await self._read(connection)
        missing = 0
        while True:
            while self._stale:
                self._stale = False
                layout = await self._read(connection)
            began, returns = monotonic(), self.statistics.returns
            session = await self._one_session(connection, layout)
            if connection.error is not None:
                raise connection.error
            if self._lock_lost:
                raise BrokerError(session.why)
            await session.wait_released()
            lock.left()
            before, layout = layout, await self._read(connection)
            if _routes(layout) != _routes(before):
                _log.info("the group's layout has changed", group=self._group, **layout.describe())
                missing = 0
                continue
            if session.expected:
                continue
            pause = backoff.pause(monotonic() - began, random.random())
            if self.statistics.returns > returns or _is_gone(session.publish):
                missing += 1
                self._missing(session.why, pause)
                if missing > 1:
                    await self._repair(connection, layout)
            else:
                missing = 0
            await self._rest(pause)

    async def _rest(self, seconds: float) -> None:
        """Until something happens, at most so long."""
        self._happened.clear()
        if not (self._stale or self._lock_lost):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._happened.wait()

    async def _one_session(self, connection: Connection, layout: GroupLayout) -> Session:
        settings = ingress_settings(self._broker, self._settings, layout)
        core = Core(settings, self.statistics, monotonic())
        lanes = {partition: layout.routing_key(partition) for partition in range(layout.partitions)}
        core.traffic.assign(lanes, False, monotonic())
        session = self._session = Session(core, settings, connection, self._broker.url, core.events.clear)
        try:
            await prepare_source(connection, self._settings)
            if not (self._lock_lost or self._stale) and await session.begin():
                self._began(layout)
                await session.over()
        except BrokerError as error:
            session.fail(str(error))
        finally:
            try:
                await session.end()
            finally:
                core.end()
                self._ended(session)
        return session

    def _began(self, layout: GroupLayout) -> None:
        self._number += 1
        self._routing = True
        self._trouble = None
        self.statistics.sessions += 1
        _log.info("router session begins", group=self._group, session=self._number, layout=layout.layout)

    def _ended(self, session: Session) -> None:
        self._session = None
        self._routing = False
        self._trouble = session.why
        if not session.expected:
            self.statistics.session_failures += 1
            _log.warning("router session failed", group=self._group, session=self._number, reason=session.why)

    def _failed(self, error: BrokerError, pause: float) -> None:
        self._trouble = str(error)
        _log.warning(
            "routing came to an end", group=self._group, reason=str(error), retry_seconds=round(pause, 2)
        )

    # The layout ---------------------------------------------------------------------------------------

    async def _read(self, connection: Connection) -> GroupLayout:
        """The group's layout, never an older one than before. Raises BrokerError, ConfigError."""
        found = await read_layout_since(connection, self._group, self._layout)
        if found is None:
            raise BrokerError(
                f"there is no pull group {self._group!r} any more: create it again, or take it out of the"
                " settings"
            )
        if found.ingress != "router":
            raise ConfigError(
                f"group {self._group}: ingress = 'router' is set here, but the group has ingress"
                f" {found.ingress!r}"
            )
        self._layout = found
        return found

    def _missing(self, why: str | None, pause: float) -> None:
        self._trouble = (
            f"{why}: a queue, a binding or an exchange of the group is gone, though it has not been resized;"
            " where messages keep coming back it is declared again"
        )
        _log.error(
            "a message came back", group=self._group, reason=self._trouble, retry_seconds=round(pause, 2)
        )

    async def _repair(self, connection: Connection, layout: GroupLayout) -> None:
        try:
            await declare_again(connection, self._group, layout)
        except ConfigError as error:
            self._trouble = str(error)
            _log.error("a partition can't be declared again", group=self._group, reason=str(error))


def _routes(layout: GroupLayout) -> tuple[object, ...]:
    """What of a layout decides where a message goes."""
    return layout.layout, layout.partitions, layout.key


def _is_gone(publish: Channel | None) -> bool:
    """Whether the broker has closed the channel because the exchange is not there."""
    error = publish.error if publish is not None else None
    return isinstance(error, ChannelClosed) and error.code == _NOT_FOUND
