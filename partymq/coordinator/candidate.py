"""Standing by to coordinate a pull group: in every member (embedded), or in a server."""

from dataclasses import replace
from typing import Final

from msgspec.structs import replace as replace_struct

from partymq.amqp.connection import Connection, connect
from partymq.amqp.url import BrokerUrl
from partymq.coordinator.layout_store import read_layout
from partymq.coordinator.lease import Lease, StateMessage
from partymq.coordinator.pull import PullSettings, PullTerm
from partymq.coordinator.reconnect import again_and_again
from partymq.coordinator.statistics import GroupStatistics
from partymq.errors import BrokerError, LoginRefused
from partymq.group.state import GroupState
from partymq.log import get_logger

_LONGEST_WAIT: Final = 2.0

_log = get_logger(__name__)


class Candidate:
    """Waits in the broker's line for the group's state; coordinates while it has it.

    Args:
        url: of the broker.
        settings: the group's.
        instance: this process's name, for people.
        statistics: those to count in; its own by default.

    Attributes:
        term: the present one; None while somebody else coordinates.
        statistics: over all terms.
    """

    def __init__(
        self,
        url: BrokerUrl,
        settings: PullSettings,
        instance: str,
        statistics: GroupStatistics | None = None,
    ) -> None:
        self._url = replace(url, heartbeat=heartbeat_for(settings.session_timeout))
        self._settings = settings
        self._instance = instance
        self._last_known: StateMessage | None = None
        self.term: PullTerm | None = None
        self.statistics = statistics or GroupStatistics()

    def __repr__(self) -> str:
        doing = "coordinates" if self.term else "stands by"
        return f"<Candidate {self._instance} of group {self._settings.group}: {doing}>"

    async def run(self) -> None:
        """Stand by until cancelled; a broker that is away does not end it.

        Raises ConfigError where the group's state in the broker contradicts the settings, and LoginRefused.
        """

        def failed(error: BrokerError, pause: float) -> None:
            _log.info(
                "candidacy ended",
                group=self._settings.group,
                reason=str(error),
                retry_seconds=round(pause, 2),
            )

        await again_and_again(self.stand, longest=_LONGEST_WAIT, failed=failed, final=(LoginRefused,))

    async def stand(self) -> None:
        """Stand by on one connection, and coordinate when it is our turn; raises the BrokerError that ends
        it."""
        settings = self._settings
        name = f"partymq {settings.group} coordinator {self._instance}"
        connection = await connect(self._url, name=name)
        try:
            # Another number of partitions since we began is no contradiction.
            initial = await self._initial(connection)
            lease = Lease(
                connection,
                group=settings.group,
                partitions=settings.partitions,
                instance=self._instance,
                queue_type=settings.queue_type,
                last_known=still_valid(self._last_known, initial),
                initial=initial,
            )
            state = await lease.acquire()
            _log.info("coordinating", group=settings.group, epoch=lease.epoch, generation=state.generation)
            try:
                self.term = PullTerm(settings, lease, state, connection, statistics=self.statistics)
                await self.term.run()
            finally:
                self.term = None
                self.statistics.term(lease.epoch, None)
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


def still_valid(known: StateMessage | None, initial: GroupState) -> StateMessage | None:
    """The state that was last known; where it is that of a group that was deleted and made anew, what the new
    one begins with, with which epochs and generations go on. Any state of the new group counts for more."""
    if known is None or initial.layout - known.state.layout <= bool(initial.retiring):
        return known
    fresh = replace_struct(initial, generation=known.state.generation)
    return replace_struct(known, version=0, state=fresh)


def heartbeat_for(session_timeout: float) -> int:
    """Seconds between AMQP heartbeats with which a silent member's connection is gone in time."""
    return max(1, int(session_timeout / 4))
