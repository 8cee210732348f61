"""One process's part in one group, whatever its mode: it answers for the group, wherever that is coordinated.

The *front* keeps the connection on which commands go to whoever coordinates. What else a process does for
its group (its *works*) has connections of its own, and goes on when the front does not.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from uuid import uuid4

from partymq.amqp.connection import Connection, connect
from partymq.config.settings import BrokerSettings
from partymq.coordinator.commands import CommandClient
from partymq.coordinator.office import Office
from partymq.coordinator.reconnect import again_and_again
from partymq.coordinator.statistics import GroupStatistics
from partymq.errors import BrokerError, ConfigError, ConnectionLost, NoCoordinator
from partymq.group.wire import Call, Command, Describe, Heartbeat, MemberCall, Reply, Status
from partymq.log import get_logger

_LONGEST_WAIT: Final = 10.0
_LOOK: Final = 2.0

_log = get_logger(__name__)

Work = Callable[[], Awaitable[None]]


class Participant(ABC):
    """A group as one process has it. `run` it; the other methods may be called meanwhile.

    Args:
        broker: where the broker is.
        group: the group's name.
        instance: this process's name, for people.
        call_timeout: seconds that a call may wait for the coordinator.
    """

    def __init__(self, broker: BrokerSettings, group: str, *, instance: str, call_timeout: float) -> None:
        self._broker = broker
        self._group = group
        self._instance = instance
        self._call_timeout = call_timeout
        self._front: Connection | None = None
        self._commands: CommandClient | None = None
        self._up = asyncio.Event()
        """Set while the front is there."""
        self._waiting: set[asyncio.Future[Reply]] = set()
        """Calls that the present term has to answer."""
        self._trouble: str | None = "starting"
        """Of the front."""
        self._ended: dict[str, str] = {}
        """Why each work ended the last time."""
        self._elsewhere: dict[str, Any] | None = None
        self._statistics = GroupStatistics()

    def __repr__(self) -> str:
        doing = "coordinates" if self.term else "stands by"
        return f"<{type(self).__name__} {self.name} {doing}: {self.unready()}>"

    @property
    def name(self) -> str:
        """The group's name."""
        return self._group

    @property
    @abstractmethod
    def term(self) -> Office | None:
        """The present term; None while another process coordinates."""

    @property
    @abstractmethod
    def queue_type(self) -> str:
        """Of the queues on which the group is coordinated; known when `fronted` has been called."""

    @property
    @abstractmethod
    def works(self) -> Mapping[str, Work]:
        """What is done besides the front; each ends with a BrokerError and is then begun again. The one that
        coordinates is the "candidacy"."""

    @abstractmethod
    def unready(self) -> str | None:
        """Why the group cannot route now; None where it can."""

    def uncoordinated(self) -> str | None:
        """Why the group is not coordinated now, as far as is known here; None where it is."""
        if self.term is not None:
            return self.term.unready()
        if self._trouble is not None:
            return self._trouble
        if self._elsewhere is None:
            ended = self._ended.get("candidacy")
            return "no coordinator answers" if ended is None else f"coordinating came to an end: {ended}"
        reason = self._elsewhere.get("unready")
        return None if reason is None else str(reason)

    async def fronted(self, connection: Connection) -> None:  # noqa: B027
        """Called with each new connection of the front, before anybody is told that it is there."""

    async def run(self) -> None:
        """Take part until cancelled, then stop in good order.

        A broker that is away does not end it. Raises ConfigError where what is in the broker contradicts the
        settings.
        """
        wrong: Exception | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                for what, serve in {"front": self._serve_front, **self.works}.items():
                    tasks.create_task(self._again_and_again(what, serve))
                tasks.create_task(self._look_elsewhere())
        except* ConfigError as errors:
            wrong = errors.exceptions[0]
        # Not raised in the handler: there, early releases of Python 3.11 wrap it in a group.
        if wrong is not None:
            raise wrong

    async def _again_and_again(self, what: str, serve: Work) -> None:
        def failed(error: BrokerError, pause: float) -> None:
            self._statistics.reconnects += 1
            self._ended[what] = str(error)
            _log.warning(
                "connection ended",
                group=self.name,
                what=what,
                reason=str(error),
                retry_seconds=round(pause, 2),
            )

        await again_and_again(serve, longest=_LONGEST_WAIT, failed=failed)

    async def _serve_front(self) -> None:
        connection: Connection | None = None
        try:
            connection = await self.connect("front")
            await self.fronted(connection)
            commands = CommandClient(
                connection, self.name, timeout=self._call_timeout, queue_type=self.queue_type
            )
            await commands.start()
            self._front, self._commands, self._trouble = connection, commands, None
            self._up.set()
            raise await commands.wait_closed()
        except BrokerError as error:
            self._trouble = str(error)
            raise
        finally:
            self._up.clear()
            self._front = self._commands = None
            if connection is not None:
                await connection.close()

    async def _look_elsewhere(self) -> None:
        """While another process coordinates: whether it does, and how it is."""
        while True:
            if self.term is None and self._commands is not None:
                try:
                    self._elsewhere = await self.describe()
                except (BrokerError, NoCoordinator):
                    self._elsewhere = None
            await asyncio.sleep(_LOOK)

    async def connect(self, role: str) -> Connection:
        """A connection to the broker that says what it is for. Raises BrokerError."""
        return await connect(self._broker.url, name=f"partymq {self.name} {role} {self._instance}")

    async def front(self) -> Connection:
        """The front's connection, as soon as there is one."""
        while self._front is None:
            await self._up.wait()
        return self._front

    def term_ended(self, epoch: int) -> None:
        """Has to be called when a term has ended: who waits for its answer has to ask again."""
        for answer in tuple(self._waiting):
            if not answer.done():
                answer.set_exception(NoCoordinator("the coordinator has just changed; try again"))
        self._statistics.term(epoch, None)

    async def submit(self, call: MemberCall) -> Status:
        """A member's call, answered by the coordinator, wherever that is.

        Raises NoCoordinator when nobody answered in time, ConnectionLost while the broker is away.
        """
        return (await self._ask(call)).status

    async def describe(self) -> dict[str, Any]:
        """What `GET /groups/{group}` shows. Raises as `submit` does."""
        description = (await self._ask(Describe())).description or {}
        return {"group": self.name, **description}

    def statistics(self) -> GroupStatistics:
        """The group's numbers now."""
        return self._statistics

    async def _ask(self, call: Call) -> Reply:
        request_id = uuid4().hex
        term = self.term
        if term is not None:
            # The coordinator is this process: no need of the broker, which may take no messages just now.
            # Only what has to be saved can't be done then.
            if term.blocked is not None and not isinstance(call, Heartbeat | Describe):
                raise NoCoordinator(f"the broker takes no messages now ({term.blocked}); try again")
            answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            self._waiting.add(answer)
            answer.add_done_callback(self._waiting.discard)
            term.submit(Command(request_id, call), lambda reply: _answer(answer, reply))
            try:
                async with asyncio.timeout(self._call_timeout):
                    return await answer
            except TimeoutError:
                raise NoCoordinator(
                    f"the coordinator did not answer within {self._call_timeout:g} s; try again"
                ) from None
        if self._commands is None:
            raise ConnectionLost(f"{self._trouble}; try again")
        return await self._commands.call(request_id, call)


def _answer(waiting: "asyncio.Future[Reply]", reply: Reply) -> None:
    if not waiting.done():
        waiting.set_result(reply)
