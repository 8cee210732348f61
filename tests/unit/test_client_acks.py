"""When acknowledgements go out, by a clock that is only played."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from partymq.client.acks import Acks
from partymq.client.lanes import Item, Lanes
from partymq.client.ownership import Owned
from partymq.client.partition import Partition
from partymq.group.key import HeaderKey

INTERVAL = 0.005
PREFETCH = 62


class Clock:
    """What is used of an event loop."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.due.append((self.now, callback))

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        self.due.append((self.now + seconds, callback))

    def turn(self) -> None:
        """What is due now."""
        now, self.due = (
            [one for one in self.due if one[0] <= self.now],
            [one for one in self.due if one[0] > self.now],
        )
        for _, callback in now:
            callback()

    def go_on(self, seconds: float) -> None:
        until = self.now + seconds
        while self.due and min(at for at, _ in self.due) <= until:
            self.now = max(self.now, min(at for at, _ in self.due))
            self.turn()
        self.now = until


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.writes = 0
        self.lanes = Lanes(10_000)
        self.acks = Acks(INTERVAL, self.one_write)
        self.acks._loop = self.clock  # type: ignore[assignment]
        self.sent: list[Any] = []
        self._tags: dict[Partition, Iterator[int]] = {}

    @contextlib.contextmanager
    def one_write(self) -> Iterator[None]:
        self.writes += 1
        yield

    def partition(self, number: int) -> Partition:
        made = Partition(
            Owned(number, "q", 7), self.lanes, HeaderKey("k"), PREFETCH, lambda: None, lambda *_: None
        )
        world = self

        class Channel:
            error = None

            def ack(self, tag: int, multiple: bool = False) -> None:
                world.sent.append((number, "upto", tag))

            def ack_many(self, tags: list[int]) -> None:
                world.sent.append((number, "alone", tags))

        made._channel = Channel()  # type: ignore[assignment]
        self._tags[made] = itertools.count(1)
        return made

    def deliver(self, partition: Partition, count: int) -> list[Item]:
        items = [Item(partition.stream, next(self._tags[partition]), None) for _ in range(count)]
        self.lanes.add_all(partition.stream, items)
        while self.lanes.start() is not None:
            pass
        return items

    def handle(self, partition: Partition, items: list[Item]) -> None:
        for item in items:
            self.lanes.finish(item)
            self.acks.done(partition)

    def busy_for(self, partition: Partition, seconds: float) -> None:
        """Some 25,000 messages a second, half of the prefetch at a time."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.handle(partition, self.deliver(partition, PREFETCH // 2))
            self.clock.turn()
            self.clock.go_on(INTERVAL / 4)

    def sent_of(self, number: int) -> list[Any]:
        return [what for what in self.sent if what[0] == number]


@pytest.fixture
async def world() -> World:
    return World()


async def test_a_message_is_acknowledged_after_the_interval_while_little_is_handled(world: World):
    partition = world.partition(1)
    world.handle(partition, world.deliver(partition, 3))
    world.clock.go_on(INTERVAL * 0.9)
    assert world.sent == []
    world.clock.go_on(INTERVAL * 0.2)
    assert world.sent == [(1, "upto", 3)]


async def test_of_one_partition_half_of_the_prefetch_is_acknowledged_at_once(world: World):
    partition = world.partition(1)
    items = world.deliver(partition, PREFETCH)
    world.handle(partition, items[:30])
    world.clock.turn()
    assert world.sent == []
    world.handle(partition, items[30:31])
    world.clock.turn()
    assert world.sent == [(1, "upto", 31)]


@pytest.mark.parametrize(("partitions", "enough"), [(2, 47), (4, 55), (50, 55)])
async def test_of_several_so_much_that_half_a_prefetch_of_all_is_left(
    world: World, partitions: int, enough: int
):
    *others, last = (world.partition(number) for number in range(partitions))
    for one in others:
        world.handle(one, world.deliver(one, 30))
    items = world.deliver(last, PREFETCH)
    world.handle(last, items[: enough - 1])
    world.clock.turn()
    assert world.sent == []
    world.handle(last, items[enough - 1 : enough])
    world.clock.turn()
    assert world.sent == [(partitions - 1, "upto", enough)], "and nothing of the others"
    world.clock.go_on(INTERVAL)
    assert len(world.sent) == partitions


async def test_the_smallest_prefetch_is_acknowledged_message_by_message(world: World):
    partition = world.partition(1)
    partition.prefetch = 1
    for tag in range(1, 5):
        world.handle(partition, world.deliver(partition, 1))
        world.clock.turn()
        assert world.sent[-1] == (1, "upto", tag)


async def test_all_partitions_that_are_due_in_a_turn_are_acknowledged_in_one_write(world: World):
    partitions = [world.partition(number) for number in range(5)]
    for one in partitions:
        world.handle(one, world.deliver(one, 55))
    world.clock.turn()
    assert len(world.sent) == 5
    assert world.writes == 1


async def test_while_much_is_handled_a_few_wait_longer_but_not_without_end(world: World):
    busy, few = world.partition(1), world.partition(2)
    world.busy_for(busy, 0.1)
    world.handle(few, world.deliver(few, 2))
    world.busy_for(busy, 3 * INTERVAL)
    assert world.sent_of(2) == []
    world.busy_for(busy, 5 * INTERVAL)
    assert world.sent_of(2) == [(2, "upto", 2)]
    assert all(upto % (PREFETCH // 2) == 0 for _, _, upto in world.sent_of(1))


async def test_what_is_left_when_nothing_more_comes_is_acknowledged_within_eight_intervals(world: World):
    busy = world.partition(1)
    world.busy_for(busy, 0.1)
    *_, last = world.deliver(busy, 3)
    world.handle(busy, busy.stream.items())
    world.clock.go_on(8 * INTERVAL)
    assert world.sent[-1] == (1, "upto", last.tag)
    world.clock.go_on(1)
    world.handle(busy, world.deliver(busy, 1))
    world.clock.go_on(4 * INTERVAL)
    world.handle(busy, world.deliver(busy, 1))
    world.clock.go_on(INTERVAL)
    assert world.sent[-1] == (1, "upto", last.tag + 2), "not busy any more"


async def test_behind_a_slow_message_half_of_the_prefetch_is_acknowledged_singly_at_once(world: World):
    partition = world.partition(1)
    slow, *others = world.deliver(partition, PREFETCH)
    world.handle(partition, others[:31])
    world.clock.turn()
    assert world.sent == [(1, "alone", list(range(2, 33)))]
    world.handle(partition, others[31:])
    world.handle(partition, [slow])
    world.clock.turn()
    assert world.sent[-1] == (1, "upto", PREFETCH)


async def test_what_is_done_behind_a_slow_message_waits_only_once_for_being_busy(world: World):
    busy, held_up = world.partition(1), world.partition(2)
    world.busy_for(busy, 0.1)
    _slow, *others = world.deliver(held_up, 6)
    world.handle(held_up, others)
    world.busy_for(busy, 10 * INTERVAL)
    assert world.sent_of(2) == [(2, "alone", [2, 3, 4, 5, 6])]
