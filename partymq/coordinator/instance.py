"""One process's part in one group: it answers for the group, and stands by to coordinate it.

Two loops that do not depend on each other. The *front* keeps the connection on which commands go to whoever
coordinates. The *candidacy* waits in the broker's line for the state; when its turn comes it serves a `Term`
until the lease is lost, and lines up again.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final
from uuid import uuid4

from partymq.amqp.connection import Connection, connect
from partymq.config.settings import BrokerSettings, GroupSettings
from partymq.coordinator.commands import CommandClient
from partymq.coordinator.depths import QueueDepths
from partymq.coordinator.lease import Lease, StateMessage
from partymq.coordinator.management import Management
from partymq.coordinator.statistics import GroupStatistics
from partymq.coordinator.term import Term
from partymq.coordinator.topology import declare_write_exchange
from partymq.errors import BrokerError, ConfigError, ConnectionLost, NoCoordinator
from partymq.group.state import GroupState
from partymq.group.wire import Call, Command, Describe, Heartbeat, MemberCall, Reply, Status
from partymq.log import get_logger

_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 10.0
_LIVED: Final = 10.0
"""Seconds after which a connection counts as having worked: the next failure is a new one."""
_LOOK: Final = 2.0

_log = get_logger(__name__)


class GroupInstance:
    """A group as one process has it. `run` it; the other methods may be called meanwhile.

    Args:
        broker: where the broker is.
        settings: the group's.
        instance: this process's name, for people.
        call_timeout: seconds that a call may wait for the coordinator.
    """

    def __init__(
        self, broker: BrokerSettings, settings: GroupSettings, *, instance: str, call_timeout: float = 5.0
    ) -> None:
        self._broker = broker
        self._settings = settings
        self._instance = instance
        self._call_timeout = call_timeout
        self._front: Connection | None = None
        self._commands: CommandClient | None = None
        self._term: Term | None = None
        self._waiting: set[asyncio.Future[Reply]] = set()
        """Calls that the present term has to answer."""
        self._last_known: StateMessage | None = None
        self._trouble: str | None = "starting"
        self._candidacy_trouble: str | None = None
        self._elsewhere: dict[str, Any] | None = None
        self._statistics = GroupStatistics()

    def __repr__(self) -> str:
        return f"<GroupInstance {self.name} {'coordinates' if self._term else 'stands by'}: {self.unready()}>"

    @property
    def name(self) -> str:
        """The group's name."""
        return self._settings.name

    async def run(self) -> None:
        """Take part until cancelled, then stop in good order: what is routed is confirmed and acked, all else
        goes back to the source, and the next in line coordinates.

        A broker that is away does not end it. Raises ConfigError where the broker's state contradicts the
        settings.
        """
        wrong: Exception | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._again_and_again("front", self._serve_front))
                tasks.create_task(self._again_and_again("candidacy", self._serve_candidacy))
                tasks.create_task(self._look_elsewhere())
        except* ConfigError as errors:
            wrong = errors.exceptions[0]
        # Not raised in the handler: there, early releases of Python 3.11 wrap it in a group.
        if wrong is not None:
            raise wrong

    async def _again_and_again(self, what: str, serve: Callable[[], Awaitable[None]]) -> None:
        """Serve until cancelled; after a failure again, the later the more there were in a row."""
        wait = _FIRST_WAIT
        while True:
            began = monotonic()
            try:
                await serve()
            except BrokerError as error:
                if monotonic() - began >= _LIVED:
                    wait = _FIRST_WAIT
                pause = wait * random.uniform(0.5, 1.0)
                wait = min(2 * wait, _LONGEST_WAIT)
                self._statistics.reconnects += 1
                _log.warning(
                    "connection ended",
                    group=self.name,
                    what=what,
                    reason=str(error),
                    retry_seconds=round(pause, 2),
                )
                await asyncio.sleep(pause)

    async def _serve_front(self) -> None:
        try:
            connection = await self._connect("front")
        except BrokerError as error:
            self._trouble = str(error)
            raise
        try:
            commands = CommandClient(connection, self.name, timeout=self._call_timeout)
            await commands.start()
            self._front, self._commands, self._trouble = connection, commands, None
            raise await commands.wait_closed()
        except BrokerError as error:
            self._trouble = str(error)
            raise
        finally:
            self._front = self._commands = None
            await connection.close()

    async def _serve_candidacy(self) -> None:
        connection = await self._connect("coordinator")
        try:
            await self._stand(connection)
        except BrokerError as error:
            self._candidacy_trouble = f"coordinating came to an end: {error}"
            raise
        finally:
            await connection.close()

    async def _stand(self, connection: Connection) -> None:
        lease = Lease(
            connection,
            group=self.name,
            partitions=self._settings.partitions,
            instance=self._instance,
            queue_type=self._settings.state_queue_type,
            last_known=self._last_known,
        )
        state = await lease.acquire()
        _log.info("coordinating", group=self.name, epoch=lease.epoch, generation=state.generation)
        try:
            await self._serve_term(connection, lease, state)
        finally:
            self._last_known = lease.current

    async def _serve_term(self, connection: Connection, lease: Lease, state: GroupState) -> None:
        await declare_write_exchange(connection, self._settings)
        management_url = self._broker.management_url
        management = (
            None
            if management_url is None
            else Management(management_url.with_credentials(), self._broker.url.vhost)
        )
        depths = QueueDepths(lambda: self._front, management)
        term = Term(self._broker, self._settings, lease, state, connection, depths, self._statistics)
        self._term = term
        try:
            await term.run()
        finally:
            self._term = None
            for answer in tuple(self._waiting):
                if not answer.done():
                    answer.set_exception(NoCoordinator("the coordinator has just changed; try again"))
            self._statistics.term(lease.epoch, None)
            if management is not None:
                await management.close()

    async def _look_elsewhere(self) -> None:
        """While another process coordinates: whether it does, and how it is."""
        while True:
            if self._term is None and self._commands is not None:
                try:
                    self._elsewhere = await self.describe()
                except BrokerError:
                    self._elsewhere = None
                except NoCoordinator:
                    self._elsewhere = None
            await asyncio.sleep(_LOOK)

    async def _connect(self, role: str) -> Connection:
        name = f"partymq {self.name} {role} {self._instance}"
        return await connect(self._broker.url, name=name)

    async def submit(self, call: MemberCall) -> Status:
        """A member's call, answered by the coordinator, wherever that is.

        Raises NoCoordinator when nobody answered in time, ConnectionLost while the broker is away.
        """
        return (await self._ask(call)).status

    async def describe(self) -> dict[str, Any]:
        """What `GET /groups/{group}` shows. Raises as `submit` does."""
        description = (await self._ask(Describe())).description or {}
        return {"group": self.name, **description}

    def unready(self) -> str | None:
        """Why the group cannot route now; None where it can."""
        if self._term is not None:
            return self._term.unready()
        if self._trouble is not None:
            return self._trouble
        if self._elsewhere is None:
            return self._candidacy_trouble or "no coordinator answers"
        theirs = len(self._elsewhere.get("partitions", ()))
        if theirs != self._settings.partitions:
            return (
                f"`partitions` is {self._settings.partitions} here, but {theirs} in the group as it is:"
                " this instance could not take over"
            )
        reason = self._elsewhere.get("unready")
        return None if reason is None else str(reason)

    def statistics(self) -> GroupStatistics:
        """The group's numbers now."""
        return self._statistics

    async def _ask(self, call: Call) -> Reply:
        request_id = uuid4().hex
        if self._term is not None:
            # The coordinator is this process: no need of the broker, which may take no messages just now.
            # Only what has to be saved can't be done then.
            if self._term.blocked is not None and not isinstance(call, Heartbeat | Describe):
                raise NoCoordinator(f"the broker takes no messages now ({self._term.blocked}); try again")
            answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            self._waiting.add(answer)
            answer.add_done_callback(self._waiting.discard)
            self._term.submit(Command(request_id, call), lambda reply: _answer(answer, reply))
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
