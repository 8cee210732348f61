"""What a user is told about partitions that come and go: by hooks, and in the log."""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from partymq.log import get_logger

Hook = Callable[[Sequence[int]], Any]
"""Gets the numbers of partitions; async or not."""

_log = get_logger(__name__)


@dataclass(slots=True)
class Hooks:
    """What is called when partitions come and go.

    Attributes:
        assigned: awaited before the first message of these partitions is handled; what it raises stops the
            consumer, as handlers may rely on it.
        revoked: awaited when their handlers have ended, before the next owner gets them; what it raises is
            logged, and they are handed over nevertheless.
        lost: called when they are not ours any more all of a sudden; what it raises is logged.
    """

    assigned: Hook | None = None
    revoked: Hook | None = None
    lost: Hook | None = None
    group: str = ""
    member: str | None = None
    """Both for the log."""

    async def call_assigned(self, partitions: Sequence[int]) -> None:
        """Raises what the hook raises."""
        self._say("gained", partitions)
        if self.assigned is not None and partitions:
            await _call(self.assigned, partitions)

    async def call_revoked(self, partitions: Sequence[int]) -> None:
        """Never raises an Exception."""
        self._say("given up", partitions)
        await _call_safely("on_revoked", self.revoked, partitions)

    async def call_lost(self, partitions: Sequence[int]) -> None:
        """Never raises an Exception."""
        self._say("lost", partitions)
        await _call_safely("on_lost", self.lost, partitions)

    def _say(self, event: str, partitions: Sequence[int]) -> None:
        if partitions:
            _log.info(event, group=self.group, member=self.member, partitions=sorted(partitions))


async def _call(hook: Hook, partitions: Sequence[int]) -> None:
    result = hook(sorted(partitions))
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError(f"the hook {hook!r} has a `yield`, so a call runs nothing of it")
    if not inspect.isawaitable(result):
        return
    try:
        await result
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise RuntimeError("a hook was cancelled by something that it waited for") from error


async def _call_safely(name: str, hook: Hook | None, partitions: Sequence[int]) -> None:
    if hook is None or not partitions:
        return
    try:
        await _call(hook, partitions)
    except Exception as error:
        _log.error("a hook failed", hook=name, partitions=sorted(partitions), exc_info=error)
