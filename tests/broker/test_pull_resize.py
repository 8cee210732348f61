"""A pull group gets another number of partitions while publishers and members are at work."""

import asyncio
from itertools import pairwise

import pytest
from pamqp.commands import Basic

from partymq import Consumer, Message, Publisher, RetryPolicy
from partymq.amqp.connection import Connection, connect
from partymq.amqp.content import encode_content
from partymq.amqp.url import BrokerUrl
from partymq.client.deadletters import count
from partymq.client.parking import ask_for_release
from partymq.coordinator.layout_store import locked, read_layout, write_layout
from partymq.coordinator.pull_removal import remove_before
from partymq.coordinator.pull_topology import agree, declare, resize, unbind
from partymq.errors import ConfigError, ProtocolError
from partymq.group.layout import GroupLayout
from partymq.group.names import dead_letter_queue, parked_queue, settings_queue
from partymq.group.partitioner import partition_of
from tests.broker.tcp_proxy import TcpProxy
from tests.broker.test_client_parking import put
from tests.broker.test_pull_group import KEYS, Seen, Start, publish, start
from tests.conftest import Vhost

__all__ = ["start"]


async def opened(vhost: Vhost) -> Connection:
    return await connect(BrokerUrl.parse(vhost.amqp_url), name="test")


async def over(connection: Connection) -> GroupLayout:
    """The layout, once nothing is left of the one before."""
    while True:
        layout = await read_layout(connection, "g")
        if layout is not None and not layout.previous:
            return layout
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_order_is_kept_and_nothing_is_repeated_while_a_group_is_resized_again_and_again(
    vhost: Vhost, start: Start, queue_type: str
) -> None:
    seen = Seen()
    wish = {"partitions": 4, "queue_type": queue_type}
    rounds = 120
    connection = await opened(vhost)
    async with asyncio.timeout(150):
        await agree(connection, "g", wish)
        members = [Consumer(vhost.amqp_url, group="g", **wish) for _ in range(3)]
        for member in members:
            start(member, seen.handle)
        publishing = asyncio.create_task(publish(vhost.amqp_url, wish, rounds, 0.05))
        for partitions, prefetch in ((8, 64), (5, None)):
            while seen.count < KEYS:
                await asyncio.sleep(0.02)
            await resize(connection, "g", partitions, prefetch)
            layout = await over(connection)
            assert (layout.partitions, layout.prefetch) == (partitions, 64)
        await publishing
        while seen.count < rounds * KEYS:
            await asyncio.sleep(0.02)
        while sorted(number for member in members for number in member.partitions) != list(range(5)):
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.2)
    assert all(numbers == list(range(rounds)) for numbers in seen.numbers.values()), seen.numbers
    with pytest.raises(Exception, match="NOT_FOUND"):
        await (await connection.open_channel()).declare_queue("partymq.g.q.partition-0", passive=True)
    await connection.close()


async def test_connections_lost_in_the_middle_of_a_resize_repeat_but_lose_and_swap_nothing(
    vhost: Vhost, start: Start, tcp_proxy: TcpProxy
) -> None:
    """All members' connections, so that the coordinator's term ends too."""
    seen = Seen()
    wish = {"partitions": 4, "queue_type": "quorum"}
    rounds = 60
    connection = await opened(vhost)
    async with asyncio.timeout(150):
        await agree(connection, "g", wish)
        for _ in range(3):
            start(Consumer(tcp_proxy.url(vhost.amqp_url), group="g", **wish), seen.handle)
        publishing = asyncio.create_task(publish(vhost.amqp_url, wish, rounds, 0.05))
        while seen.count < KEYS:
            await asyncio.sleep(0.02)
        await resize(connection, "g", 6)
        for _ in range(3):
            await asyncio.sleep(1.0)
            tcp_proxy.cut()
        await publishing
        assert (await over(connection)).partitions == 6
        while len(seen.numbers) < KEYS or any(numbers[-1] < rounds - 1 for numbers in seen.numbers.values()):
            await asyncio.sleep(0.02)
    for numbers in seen.numbers.values():
        assert all(after <= before + 1 for before, after in pairwise(numbers)), numbers
        assert sorted(set(numbers)) == list(range(rounds))
    await connection.close()


