"""An event loop in the time of a schedule: coroutines of the real code run as part of a process here.

They stop when the process hangs, and when it is dead they are cancelled, on connections that are gone.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from partymq.errors import PartyMQError
from tests.simulation.world import Process

_T = TypeVar("_T")
_MOST_AT_ONCE = 10_000


class _Handle:
    """What is to be called; without effect when it was, or was cancelled."""

    __slots__ = ("args", "call")

    def __init__(self, call: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.call: Callable[..., object] | None = call
        self.args = args

    def cancel(self) -> None:
        """Do not call it."""
        self.call = None

    def run(self) -> None:
        """Call it."""
        call, self.call = self.call, None
        if call is not None:
            call(*self.args)


class Loop(asyncio.AbstractEventLoop):
    """As much of an event loop as tasks, sleeping, timeouts and task groups need."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world
        self._held: list[_Handle] = []
        self._soon: dict[_Handle, None] = {}
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._ended = self._running = False

    def begin(
        self,
        work: Coroutine[Any, Any, _T],
        then: Callable[[_T], None] | None = None,
        failed: Callable[[PartyMQError], None] | None = None,
    ) -> "asyncio.Task[_T]":
        """Have a coroutine run, and be told of its end. An error that is none of ours is raised."""
        task: asyncio.Task[_T] = self.create_task(work)

        def over(task: "asyncio.Task[_T]") -> None:
            if task.cancelled() or self._ended:
                return
            error = task.exception()
            if isinstance(error, PartyMQError) and failed is not None:
                failed(error)
            elif error is not None:
                raise error
            elif then is not None:
                then(task.result())

        task.add_done_callback(over)
        return task

    def run(self, call: Callable[..., object], *args: Any) -> None:
        """Call it as part of the loop, now, and then all that is to be called soon."""
        if self._running:
            call(*args)
            return
        self._running = True
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            call(*args)
            soon = self._soon
            for _ in range(_MOST_AT_ONCE):
                if not soon:
                    return
                handle = next(iter(soon))
                del soon[handle]
                handle.run()
            raise AssertionError(f"tasks have no end: {list(self._tasks)}")
        finally:
            asyncio._set_running_loop(before)
            self._running = False

    def end(self) -> None:
        """The process is dead, and its connections are gone: nothing of it comes to anything any more."""
        self._ended = True
        for task in list(self._tasks):
            task.cancel()
        self.run(lambda: None)

    # -- what asyncio calls ----------------------------------------------------------------------------------

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        """See asyncio."""
        handle = _Handle(callback, args)
        self._soon[handle] = None
        if not self._running and not self._ended and len(self._soon) == 1:
            self._world.after(0.0, self._arrive, _Handle(_nothing, ()))
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> Any:
        """See asyncio."""
        handle = _Handle(callback, args)
        if not self._ended:
            self._world.after(max(0.0, delay), self._arrive, handle)
        return handle

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        """See asyncio."""
        return self.call_later(when - self._world.now, callback, *args)

    def time(self) -> float:
        """See asyncio."""
        return self._world.now

    def create_future(self) -> "asyncio.Future[Any]":
        """See asyncio."""
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> Any:
        """See asyncio."""
        task = asyncio.Task(coro, loop=self)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task

    def get_debug(self) -> bool:
        """See asyncio."""
        return False

    def is_running(self) -> bool:
        """See asyncio."""
        return True

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """See asyncio. What is told here is of tasks that nobody waits for any more."""

    # -- inside ----------------------------------------------------------------------------------------------

    def _arrive(self, handle: _Handle) -> None:
        if self._process.frozen and not self._ended:
            if not self._held:
                self._process.run(self._process.life, self._release, ())
            self._held.append(handle)
        else:
            self.run(handle.run)

    def _release(self) -> None:
        held, self._held = self._held, []
        for handle in held:
            self._arrive(handle)


def _nothing() -> None:
    pass
