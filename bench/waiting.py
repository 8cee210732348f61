"""Waiting for a condition, with a limit; work that goes on beside something else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager

from bench.errors import InvalidRun


async def until(
    reached: Callable[[], Awaitable[bool]], what: str, seconds: float, interval: float = 0.1
) -> None:
    """Return when the condition holds; it is looked at every `interval` seconds.

    Raises InvalidRun, with `what` was waited for, when it does not hold within `seconds`.
    """
    try:
        async with asyncio.timeout(seconds):
            while not await reached():  # noqa: ASYNC110 - what is waited for is outside of this process
                await asyncio.sleep(interval)
    except TimeoutError:
        raise InvalidRun(f"not within {seconds:g} s: {what}") from None


@asynccontextmanager
async def beside(*work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Have this done while the block runs; it is cancelled at the block's end.

    What fails of it makes the block fail at its end.
    """
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()
