"""One process's part in one pull group: it shows the group, and does for it what its settings say.

With `coordinator = "server"` it stands by to coordinate, beside all others that do, members among them; with
`ingress = "router"` it fills the group from its source, or stands by for that.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from partymq.amqp.connection import Connection
from partymq.amqp.queues import look_at
from partymq.config.pull import PullGroupSettings
from partymq.config.settings import BrokerSettings
from partymq.coordinator.backlog import watch_backlog
from partymq.coordinator.candidate import Candidate
from partymq.coordinator.ingress import Ingress
from partymq.coordinator.layout_store import read_layout
from partymq.coordinator.participant import Participant, Work
from partymq.coordinator.pull import PullSettings, PullTerm
from partymq.coordinator.pull_topology import agree
from partymq.errors import ConfigError
from partymq.group.layout import GroupLayout
from partymq.group.names import state_queue


class PullInstance(Participant):
    """A pull group as one process has it. `run` it; the other methods may be called meanwhile.

    Args:
        broker: where the broker is.
        settings: the group's.
        instance: this process's name, for people.
        call_timeout: seconds that a call may wait for the coordinator.
    """

    def __init__(
        self, broker: BrokerSettings, settings: PullGroupSettings, *, instance: str, call_timeout: float = 5.0
    ) -> None:
        super().__init__(broker, settings.name, instance=instance, call_timeout=call_timeout)
        self._settings = settings
        self._layout: GroupLayout | None = None
        self._agreeing = asyncio.Lock()
        self._candidate: Candidate | None = None
        self._ingress: Ingress | None = None
        if settings.routes:
            self._ingress = Ingress(broker, settings, instance=instance, statistics=self._statistics.router)

    @property
    def term(self) -> PullTerm | None:
        """See `Participant`."""
        return self._candidate.term if self._candidate is not None else None

    @property
    def queue_type(self) -> str:
        """See `Participant`."""
        assert self._layout is not None
        return self._layout.queue_type

    @property
    def works(self) -> Mapping[str, Work]:
        """See `Participant`."""
        works: dict[str, Work] = {}
        if self._settings.coordinator == "server":
            works["candidacy"] = self._serve_candidacy
            works["backlog"] = self._watch_backlog
        if self._ingress is not None:
            works["ingress"] = self._serve_ingress
        return works

    # -- the group in the broker -----------------------------------------------------------------------------

    async def fronted(self, connection: Connection) -> None:
        """See `Participant`: the group is created where it is not there. Raises ConfigError where it has
        other settings than the file says."""
        if self._layout is None and await read_layout(connection, self.name) is None:
            await self._refuse_push_group(connection)
        await self._agree(connection)

    async def _refuse_push_group(self, connection: Connection) -> None:
        queue = state_queue(self.name)
        if await look_at(connection, queue) is not None:
            raise ConfigError(
                f"group {self.name}: mode = 'pull' is set here, but on this broker it is a push group (it has"
                f" the queue {queue}, and no settings of a pull group): take another group, or end that one:"
                f" let its members finish, stop its servers, and delete {queue}"
            )

    async def _agree(self, connection: Connection) -> GroupLayout:
        async with self._agreeing:
            self._layout = await agree(connection, self.name, self._settings.wish)
            return self._layout

    # -- coordinating ----------------------------------------------------------------------------------------

    async def _serve_candidacy(self) -> None:
        # Since the front came up it may have been changed, or deleted.
        layout = await self._agree(await self.front())
        if self._candidate is None:
            settings = PullSettings(self.name, layout.partitions, queue_type=layout.queue_type)
            self._candidate = Candidate(self._broker.url, settings, self._instance, self._statistics)
        try:
            await self._candidate.stand()
        finally:
            self.term_ended(self._statistics.epoch)

    async def _watch_backlog(self) -> None:
        await watch_backlog(self.name, lambda: self.term, self.front, self._statistics)

    # -- filling it ------------------------------------------------------------------------------------------

    async def _serve_ingress(self) -> None:
        await self.front()  # the group is there then
        assert self._ingress is not None
        await self._ingress.run()

    # -- what can be looked at -------------------------------------------------------------------------------

    async def describe(self) -> dict[str, Any]:
        """What `GET /groups/{group}` shows. Raises NoCoordinator when nobody answered in time, ConnectionLost
        while the broker is away."""
        described = await super().describe()
        if self._front is not None and self._is_outdated(described):
            self._layout = await read_layout(self._front, self.name) or self._layout
        settings = self._layout.describe() if self._layout is not None else None
        ingress = self._ingress.describe() if self._ingress is not None else {}
        return {**described, "settings": settings, **ingress}

    def _is_outdated(self, described: Mapping[str, Any]) -> bool:
        """Whether the group has been resized since its settings were read."""
        if self._layout is None:
            return True
        resizing = described.get("resizing")
        before = resizing["partitions"] if resizing else 0
        partitions = len(described.get("partitions", ())) - before
        return (self._layout.previous, self._layout.partitions) != (before, partitions)

    def unready(self) -> str | None:
        """Why the group can't work now, as far as that is this process's matter; None where it can."""
        # Where members coordinate it, whether there are any is not this process's matter.
        here = self._settings.coordinator == "server"
        reason = self.uncoordinated() if here else self._trouble
        if reason is None and self._ingress is not None:
            reason = self._ingress.unready()
        return reason
