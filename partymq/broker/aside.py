"""Blocking calls beside an event loop, ended in an orderly way when their caller is cancelled."""

import asyncio
from collections.abc import Callable


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
