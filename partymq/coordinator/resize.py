"""Carrying a pull group over from one number of partitions to another, as its coordinator.

The settings in the broker say what the group is to be. What is there of the layout before is consumed until
it is empty; a partition of it is retired when nobody consumes it, nothing is in it, and nothing can come any
more.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from partymq.amqp.connection import Connection
from partymq.coordinator.layout_store import locked, read_layout
from partymq.coordinator.pull_removal import remove_before
from partymq.coordinator.pull_topology import unbind
from partymq.coordinator.vacancy import Vacancy
from partymq.errors import BrokerError, ConfigError
from partymq.group import events as ev
from partymq.group.coordinator import Coordinator
from partymq.group.layout import GroupLayout
from partymq.log import get_logger

_READ: Final = 2.0
"""Seconds between two looks into the group's settings."""
_LOOK: Final = 0.25
"""Seconds between two looks at what is to be empty."""
_AT_ONCE: Final = 500
"""Queues that are looked at at the same time: each takes a channel."""
_ON_ITS_WAY: Final = 2.0
"""Seconds after the last binding has gone in which what was routed before may still arrive in a queue."""

_log = get_logger(__name__)


class Resize:
    """The part of a term that follows the group's settings.

    Attributes:
        removable: all of the layout before is retired, and that is saved.

    Args:
        group: the group's name.
        connection: the term's.
        coordinator: decides; is only looked at here.
        happened: takes the events that this leads to.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        group: str,
        connection: Connection,
        coordinator: Coordinator,
        happened: Callable[[ev.Event], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._group = group
        self._connection = connection
        self._coordinator = coordinator
        self._happened = happened
        self._clock = clock
        self.removable = False
        self._unbound_at: float | None = None
        self._vacancies: dict[int, Vacancy] = {}
        """Of the partitions that are to be empty, while that is not known."""

    def describe(self) -> dict[str, Any]:
        """What is left of the layout before; nothing while there is none."""
        state = self._coordinator.state
        if not state.retiring:
            return {}
        retired = sum(one.retired for one in state.partitions[: state.retiring])
        return {"resizing": {"partitions": state.retiring, "retired": retired}}

    async def run(self) -> None:
        """Follow the settings until cancelled. Raises BrokerError when the connection is gone; a queue that
        can't be reached, as its node is away, is no reason to end the term."""
        while True:
            await asyncio.sleep(_LOOK if self._coordinator.state.retiring else _READ)
            if self._connection.blocked is not None:
                continue
            try:
                await self._step()
            except ConfigError as error:
                _log.error("the group can't be resized", group=self._group, reason=str(error))
                await asyncio.sleep(_READ)
            except BrokerError as error:
                if self._connection.error is not None:
                    raise
                _log.warning("the resize has to wait", group=self._group, reason=str(error))
                await asyncio.sleep(_READ)

    async def _step(self) -> None:
        state = self._coordinator.state
        if not state.retiring:
            self._unbound_at = None
            layout = await read_layout(self._connection, self._group)
            if layout is not None and layout.layout == state.layout + 1:
                _log.info("resizing", group=self._group, **layout.describe())
                self._happened(ev.Resized(layout.partitions, layout.common))
            return
        if self.removable:
            await self._finish()
            return
        if self._unbound_at is None:
            # Locked, so that nobody resizes it again meanwhile.
            async with locked(self._connection, self._group):
                layout = await self._layout()
                before = layout.before()
                if before is not None:
                    await unbind(self._connection, self._group, before)
            self._unbound_at = self._clock()
        elif self._clock() - self._unbound_at >= _ON_ITS_WAY:
            await self._look(await self._layout())

    async def _look(self, layout: GroupLayout) -> None:
        """At all partitions that nobody owns as they are to be empty."""
        state = self._coordinator.state
        emptied = {one for one in self._coordinator.emptied if state.partitions[one].owner is None}
        for number in self._vacancies.keys() - emptied:
            await self._vacancies.pop(number).close()
        for number in sorted(emptied)[: min(_AT_ONCE, self._connection.channel_max // 2)]:
            await self._look_at(number, layout)

    async def _layout(self) -> GroupLayout:
        layout = await read_layout(self._connection, self._group)
        if layout is None or layout.layout != self._coordinator.state.layout:
            raise ConfigError("its settings in the broker are not those that it is being resized to")
        return layout

    async def _look_at(self, number: int, layout: GroupLayout) -> None:
        before = layout.before()
        if before is None:
            self._happened(ev.Retired(number))
            return
        vacancy = self._vacancies.get(number)
        if vacancy is None:
            queue = before.queue(self._group, number)
            vacancy = Vacancy(self._connection, queue, before.prefetch_of_one, self._clock)
            self._vacancies[number] = vacancy
        empty = await vacancy.look()
        if empty is not None:
            del self._vacancies[number]
            self._happened(ev.Retired(number) if empty else ev.Occupied(number))

    async def _finish(self) -> None:
        number = self._coordinator.state.layout
        async with locked(self._connection, self._group):
            layout = await read_layout(self._connection, self._group)
            if layout is None or layout.layout < number:
                raise ConfigError("its settings in the broker are of before it was resized")
            if layout.layout == number:
                await remove_before(self._connection, self._group, layout)
            # Else a coordinator before us has, and the group is being resized again.
        self.removable = False
        self._happened(ev.ResizeOver())
        _log.info("resized", group=self._group, layout=number)
