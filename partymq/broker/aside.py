"""Blocking calls beside an event loop, ended in an orderly way when their caller is cancelled."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self


def _nothing() -> None:
    pass


async def aside(action: Callable[[], None], give_up: Callable[[], None] = _nothing) -> None:
    """Run a blocking action in a thread. Cancelled: tell it to give up, and wait for its end all the same."""
    task = asyncio.create_task(asyncio.to_thread(action))
    try:
        # Torn otherwise: a thread can't be cancelled, and what it does to the node must not be left behind.
        await asyncio.shield(task)
    except asyncio.CancelledError:
        give_up()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise


class Startable(ABC):
    """What is started and closed; a context manager, sync and async."""

    @abstractmethod
    def start(self) -> None:
        """Start it, and wait until it is there."""

    @abstractmethod
    def close(self) -> None:
        """End it for good."""

    @abstractmethod
    def give_up(self) -> None:
        """Have a start that is under way in another thread fail soon."""

    async def start_async(self) -> None:
        """`start()` beside the event loop. Cancelled: the start is given up, and nothing is left running."""
        await aside(self.start, self.give_up)

    async def close_async(self) -> None:
        """`close()` beside the event loop."""
        await aside(self.close)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        try:
            await self.start_async()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close_async()
