"""What a member does with what it is told, without a broker: its partitions move each by itself."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from partymq.client.guard import Guard
from partymq.client.membership import Membership
from partymq.client.ownership import Ended, Gain
from partymq.client.session import Session
from partymq.errors import BrokerError, UnknownMember
from partymq.group.layout import GroupLayout
from partymq.group.wire import Assignment, Heartbeat, Released, Standing


class Commands:
    """What is said to the coordinator."""

    control = "q-a"
    speaking = None

    def __init__(self) -> None:
        self.said: list[Any] = []

    def tell(self, call: Any) -> None:
        self.said.append(call)


class Slow:
    """An owner whose partitions end, or begin, when the test says so."""

    def __init__(self) -> None:
        self.begin = asyncio.Event()
        self.begin.set()
        self.ending: dict[int, asyncio.Event] = {}
        self.gains: list[list[int]] = []
        self.owned: set[int] = set()
        self.heeded = 0

    async def gained(self, gain: Gain) -> None:
        numbers = [owned.number for owned in gain.partitions]
        assert self.owned.isdisjoint(numbers)
        self.gains.append(numbers)
        await self.begin.wait()
        self.owned.update(numbers)

    def idle(self, partitions: Collection[int]) -> list[int]:
        return []

    async def revoke(self, partitions: Collection[int], ended: Ended | None = None) -> None:
        async def end(number: int) -> None:
            if number in self.ending:
                await self.ending[number].wait()
            self.owned.discard(number)
            assert ended is not None
            ended([number])

        await asyncio.gather(*(end(number) for number in partitions))

    def heed(self) -> None:
        self.heeded += 1

    def lost(self, error: BrokerError) -> None: ...


class Member:
    def __init__(self) -> None:
        self.owner = Slow()
        self.commands = Commands()
        nothing: Any = None
        commands: Any = self.commands
        guard = Guard(9.0, monotonic())
        self.session = Session("a", "g", nothing, GroupLayout(8), commands, self.owner, guard)
        self.session.joined = True
        self.working = asyncio.create_task(self.session.work())

    def told(self, partitions: dict[int, int], revoke: dict[int, list[int]], **more: Any) -> None:
        self.session.hear(Assignment(1, 1, partitions=partitions, revoke=revoke, **more))

    @property
    def released(self) -> list[tuple[int, tuple[int, ...]]]:
        return [(word.handover, word.partitions) for word in self.commands.said if isinstance(word, Released)]


@asynccontextmanager
async def member() -> AsyncIterator[Member]:
    made = Member()
    yield made
    made.working.cancel()
    await asyncio.wait([made.working])


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


async def test_a_handler_that_does_not_end_holds_back_its_partition_alone() -> None:
    async with member() as a:
        a.told({0: 1, 1: 1, 2: 1}, {})
        await until(lambda: a.owner.owned == {0, 1, 2})
        a.owner.ending[1] = asyncio.Event()

        a.told({0: 1}, {7: [1, 2]}, piecewise=True)
        await until(lambda: (7, (2,)) in a.released)
        assert a.owner.owned == {0, 1}

        a.told({3: 9}, {8: [1], 9: [0]}, piecewise=True)
        await until(lambda: a.owner.owned == {1, 3} and (9, (0,)) in a.released)
        assert all(1 not in partitions for _, partitions in a.released)

        a.owner.ending[1].set()
        await until(lambda: (8, (1,)) in a.released)


async def test_what_is_given_up_and_got_back_is_kept_when_the_rest_of_its_hand_over_has_ended() -> None:
    async with member() as a:
        a.told({0: 1, 1: 1}, {})
        await until(lambda: a.owner.owned == {0, 1})
        a.owner.ending[1] = asyncio.Event()
        a.told({}, {7: [0, 1]}, piecewise=True)
        await until(lambda: (7, (0,)) in a.released)
        a.told({0: 2}, {8: [1]}, piecewise=True)
        await until(lambda: a.owner.owned == {0, 1})

        a.owner.ending[1].set()
        await until(lambda: (8, (1,)) in a.released)
        await asyncio.sleep(0.01)
        assert a.owner.gains == [[0, 1], [0]]
        assert a.owner.owned == {0}
        assert not a.working.done()


async def test_a_coordinator_that_knows_whole_hand_overs_only_hears_of_whole_ones() -> None:
    async with member() as a:
        a.told({0: 1, 1: 1}, {})
        await until(lambda: a.owner.owned == {0, 1})
        a.owner.ending[1] = asyncio.Event()
        a.told({}, {7: [0, 1]})
        await until(lambda: a.owner.owned == {1})
        a.told({}, {7: [0, 1]})
        await asyncio.sleep(0.01)
        assert a.released == []
        a.owner.ending[1].set()
        await until(lambda: a.released == [(7, (0, 1))])


async def test_a_hook_that_takes_its_time_holds_back_no_other_partition() -> None:
    async with member() as a:
        a.owner.begin.clear()
        a.told({0: 1}, {})
        await until(lambda: a.owner.gains == [[0]])
        a.told({0: 1, 1: 2}, {})
        await until(lambda: a.owner.gains == [[0], [1]])


async def test_what_is_still_being_taken_is_not_released() -> None:
    async with member() as a:
        a.owner.begin.clear()
        a.told({0: 1}, {})
        await until(lambda: a.owner.gains == [[0]])
        a.told({}, {7: [0]}, piecewise=True)
        await asyncio.sleep(0.01)
        assert a.released == []
        a.owner.begin.set()
        await until(lambda: a.released == [(7, (0,))])
        assert a.owner.owned == set()


async def test_who_leaves_is_done_when_everything_has_ended() -> None:
    async with member() as a:
        a.told({0: 1, 1: 1}, {})
        await until(lambda: a.owner.owned == {0, 1})
        a.owner.ending[1] = asyncio.Event()
        a.session.duties.leave()
        a.session.news.set()
        await until(lambda: a.owner.owned == {1})
        assert not a.working.done()
        a.owner.ending[1].set()
        await until(a.working.done)
        a.working.result()


async def test_who_is_refused_ends_though_a_handler_does_not() -> None:
    async with member() as a:
        a.told({0: 1}, {})
        await until(lambda: a.owner.owned == {0})
        a.owner.ending[0] = asyncio.Event()
        a.told({}, {7: [0]})
        await asyncio.sleep(0.01)
        a.told({}, {}, standing=Standing.UNKNOWN)
        with pytest.raises(UnknownMember):
            await asyncio.wait_for(a.working, 60)


async def test_what_a_hook_raises_ends_the_work() -> None:
    async with member() as a:

        async def fails(gain: Gain) -> None:
            raise ValueError("no table")

        a.owner.gained = fails  # type: ignore[method-assign]
        a.told({0: 1}, {})
        with pytest.raises(ValueError, match="no table"):
            await asyncio.wait_for(a.working, 60)


async def test_a_member_that_stood_still_asks_the_coordinator_before_it_goes_on() -> None:
    async with member() as a:
        guard = a.session.guard = Guard(9.0, monotonic() - 5.0)
        a.told({0: 1}, {}, answers=0.0)
        assert guard.closed
        assert a.owner.heeded == 1, "it has closed"
        (beat,) = [call for call in a.commands.said if isinstance(call, Heartbeat)]
        a.told({0: 1}, {}, answers=beat.asked - 6.0)
        assert guard.closed
        a.told({0: 1}, {}, answers=beat.asked)
        assert not guard.closed
        assert a.owner.heeded == 3, "it has opened"


async def test_a_refusal_does_not_let_a_member_go_on() -> None:
    async with member() as a:
        guard = a.session.guard = Guard(9.0, monotonic() - 5.0)
        a.session.look()
        a.told({}, {}, answers=monotonic(), standing=Standing.UNKNOWN)
        assert guard.closed
        with pytest.raises(UnknownMember):
            await asyncio.wait_for(a.working, 60)


async def test_who_stood_still_while_it_joined_asks_when_it_has_joined() -> None:
    """A coordinator that does not know it yet would refuse it."""
    async with member() as a:
        a.session.joined = False
        a.session.guard = Guard(9.0, monotonic() - 5.0)
        a.session.look()
        assert a.session.guard.asks
        assert not a.commands.said


async def test_a_partition_without_proof_has_the_coordinator_asked_at_once() -> None:
    async with member() as a:

        async def gained(gain: Gain) -> None:
            assert gain.guard is a.session.guard
            assert not gain.guard.prove(monotonic())

        a.owner.gained = gained  # type: ignore[method-assign]
        a.told({0: 1}, {}, answers=0.0)
        await until(lambda: any(isinstance(call, Heartbeat) for call in a.commands.said))


def test_a_membership_can_be_run_again_in_another_event_loop():
    membership = Membership("amqp://127.0.0.1:1", "g")

    async def run_for_a_moment() -> None:
        running = asyncio.create_task(membership.run(Slow()))
        done, _ = await asyncio.wait([running], timeout=0.1)
        assert not done
        membership.leave()
        await running

    for _ in range(2):
        asyncio.run(run_for_a_moment())
