"""Being a member of a pull group: how a consumer comes to own partitions, and gives them up.

A member joins with `bind` and `ready`, which name its control queue; from then on the coordinator tells it
there what to consume, and it does so: see `Session`. When the connection is lost, everything is, and it joins
again on a new one.

With `coordinator="embedded"` it stands by to coordinate the group besides, on a connection of its own.

Two processes must not have the same name at the same time: the later one takes the other's place.
"""

import asyncio
import os
import random
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Final, Literal
from uuid import uuid4

from partymq.amqp.connection import Connection, connect
from partymq.amqp.url import BrokerUrl
from partymq.client.guard import Guard
from partymq.client.ownership import Owner
from partymq.client.session import Session, first_error
from partymq.client.silence import Silence
from partymq.coordinator.candidate import Candidate, heartbeat_for
from partymq.coordinator.commands import CommandClient
from partymq.coordinator.layout_store import read_layout
from partymq.coordinator.pull import PullSettings
from partymq.coordinator.pull_topology import agree
from partymq.coordinator.reconnect import Backoff
from partymq.errors import (
    BrokerError,
    ConfigError,
    ConnectionLost,
    GroupError,
    GroupFull,
    LoginRefused,
    NoCoordinator,
    UnknownMember,
)
from partymq.group.allowed import check_number, check_text
from partymq.group.layout import GroupLayout
from partymq.group.wire import Bind, MemberCall, Ready, Released, Status, Unbind
from partymq.log import get_logger

