"""A member of a pull group on one connection: what it is told, and what it does about it.

`Duties` says what is next. Each step is a task of its own, so that a handler that takes long holds back its
partition alone.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from time import monotonic

from partymq.amqp.connection import Connection
from partymq.client.guard import Guard
from partymq.client.ownership import Gain, Owned, Owner
from partymq.coordinator.commands import CommandClient
from partymq.coordinator.hash_ingress import Placing
from partymq.coordinator.layout_store import read_layout
from partymq.coordinator.pull_topology import finder
from partymq.errors import ConfigError, UnknownMember
from partymq.group.duties import Duties, GiveUp, Take
from partymq.group.layout import GroupLayout
from partymq.group.names import layout_and_number
from partymq.group.wire import Assignment, Heartbeat, Released, Standing
from partymq.log import get_logger

_log = get_logger(__name__)


@dataclass(slots=True, eq=False)
class Session:
    """Attributes:
    name, group: the member's, and its group's.
    connection: that it consumes on.
    owner: has what it owns.
    layout: the newest that it knows.
    commands: the way to the coordinator.
    news: set when there may be something to do.
    told: set with the first assignment that takes it for a member.
    guard: says whether it may go by what it was told.
    joined: whether it is a member.
    heard: when the coordinator said something last; monotonic seconds.
    placing: knows the partitions of keys that were parked before a resize.
    """

    name: str
    group: str
    connection: Connection
    layout: GroupLayout
    commands: CommandClient
    owner: Owner
    guard: Guard
    duties: Duties = field(default_factory=Duties)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    told: asyncio.Event = field(default_factory=asyncio.Event)
    joined: bool = False
    heard: float = field(default_factory=monotonic)
    placing: Placing = field(init=False)

    def __post_init__(self) -> None:
        self.placing = Placing(self.connection, self.group)

    def hear(self, assignment: Assignment) -> None:
        """Take note of an assignment."""
        self.look()
        now = self.heard = monotonic()
        if self.duties.take(assignment):
            self.news.set()
            if assignment.standing is Standing.MEMBER:
                self.told.set()
                self._answered(assignment.answers, now)

    def _answered(self, asked: float | None, now: float) -> None:
        waited = self.guard.answered(asked, now)
        if waited is not None:
            _log.info(
                "handlers are started again", group=self.group, member=self.name, waited=round(waited, 3)
            )
        if asked != 0:
            self.owner.heed()

    @property
    def wants_to_ask(self) -> bool:
        """Whether the coordinator is to be asked, and the broker takes that: else it would pile up."""
        return self.guard.asks and self.commands.blocked is None

    async def watch(self) -> None:
        """See again and again whether the event loop has stood still, until it is cancelled."""
        while True:
            await asyncio.sleep(self.guard.every)
            self.look()

    def look(self) -> None:
        """See whether the event loop has stood still, or the network: then nothing is started until the
        coordinator has answered a question of now."""
        stood = self.guard.look(monotonic())
        if stood:
            _log.warning(
                "the event loop stood still; no handler is started until the coordinator has answered",
                group=self.group,
                member=self.name,
                seconds=round(stood, 2),
                hint="the process was stopped, its machine is overloaded, or a handler blocks the event loop:"
                " then make it a plain function, which runs in a thread",
            )
            self.owner.heed()
            if self.joined:
                self.ask()

    def ask(self, idle: Collection[int] = ()) -> None:
        """Say that it is alive, and what it has nothing of; the answer is what it has to consume."""
        duties, control = self.duties, self.commands.control
        self.commands.tell(
            Heartbeat(self.name, duties.epoch, duties.generation, control, tuple(idle), monotonic())
        )

    async def work(self) -> None:
        """Do what the assignments ask for; returns when it is leaving and owns nothing."""
        duties = self.duties
        try:
            async with asyncio.TaskGroup() as steps:
                while not (duties.leaving and duties.nothing_left):
                    self.news.clear()
                    self._check_standing()
                    while (step := duties.next()) is not None:
                        duties.begun(step)
                        steps.create_task(self._do(step))
                    self._report()
                    await self.news.wait()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        self._report()

    async def _do(self, step: Take | GiveUp) -> None:
        # Each once: what has ended may be ours again before the rest has.
        giving = set(step.partitions)

        def ended(partitions: Collection[int]) -> None:
            self.duties.gave_up(giving.intersection(partitions))
            giving.difference_update(partitions)
            self.news.set()

        match step:
            case Take(partitions):
                for gain in await self._gains(partitions):
                    await self.owner.gained(gain)
                self.duties.held(partitions)
                self.news.set()
                if self.guard.asks:
                    self.ask()
            case GiveUp(given):
                await self.owner.revoke(given, ended)
                ended(given)

    def _report(self) -> None:
        duties, commands = self.duties, self.commands
        for handover, ended in duties.released():
            commands.tell(Released(self.name, commands.control, handover, ended, duties.epoch))

    def _check_standing(self) -> None:
        duties = self.duties
        if duties.leaving or duties.standing is Standing.MEMBER:
            return
        if duties.standing is Standing.REPLACED:
            raise ConfigError(
                f"another process has joined group {self.group} as {self.name!r}: every member needs a name"
                " of its own"
            )
        raise UnknownMember(f"group {self.group} does not know {self.name} (any more)")

    async def _gains(self, partitions: dict[int, int]) -> list[Gain]:
        """What partitions (by id, with their tokens) are; those of each layout by themselves."""
        by_layout: dict[int, list[Owned]] = {}
        for identity, token in sorted(partitions.items()):
            number, partition = layout_and_number(identity)
            layout = await self._layout(number)
            queue = layout.queue(self.group, partition)
            by_layout.setdefault(number, []).append(Owned(partition, queue, token, number))
        gains = []
        for number, owned in by_layout.items():
            layout = await self._layout(number)
            resized, hashed = number > 1, layout.ingress == "hash-exchange"
            asked = partial(self.placing.places, layout)
            gains.append(
                Gain(
                    self.connection,
                    owned,
                    layout.partitions,
                    finder(layout),
                    layout.prefetch_of_one,
                    computed=resized and not hashed,
                    places=asked if resized and hashed else None,
                    guard=self.guard,
                    speak_on=self.commands.speaking,
                )
            )
        return gains

    async def _layout(self, number: int) -> GroupLayout:
        """The layout of this number; the group's settings are read again where it is not known."""
        for attempt in range(2):
            for layout in (self.layout, self.layout.before()):
                if layout is not None and layout.layout == number:
                    return layout
            found = None if attempt else await read_layout(self.connection, self.group)
            self.layout = found or self.layout
        raise UnknownMember(f"group {self.group}: the settings in the broker know nothing of layout {number}")


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first of several errors, which usually have one cause."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