async def test_a_key_waits_for_its_old_partition_only_and_a_retry_there_is_not_cut_short(
    vhost: Vhost, start: Start
) -> None:
    """From 2 to 4, partitions 0 and 2 wait for 0, the others for 1; the first ones of 0 fail for a while."""
    handled: list[tuple[str, int, int]] = []
    failing = True

    async def handle(message: Message) -> None:
        assert message.key is not None
        number = message.json()["number"]
        if failing and number == 0 and message.key in stuck:
            raise RuntimeError("not yet")
        handled.append((message.key, number, message.attempt))

    # One for each new partition; those of 0 and 2 have different owners.
    keys = {partition_of(f"k{number}".encode(), 4): f"k{number}" for number in range(KEYS)}
    stuck, free = (keys[0], keys[2]), (keys[1], keys[3])
    connection = await opened(vhost)
    wish = {"partitions": 2, "queue_type": "classic"}
    retry = RetryPolicy(max_attempts=1000, first_delay=0.3, max_delay=0.3)
    async with asyncio.timeout(60):
        await agree(connection, "g", wish)
        members = [Consumer(vhost.amqp_url, group="g", retry=retry, **wish) for _ in range(2)]
        for member in members:
            start(member, handle)
        while not all(member.partitions for member in members):
            await asyncio.sleep(0.02)
        await publish_once(vhost.amqp_url, [(key, 0) for key in (*stuck, *free)])
        await resize(connection, "g", 4)
        await publish_once(vhost.amqp_url, [(key, 1) for key in (*stuck, *free)])
        while not {(key, 1, 1) for key in free} <= set(handled):
            await asyncio.sleep(0.05)
        await asyncio.sleep(2.0)
        assert {one[0] for one in handled} == set(free)
        layout = await read_layout(connection, "g")
        assert layout is not None
        assert layout.previous == 2
        failing = False
        while len(handled) < 8:
            await asyncio.sleep(0.05)
        await over(connection)
    for key in stuck:
        assert [one[1] for one in handled if one[0] == key] == [0, 1]
        assert next(one for one in handled if one[0] == key)[2] > 3, "it was begun anew"
    await connection.close()


async def test_a_parked_key_stays_parked_over_a_resize_and_is_released_in_order(
    vhost: Vhost, start: Start
) -> None:
    handled: list[int] = []
    failing = True

    async def handle(message: Message) -> None:
        if failing and message.key == "bad":
            raise RuntimeError("not yet")
        handled.append(message.json()["number"])

    connection = await opened(vhost)
    wish = {"partitions": 2, "queue_type": "classic"}
    async with asyncio.timeout(60):
        await agree(connection, "g", wish)
        for _ in range(2):
            retry = RetryPolicy(max_attempts=1)
            start(Consumer(vhost.amqp_url, group="g", retry=retry, on_failure="park", **wish), handle)
        await publish_once(vhost.amqp_url, [("bad", 0), ("bad", 1)])
        while await count(connection, parked_queue("g")) < 2:
            await asyncio.sleep(0.05)
        await resize(connection, "g", 7)
        await over(connection)
        failing = False
        await publish_once(vhost.amqp_url, [("bad", 2), ("good", 3)])
        while await count(connection, parked_queue("g")) < 3 or handled != [3]:
            await asyncio.sleep(0.05)
        await ask_for_release(connection, "g", "bad")
        while len(handled) < 4:
            await asyncio.sleep(0.05)
    assert handled == [3, 0, 1, 2]
    await connection.close()


async def publish_once(url: str, messages: list[tuple[str, int]]) -> None:
    async with Publisher(url, group="g") as publisher:
        for key, number in messages:
            await publisher.publish({"number": number}, key=key)


