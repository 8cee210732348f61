"""Threads for handlers that are plain functions. The process does not wait for them when it ends.

With a `ThreadPoolExecutor` it would: a handler that never returns would keep it, as no member of its group,
until somebody kills it.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

_ParametersT = ParamSpec("_ParametersT")
_ResultT = TypeVar("_ResultT")
_Work = tuple["Future[Any]", Callable[[], Any]]


class Threads(Executor):
    """Up to `most` daemon threads, started as they are needed.

    Call `submit` and `shutdown` in one thread only.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._waiting: SimpleQueue[_Work | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._started = 0

    def submit(
        self,
        function: Callable[_ParametersT, _ResultT],
        /,
        *args: _ParametersT.args,
        **kwargs: _ParametersT.kwargs,
    ) -> "Future[_ResultT]":
        """See `Executor`."""
        future: Future[_ResultT] = Future()
        self._waiting.put((future, lambda: function(*args, **kwargs)))
        if not self._idle.acquire(blocking=False) and self._started < self._most:
            name = f"{self._name}_{self._started}"
            self._started += 1
            threading.Thread(target=self._work, name=name, daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the threads when they have done what was submitted, or with `cancel_futures` what is begun.
        Does not wait, whatever is asked for."""
        while cancel_futures and not self._waiting.empty():
            work = self._waiting.get()
            if work is not None:
                work[0].cancel()
        for _ in range(self._started):
            self._waiting.put(None)

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            _do(*work)
            del work
            self._idle.release()


def _do(future: "Future[Any]", call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:
        future.set_exception(error)
        del future  # Which its traceback would keep.
    else:
        future.set_result(result)
