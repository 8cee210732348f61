"""Standing by to coordinate a pull group: in every member (embedded), or in a server."""

import asyncio
import random
from dataclasses import replace
from time import monotonic
from typing import Final

from partymq.amqp.connection import Connection, connect
from partymq.amqp.url import BrokerUrl
from partymq.coordinator.lease import Lease, StateMessage
from partymq.coordinator.pull import PullSettings, PullTerm
from partymq.coordinator.pull_topology import read_layout
from partymq.errors import BrokerError, LoginRefused
from partymq.group.state import GroupState
from partymq.log import get_logger

_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 5.0
_LIVED: Final = 10.0
"""Seconds after which a connection counts as having worked: the next failure is a new one."""

_log = get_logger(__name__)


class Candidate:
    """Waits in the broker's line for the group's state; coordinates while it has it.

    Args:
        url: of the broker.
        settings: the group's.
        instance: this process's name, for people.

    Attributes:
        term: the present one; None while somebody else coordinates.
    """

    def __init__(self, url: BrokerUrl, settings: PullSettings, instance: str) -> None:
        self._url = replace(url, heartbeat=heartbeat_for(settings.session_timeout))
        self._settings = settings
        self._instance = instance
        self._last_known: StateMessage | None = None
        self.term: PullTerm | None = None

    def __repr__(self) -> str:
        doing = "coordinates" if self.term else "stands by"
        return f"<Candidate {self._instance} of group {self._settings.group}: {doing}>"

    async def run(self) -> None:
        """Stand by until cancelled; a broker that is away does not end it.

        Raises ConfigError where the group's state in the broker contradicts the settings, and LoginRefused.
        """
        wait = _FIRST_WAIT
        while True:
            began = monotonic()
            try:
                await self._stand()
            except LoginRefused:
                raise
            except BrokerError as error:
                if monotonic() - began >= _LIVED:
                    wait = _FIRST_WAIT
                pause = wait * random.uniform(0.5, 1.0)
                wait = min(2 * wait, _LONGEST_WAIT)
                _log.info(
                    "candidacy ended", group=self._settings.group, reason=str(error), retry_seconds=pause
                )
                await asyncio.sleep(pause)

    async def _stand(self) -> None:
        settings = self._settings
        # Another number of partitions since we began is no contradiction.
        name = f"partymq {settings.group} coordinator {self._instance}"
        connection = await connect(self._url, name=name)
        try:
            initial = await self._initial(connection)
            lease = Lease(
                connection,
                group=settings.group,
                partitions=settings.partitions,
                instance=self._instance,
                queue_type=settings.queue_type,
                last_known=self._last_known,
                initial=initial,
            )
            state = await lease.acquire()
            _log.info("coordinating", group=settings.group, epoch=lease.epoch, generation=state.generation)
            try:
                self.term = PullTerm(settings, lease, state, connection)
                await self.term.run()
            finally:
                self.term = None
                self._last_known = lease.current
        finally:
            await connection.close()

    async def _initial(self, connection: Connection) -> GroupState:
        """The state to begin with where the group has none."""
        layout = await read_layout(connection, self._settings.group)
        if layout is None:
            return GroupState.new(self._settings.partitions)
        before = layout.before()
        if before is None:
            return GroupState.new(layout.partitions, layout.layout)
        state = GroupState.new(before.partitions, before.layout)
        state.resize(layout.partitions, layout.common)
        return state


def heartbeat_for(session_timeout: float) -> int:
    """Seconds between AMQP heartbeats with which a silent member's connection is gone in time."""
    return max(1, int(session_timeout / 4))