async def test_what_can_not_be_resized_is_said(vhost: Vhost) -> None:
    connection = await opened(vhost)
    with pytest.raises(ConfigError, match="no pull group 'g'"):
        await resize(connection, "g", 4)
    await agree(connection, "g", {"partitions": 2, "queue_type": "classic"})
    assert (await resize(connection, "g", 2)).layout == 1
    await resize(connection, "g", 3, 90)
    assert (await resize(connection, "g", 3, 90)).previous == 2, "again, after a failure"
    with pytest.raises(ConfigError, match="from 2 to 3"):
        await resize(connection, "g", 4)
    with pytest.raises(ConfigError, match="from 2 to 3"):
        await resize(connection, "g", 3, 80)
    await connection.close()


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_what_came_too_late_to_an_old_partition_is_a_dead_letter(vhost: Vhost, queue_type: str) -> None:
    """As it came, whatever it is; and it does not expire while it waits for somebody to look at it."""
    connection = await opened(vhost)
    before = await agree(connection, "g", {"partitions": 2, "queue_type": queue_type})
    after = before.resized(3)
    other = await opened(vhost)
    strange = encode_content(1, b"strange", Basic.Properties(delivery_mode=2, headers={"??": 7}))
    async with locked(connection, "g"):
        await declare(connection, "g", after)
        await write_layout(connection, "g", after)
        await unbind(connection, "g", before)
        channel = await connection.open_channel()
        await channel.select_confirms()
        await channel.publish("", before.queue("g", 1), b"late", Basic.Properties(expiration="600000"))
        await put(other, before.queue("g", 1), strange.replace(b"\x02??", b"\x02\xff\xfe"))
        await remove_before(connection, "g", after)
    message = await channel.get(dead_letter_queue("g"))
    assert message is not None
    assert message.body == b"late"
    headers = message.properties.headers or {}
    assert (headers["x-partymq-partition"], headers["x-partymq-expiration"]) == ("1", "600000")
    assert message.properties.expiration is None
    with pytest.raises(ProtocolError):
        await channel.get(dead_letter_queue("g"))
    found = await read_layout(connection, "g")
    assert found is not None
    assert (found.partitions, found.previous) == (3, 0)
    await connection.close()
    await other.close()


async def test_settings_that_somebody_else_reads_are_waited_for(vhost: Vhost) -> None:
    """A process may hang while it has them: the group is not gone, and not to be made anew."""
    connection = await opened(vhost)
    await agree(connection, "g", {"partitions": 2, "queue_type": "quorum"})
    slow = await opened(vhost)
    channel = await slow.open_channel()
    assert await channel.get(settings_queue("g")) is not None
    reading = [
        asyncio.create_task(read_layout(connection, "g")),
        asyncio.create_task(agree(connection, "g", {"partitions": 2, "queue_type": "quorum"})),
    ]
    await asyncio.sleep(1.0)
    assert not any(task.done() for task in reading)
    await slow.close()
    async with asyncio.timeout(60):
        for layout in await asyncio.gather(*reading):
            assert layout is not None
            assert (layout.partitions, layout.version) == (2, 1)
    await connection.close()


async def test_settings_of_one_who_died_are_seen_although_another_reads_them(vhost: Vhost) -> None:
    """Two messages are in the queue then, and a reader may have the newer one just now."""
    connection, other = await opened(vhost), await opened(vhost)
    before = await agree(connection, "g", {"partitions": 2, "queue_type": "classic"})
    after = before.resized(3)
    await declare(connection, "g", after)
    writing = await connection.open_channel()
    await writing.select_confirms()
    await writing.publish("", settings_queue("g"), after.encode())
    older, newer = await other.open_channel(), await other.open_channel()
    assert await older.get(settings_queue("g")) is not None
    assert await newer.get(settings_queue("g")) is not None
    await older.close()
    resizing = asyncio.create_task(resize(connection, "g", 5))
    await asyncio.sleep(0.3)
    await newer.close()
    with pytest.raises(ConfigError, match="from 2 to 3"):
        await resizing
    await connection.close()
    await other.close()


async def test_where_new_settings_are_written_nobody_reads_older_ones_any_more(vhost: Vhost) -> None:
    connection = await opened(vhost)
    layout = await agree(connection, "g", {"partitions": 2, "queue_type": "quorum"})
    for partitions in (3, 4):
        async with locked(connection, "g"):
            layout = layout.resized(partitions).settled()
            await write_layout(connection, "g", layout)
        channel = await connection.open_channel()
        found = await channel.get(settings_queue("g"))
        assert found is not None
        assert GroupLayout.decode(found.body) == layout
        assert await channel.get(settings_queue("g")) is None
        await channel.close()
    await connection.close()
