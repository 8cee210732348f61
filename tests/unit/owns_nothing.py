"""A consumer's `Ownership` where no broker is."""

import asyncio

from partymq.client.ownership import Owner


class OwnsNothing:
    """Owns nothing, and does nothing until it is to leave."""

    joined = False

    def __init__(self, *, coordinates: bool = False) -> None:
        self.coordinates = coordinates
        self._leaving = asyncio.Event()

    async def run(self, owner: Owner) -> None:
        await self._leaving.wait()

    def leave(self) -> None:
        self._leaving.set()
