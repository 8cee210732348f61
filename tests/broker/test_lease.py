"""Lock and state are one thing: who holds the state message coordinates, and nobody else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import msgspec
import pytest

from partymq.amqp.connection import Connection, connect
from partymq.amqp.url import BrokerUrl
from partymq.coordinator.lease import Lease, StateMessage
from partymq.errors import BrokerError, ConfigError, LeaseLost
from partymq.group.names import state_queue
from partymq.group.state import GroupState
from tests.conftest import Vhost

PARTITIONS = 4
Connect = Callable[[], Awaitable[Connection]]


@pytest.fixture
async def broker(vhost: Vhost) -> AsyncIterator[Connect]:
    """Makes connections that are closed at the end of the test."""
    async with AsyncExitStack() as stack:

        async def make() -> Connection:
            connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
            stack.push_async_callback(connection.close)
            return connection

        yield make


def lease_on(
    connection: Connection, name: str, kind: str = "quorum", last_known: StateMessage | None = None
) -> Lease:
    return Lease(
        connection,
        group="g",
        partitions=PARTITIONS,
        instance=name,
        queue_type=kind,
        last_known=last_known,
    )


def with_generation(generation: int) -> GroupState:
    state = GroupState.new(PARTITIONS)
    state.generation = generation
    return state


async def messages_in_the_queue(vhost: Vhost) -> tuple[int, int]:
    """Ready and in hand, as the broker itself counts them."""
    rows = await vhost.node.ctl_async(
        "list_queues", "-p", vhost.name, "--silent", "name", "messages_ready", "messages_unacknowledged"
    )
    for row in rows.splitlines():
        name, *counts = row.split()
        if name == state_queue("g"):
            return int(counts[0]), int(counts[1])
    raise AssertionError(rows)


@pytest.mark.parametrize("kind", ["quorum", "classic"])
async def test_the_first_one_gets_it_and_saves(vhost: Vhost, broker: Connect, kind: str) -> None:
    lease = lease_on(await broker(), "one", kind)
    async with asyncio.timeout(60):
        assert await lease.acquire() == GroupState.new(PARTITIONS)
        for generation in range(1, 20):
            await lease.save(with_generation(generation))
        while await messages_in_the_queue(vhost) != (0, 1):
            await asyncio.sleep(0.05)
    assert lease.epoch == 1


async def test_a_second_one_waits_and_takes_over_what_was_saved(vhost: Vhost, broker: Connect) -> None:
    first_connection = await broker()
    first = lease_on(first_connection, "one")
    async with asyncio.timeout(60):
        await first.acquire()
        second = lease_on(await broker(), "two")
        waiting = asyncio.create_task(second.acquire())
        await first.save(with_generation(7))
        assert not waiting.done()
        first_connection.abort()
        state = await waiting
    assert state.generation == 7
    assert second.epoch == 2
    with pytest.raises(BrokerError):
        await first.save(with_generation(8))


async def test_a_third_one_takes_over_from_the_second(vhost: Vhost, broker: Connect) -> None:
    generation = 0
    async with asyncio.timeout(60):
        for epoch in range(1, 6):
            connection = await broker()
            lease = lease_on(connection, f"number {epoch}")
            state = await lease.acquire()
            assert (lease.epoch, state.generation) == (epoch, generation)
            generation += 1
            await lease.save(with_generation(generation))
            connection.abort()


async def test_of_several_states_the_highest_counts(vhost: Vhost, broker: Connect) -> None:
    connection = await broker()
    channel = await connection.open_channel()
    await channel.declare_queue(
        state_queue("g"),
        durable=True,
        arguments={"x-queue-type": "quorum", "x-single-active-consumer": True},
    )
    await channel.select_confirms()
    for epoch, version, generation in ((3, 9, 39), (4, 2, 42), (4, 1, 41), (0, 0, 0)):
        message = StateMessage(epoch, version, "somebody", with_generation(generation))
        await channel.publish("", state_queue("g"), msgspec.json.encode(message))
    await channel.publish("", state_queue("g"), b"no state at all")
    lease = lease_on(await broker(), "one")
    async with asyncio.timeout(60):
        state = await lease.acquire()
        assert (state.generation, lease.epoch) == (42, 5)
        while await messages_in_the_queue(vhost) != (0, 1):
            await asyncio.sleep(0.05)


async def test_another_number_of_partitions_is_refused(vhost: Vhost, broker: Connect) -> None:
    connection = await broker()
    async with asyncio.timeout(60):
        await lease_on(connection, "one").acquire()
        await connection.close()
        other = Lease(await broker(), group="g", partitions=8, instance="two", queue_type="quorum")
        with pytest.raises(ConfigError, match=r"`partitions` is 8, but .* was made for 4"):
            await other.acquire()


async def test_a_deleted_state_queue_ends_the_lease_and_the_state_comes_back(
    vhost: Vhost, broker: Connect
) -> None:
    connection = await broker()
    lease = lease_on(connection, "one", "classic")
    async with asyncio.timeout(60):
        await lease.acquire()
        await lease.save(with_generation(5))
        operator = await (await broker()).open_channel()
        await operator.delete_queue(state_queue("g"))
        assert "deleted" in str(await lease.wait_lost())
        again = lease_on(await broker(), "one", "classic", last_known=lease.current)
        state = await again.acquire()
    assert state.generation == 5
    assert again.epoch == 2


async def test_a_state_queue_of_another_type_is_used_as_it_is(vhost: Vhost, broker: Connect) -> None:
    connection = await broker()
    async with asyncio.timeout(60):
        await lease_on(connection, "one", "classic").acquire()
        await connection.close()
        second = lease_on(await broker(), "two", "quorum")
        await second.acquire()
    assert second.epoch == 2


async def test_a_state_that_another_version_wrote_is_left_to_it(vhost: Vhost, broker: Connect) -> None:
    connection = await broker()
    async with asyncio.timeout(60):
        lease = lease_on(connection, "newer", "classic")
        await lease.acquire()
        channel = await connection.open_channel()
        await channel.select_confirms()
        strange = b'{"epoch": 9, "version": 3, "instance": "newer", "state": {"shape": "not known here"}}'
        await channel.publish("", state_queue("g"), strange)
        assert "can't be read by this version" in str(await lease.wait_lost())
        await connection.close()
        again = lease_on(await broker(), "older", "classic")
        with pytest.raises(LeaseLost, match="can't be read by this version"):
            await again.acquire()
        while (await messages_in_the_queue(vhost))[0] + (await messages_in_the_queue(vhost))[1] < 2:
            await asyncio.sleep(0.05)
