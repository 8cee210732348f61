"""Standing by to coordinate a pull group: in every member (embedded), or in a server."""

import asyncio
import random
from dataclasses import replace
from time import monotonic
from typing import Final

import structlog

from partymq.amqp.connection import connect
from partymq.amqp.url import BrokerUrl
from partymq.coordinator.lease import Lease, StateMessage
from partymq.coordinator.pull import PullSettings, PullTerm
from partymq.errors import BrokerError, LoginRefused

_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 5.0
_LIVED: Final = 10.0
"""Seconds after which a connection counts as having worked: the next failure is a new one."""

_log = structlog.get_logger(__name__)


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
        name = f"partymq {settings.group} coordinator {self._instance}"
        connection = await connect(self._url, name=name)
        try:
            lease = Lease(
                connection,
                group=settings.group,
                partitions=settings.partitions,
                instance=self._instance,
                queue_type=settings.queue_type,
                last_known=self._last_known,
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


def heartbeat_for(session_timeout: float) -> int:
    """Seconds between AMQP heartbeats with which a silent member's connection is gone in time."""
    return max(1, int(session_timeout / 4))