_CALL: Final = 2.0
"""Seconds for one call to the coordinator."""
_ASK_AGAIN: Final = 0.05
"""Seconds until the coordinator is asked again that could not be."""
_COALESCE: Final = 0.003
"""Seconds for which reads are put together while thousands of messages a second come in."""
_FIRST_WAIT: Final = 0.05
_LONGEST_WAIT: Final = 2.0
_LONGEST_NAME: Final = 255
_BEATS: Final = 3
"""Heartbeats in a session timeout."""
_PATIENCE: Final = 5.0
"""Seconds without a coordinator of which the log says nothing."""
_GROUP_LOOK: Final = 0.25
"""Seconds between two looks whether the group is there."""
_IDLE_LOOK: Final = 0.25
"""Seconds between two looks at what has become idle."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MembershipSettings:
    """How a consumer is a member of its group.

    Attributes:
        name: the member's, in its group. Who comes back under its name within `rejoin_grace` gets its
            partitions back. None: one that nobody had before.
        session_timeout: seconds without a word after which this member is taken for dead.
        rejoin_grace: seconds that the group waits for this member when it is gone, with its partitions,
            before others get them; 0 = none.
        coordinator: `embedded`: the members elect one of them; `server`: a `partymq serve` coordinates.

    Raises:
        ConfigError: one of them is not possible.
    """

    name: str | None = None
    session_timeout: float = 10.0
    rejoin_grace: float = 0.0
    coordinator: Literal["embedded", "server"] = "embedded"

    def __post_init__(self) -> None:
        check_number("session_timeout", self.session_timeout, 1, 3600, unit="s")
        check_number("rejoin_grace", self.rejoin_grace, 0, 86_400, unit="s")
        if self.coordinator not in ("embedded", "server"):
            raise ConfigError(f"coordinator = {self.coordinator!r}: allowed are embedded and server")
        if self.name is not None:
            check_text("name", self.name, _LONGEST_NAME)


class Membership:
    """An `Ownership`: membership of a pull group. It can be run again after it has ended.

    Args:
        url: of the broker.
        group: the group's name.
        settings: see there.
        wish: settings that the group must have; with them it is created by who comes first (see `agree`),
            without them too, unless a server coordinates.

    Attributes:
        name: the member's.
    """

    def __init__(
        self,
        url: str | BrokerUrl,
        group: str,
        settings: MembershipSettings | None = None,
        *,
        wish: Mapping[str, Any] | None = None,
    ) -> None:
        self._settings = settings or MembershipSettings()
        parsed = BrokerUrl.parse(url) if isinstance(url, str) else url
        self._url = replace(parsed, heartbeat=heartbeat_for(self._settings.session_timeout))
        self._group = group
        self._wish = wish or {}
        self.name = self._settings.name or f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self._leaving = asyncio.Event()
        self._session: Session | None = None
        self._candidate: Candidate | None = None

    def __repr__(self) -> str:
        doing = repr(self._session.duties) if self._session is not None else "not joined"
        return f"<Membership {self.name} of group {self._group}: {doing}>"

    @property
    def partitions(self) -> list[int]:
        """The partitions that are ours."""
        return self._session.duties.partitions if self._session is not None else []

    @property
    def joined(self) -> bool:
        """See `Ownership`."""
        return self._session is not None

    @property
    def coordinates(self) -> bool:
        """Whether this process is the group's coordinator now."""
        return self._candidate is not None and self._candidate.term is not None

    def number(self, number: int) -> None:
        """For one of several processes of one program: a name that was set becomes `NAME-NUMBER`. Call it
        before `run`. Raises ConfigError where that is too long."""
        if self._settings.name is not None:
            self._settings = replace(self._settings, name=f"{self._settings.name}-{number}")
            self.name = self._settings.name or self.name

    def leave(self) -> None:
        """See `Ownership`."""
        self._leaving.set()

    async def run(self, owner: Owner) -> None:
        """See `Ownership`. Raises ConfigError, too, when another process has taken the member's name, and
        what the owner's hooks raise."""
        self._leaving = asyncio.Event()  # For this event loop.
        try:
            async with asyncio.TaskGroup() as tasks:
                candidacy: list[asyncio.Task[None]] = []

                def stand(layout: GroupLayout) -> None:
                    if not candidacy and self._settings.coordinator == "embedded":
                        candidacy.append(tasks.create_task(self._stand(layout)))

                await self._belong(owner, stand)
                for task in candidacy:
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None

    async def _stand(self, layout: GroupLayout) -> None:
        own = self._settings
        settings = PullSettings(
            self._group, layout.partitions, own.session_timeout, own.rejoin_grace, layout.queue_type
        )
        self._candidate = Candidate(self._url, settings, self.name)
        try:
            await self._candidate.run()
        finally:
            self._candidate = None

    async def _belong(self, owner: Owner, stand: Callable[[GroupLayout], None]) -> None:
        """Join, again and again, until it is time to leave."""
        backoff = Backoff(_LONGEST_WAIT, _FIRST_WAIT)
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            while not leaving.done():
                began = monotonic()
                try:
                    await self._join_and_work(owner, stand, leaving)
                except LoginRefused:
                    raise
                except (BrokerError, GroupError) as error:
                    if leaving.done():
                        _log.warning("left without a word", group=self._group, reason=str(error))
                        return
                    pause = backoff.pause(monotonic() - began, random.random())
                    _log.warning(
                        "no member any more; joining again",
                        group=self._group,
                        reason=str(error),
                        retry_seconds=round(pause, 2),
                    )
                    await asyncio.wait([leaving], timeout=pause)
        finally:
            leaving.cancel()

    async def _join_and_work(
        self, owner: Owner, stand: Callable[[GroupLayout], None], leaving: "asyncio.Task[bool]"
    ) -> None:
        """One connection's life. Raises what ended it; returns when the group is left."""
        connection = await connect(
            self._url, name=f"partymq {self._group} member {self.name}", coalesce=_COALESCE
        )
        connection.on_lost(owner.lost)
        # What is sent to the coordinator goes another way: a broker short of memory stops reading from those
        # who send, and the acks of messages have to get through just then.
        voice: Connection | None = None
        working: asyncio.Task[None] | None = None
        beside: list[asyncio.Task[None]] = []
        gone = asyncio.create_task(connection.wait_lost())
        try:
            voice = await connect(self._url, name=f"partymq {self._group} member {self.name} commands")
            unlinked = voice.on_lost(connection.abort)
            layout = await self._agree(connection, leaving)
            if layout is None:
                return self._over(gone)
            stand(layout)
            session = self._new_session(connection, voice, layout, owner)
            await session.commands.start()
            beside.append(asyncio.create_task(session.watch()))
            working = asyncio.create_task(self._join(session))
            await asyncio.wait({working, leaving, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() or not working.done():
                return self._over(gone)
            working.result()
            self._session = session
            session.joined = True
            beside.append(asyncio.create_task(self._beat(session, owner)))
            working = asyncio.create_task(session.work())
            await asyncio.wait({working, leaving, gone}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() and not gone.done() and not working.done():
                await self._leave(session, working, gone)
            self._over(gone)
            working.result()
            # First what was said, then the control queue's end.
            unlinked()
            await voice.close()
            await connection.close()
        finally:
            self._session = None
            ending = [task for task in (working, *beside, gone) if task is not None]
            for task in ending:
                task.cancel()
            connection.abort()
            if voice is not None:
                voice.abort()
            owner.lost(ConnectionLost("the connection of this membership is closed"))
            await asyncio.gather(*ending, return_exceptions=True)

    async def _agree(self, connection: Connection, leaving: "asyncio.Task[bool]") -> GroupLayout | None:
        """The group's layout; None where it is time to leave before there is one.

        A group that is not there is created; but where nothing is wished of it and a server coordinates, that
        is the server's to do, in whose file its settings may stand.
        """
        if self._wish or self._settings.coordinator == "embedded":
            return await agree(connection, self._group, self._wish)
        silence, began = Silence(self._group, self._settings.coordinator, _PATIENCE), monotonic()
        while not leaving.done():
            layout = await read_layout(connection, self._group)
            if layout is not None:
                return layout
            silence.lasts("waiting to join: there is no such group", monotonic() - began)
            await asyncio.wait([leaving], timeout=_GROUP_LOOK)
        return None

    @staticmethod
    def _over(gone: "asyncio.Task[BrokerError]") -> None:
        if gone.done():
            raise gone.result()

    def _new_session(
        self, connection: Connection, voice: Connection, layout: GroupLayout, owner: Owner
    ) -> Session:
        commands = CommandClient(
            connection,
            self._group,
            timeout=_CALL,
            queue_type=layout.queue_type,
            on_assignment=lambda assignment: session.hear(assignment),
            speak_on=voice,
        )
        guard = Guard(self._settings.session_timeout, monotonic())
        session = Session(self.name, self._group, connection, layout, commands, owner, guard)
        return session

    async def _join(self, session: Session) -> None:
        """Become a member, however long nobody coordinates."""
        told = asyncio.create_task(session.told.wait())
        silence = Silence(self._group, self._settings.coordinator, _PATIENCE)
        try:
            while True:
                session.duties.joins()
                try:
                    # Pending already: an earlier try, or a process that had the name, came through.
                    await self._call(session, Bind(self.name), Status.ALREADY_PENDING)
                    await self._get_ready(session, told)
                except NoCoordinator:
                    # While the broker takes no messages it is raised at once.
                    if session.commands.blocked is None:
                        silence.lasts(
                            "waiting to join: nobody coordinates the group", monotonic() - session.heard
                        )
                    await asyncio.sleep(_ASK_AGAIN)
                    continue
                silence.over()
                session.duties.joined()
                return
        finally:
            told.cancel()

    async def _get_ready(self, session: Session, told: "asyncio.Task[bool]") -> None:
        """Say that it is ready, until that is answered, or the first assignment says so: a coordinator that
        dies when it has saved that we are ready leaves the answer to the next one."""
        settings, control = self._settings, session.commands.control
        ready = Ready(self.name, control, settings.session_timeout, settings.rejoin_grace)
        asking = asyncio.create_task(self._call(session, ready))
        # Of an earlier try's assignments it can't be told whether they are of before the last `bind`.
        waiting = {asking} if told.done() else {asking, told}
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if asking in done:
                asking.result()
        finally:
            asking.cancel()

    async def _call(self, session: Session, call: MemberCall, *allowed: Status) -> None:
        reply = await session.commands.call(uuid4().hex, call)
        if reply.status is Status.GROUP_FULL:
            raise GroupFull(f"group {self._group} has no room for {self.name}")
        if reply.status is not Status.OK and reply.status not in allowed:
            raise UnknownMember(f"group {self._group}: {type(call).__name__.lower()}: {reply.status.value}")

    async def _beat(self, session: Session, owner: Owner) -> None:
        """Heartbeats, and at once what has become idle of partitions that are to end."""
        interval = self._settings.session_timeout / _BEATS
        due, told = 0.0, tuple[int, ...]()
        silence = Silence(self._group, self._settings.coordinator, max(_PATIENCE, 2 * interval))
        while True:
            unheard = monotonic() - session.heard
            if unheard < interval * 2:
                silence.over()
            elif session.commands.blocked is None:
                silence.lasts("nobody coordinates the group", unheard)
            duties = session.duties
            idle = tuple(owner.idle(duties.retiring))
            if monotonic() >= due or idle != told or session.wants_to_ask:
                due, told = monotonic() + interval, idle
                session.ask(idle)
            await asyncio.sleep(min(interval, _IDLE_LOOK))

    async def _leave(
        self, session: Session, working: "asyncio.Task[None]", gone: "asyncio.Task[BrokerError]"
    ) -> None:
        """Give everything up, and tell the group; for good, or until this name comes back."""
        comes_back = self._settings.rejoin_grace > 0 and self._settings.name is not None
        session.duties.leave()
        session.news.set()
        control = session.commands.control
        telling = None
        if not comes_back:
            telling = asyncio.create_task(self._say(session, Unbind(self.name, control)))
        try:
            await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                return
            if telling is not None:
                await telling
                session.commands.tell(Released(self.name, control, 0, ()))
            else:
                await self._say(session, Bind(self.name, control))
        finally:
            if telling is not None:
                telling.cancel()

    async def _say(self, session: Session, call: MemberCall) -> None:
        try:
            await self._call(session, call, Status.ALREADY_PENDING)
        except (BrokerError, GroupError) as error:
            _log.info("nobody was told that this member leaves", group=self._group, reason=str(error))
