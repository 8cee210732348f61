"""For tests and for single consumers: an ownership without a group, of fixed partitions, from the start."""

import asyncio
from collections.abc import Sequence
from typing import Final

from partymq.amqp.connection import Connection, connect
from partymq.amqp.url import BrokerUrl
from partymq.client.ownership import Gain, Owned, Owner
from partymq.errors import BrokerError, ConnectionLost, LoginRefused
from partymq.group.key import KeyFinder, KeyRule, make_finder

_RETRY: Final = 0.2


class StaticOwnership:
    """Owns the given partitions as long as it is connected; connects again when it is not.

    Attributes:
        partitions: those it owns at its next connection, and gives up at the end.
        owner, connection: while it runs and is connected; so a test can revoke, and cut.
        assigned: set while all partitions are consumed.
    """

    def __init__(
        self,
        url: str | BrokerUrl,
        partitions: Sequence[Owned],
        finder: KeyFinder | None = None,
        *,
        prefetch: int = 250,
    ) -> None:
        self.owner: Owner | None = None
        self.connection: Connection | None = None
        self.assigned = asyncio.Event()
        self._url = BrokerUrl.parse(url) if isinstance(url, str) else url
        self.partitions = list(partitions)
        self._finder = finder or make_finder(KeyRule())
        self._prefetch = prefetch
        self._leaving = asyncio.Event()

    @property
    def joined(self) -> bool:
        """See `Ownership`."""
        return self.assigned.is_set()

    @property
    def coordinates(self) -> bool:
        """See `Ownership`: there is nothing to coordinate."""
        return False

    async def run(self, owner: Owner) -> None:
        """See `Ownership`."""
        self.owner = owner
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            while not leaving.done():
                try:
                    await self._hold(owner, leaving)
                except LoginRefused:
                    raise
                except ConnectionLost:
                    await asyncio.wait([leaving], timeout=_RETRY)
        finally:
            leaving.cancel()

    def leave(self) -> None:
        """See `Ownership`."""
        self._leaving.set()

    async def _hold(self, owner: Owner, leaving: "asyncio.Task[bool]") -> None:
        connection = await connect(self._url, name="partymq static member", coalesce=0.001)

        def lost(error: BrokerError) -> None:
            self.assigned.clear()
            owner.lost(error)

        connection.on_lost(lost)
        self.connection = connection
        gone = asyncio.create_task(connection.wait_lost())
        try:
            partitions = tuple(self.partitions)
            await owner.gained(Gain(connection, partitions, len(partitions), self._finder, self._prefetch))
            self.assigned.set()
            await asyncio.wait((leaving, gone), return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                await owner.revoke([owned.number for owned in self.partitions])
                await connection.close()
        finally:
            gone.cancel()
            connection.abort()
            self.connection = None
