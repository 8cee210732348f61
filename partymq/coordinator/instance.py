"""One process's part in one push group: it answers for it, and stands by to coordinate it and to route.

The *candidacy* waits in the broker's line for the state; when its turn comes it serves a `Term` until the
lease is lost, and lines up again.
"""

from collections.abc import Mapping

from partymq.amqp.connection import Connection
from partymq.amqp.queues import look_at
from partymq.config.settings import BrokerSettings, GroupSettings
from partymq.coordinator.depths import QueueDepths
from partymq.coordinator.lease import Lease, StateMessage
from partymq.coordinator.management import Management
from partymq.coordinator.participant import Participant, Work
from partymq.coordinator.term import Term
from partymq.coordinator.topology import declare_write_exchange
from partymq.errors import ConfigError
from partymq.group.names import settings_queue
from partymq.group.state import GroupState
from partymq.log import get_logger

_log = get_logger(__name__)


class GroupInstance(Participant):
    """A push group as one process has it. `run` it; the other methods may be called meanwhile.

    When it is cancelled, what is routed is confirmed and acked, all else goes back to the source, and the
    next in line coordinates.

    Args:
        broker: where the broker is.
        settings: the group's.
        instance: this process's name, for people.
        call_timeout: seconds that a call may wait for the coordinator.
    """

    def __init__(
        self, broker: BrokerSettings, settings: GroupSettings, *, instance: str, call_timeout: float = 5.0
    ) -> None:
        super().__init__(broker, settings.name, instance=instance, call_timeout=call_timeout)
        self._settings = settings
        self._checked = False
        self._term: Term | None = None
        self._last_known: StateMessage | None = None

    @property
    def term(self) -> Term | None:
        """See `Participant`."""
        return self._term

    @property
    def queue_type(self) -> str:
        """See `Participant`."""
        return self._settings.state_queue_type

    @property
    def works(self) -> Mapping[str, Work]:
        """See `Participant`."""
        return {"candidacy": self._serve_candidacy}

    async def fronted(self, connection: Connection) -> None:
        """See `Participant`. Raises ConfigError where the broker has a pull group of this name."""
        if await look_at(connection, settings_queue(self.name)) is not None:
            raise ConfigError(
                f"group {self.name}: mode = 'push' is set here, or left out, but on this broker it is a pull"
                f' group (it has the queue {settings_queue(self.name)}): set mode = "pull", take another'
                f" group, or delete that one: `partymq group delete {self.name}`"
            )
        self._checked = True

    async def _serve_candidacy(self) -> None:
        if not self._checked:
            await self.front()  # the state may be a pull group's, and not to be touched
        connection = await self.connect("coordinator")
        try:
            await self._stand(connection)
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
            self.term_ended(lease.epoch)
            if management is not None:
                await management.close()

    def unready(self) -> str | None:
        """See `Participant`."""
        if self._term is None and self._trouble is None and self._elsewhere is not None:
            theirs = len(self._elsewhere.get("partitions", ()))
            if theirs != self._settings.partitions:
                return (
                    f"`partitions` is {self._settings.partitions} here, but {theirs} in the group as it is:"
                    " this instance could not take over"
                )
        return self.uncoordinated()
