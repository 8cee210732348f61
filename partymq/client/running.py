"""Event loops: one of its own for a coroutine, which ends whatever its tasks do; calls from other threads."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from partymq.log import get_logger

_ResultT = TypeVar("_ResultT")

_log = get_logger(__name__)


def run_bounded(main: Coroutine[Any, Any, _ResultT], seconds: float) -> _ResultT:
    """As `asyncio.run`; but tasks that are left when `main` has ended, and do not end within so many seconds
    when they are cancelled, are not waited for any longer, nor are threads.

    Raises RuntimeError where it can't be: in a loop that runs already, or in a thread that gets no signals.
    """
    import uvloop

    if why := _misplaced():
        main.close()
        raise RuntimeError(why)

    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(main)
    finally:
        try:
            loop.run_until_complete(_end(seconds))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(_end_threads(loop, seconds))
        finally:
            loop.close()


def call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    """Calls it in that loop: at once where it runs here, else as soon as can be; never where it is closed."""
    try:
        here = asyncio.get_running_loop() is loop
    except RuntimeError:
        here = False
    if here:
        function()
    else:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(function)


def _misplaced() -> str:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return "an event loop runs here already: `await consumer.serve()`, or `async with consumer:`"
    if threading.current_thread() is not threading.main_thread():
        return "`run` answers to signals, which come to the main thread: here `asyncio.run(consumer.serve())`"
    return ""


async def _end(seconds: float) -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if not left:
        return
    done, stubborn = await asyncio.wait(left, timeout=seconds)
    for task in done:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            _log.error("a task failed at the end", error=repr(error), exc_info=error)
    if stubborn:
        _log.warning("some tasks do not let themselves be cancelled; they are given up", tasks=len(stubborn))


async def _end_threads(loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Those of `asyncio.to_thread`."""
    await asyncio.wait([asyncio.create_task(loop.shutdown_default_executor())], timeout=seconds)
