"""The publisher against a real broker: order over resizes, cuts, lost queues; what it says when it can't."""

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from itertools import pairwise
from textwrap import dedent

import pytest
from pamqp.commands import Basic

from partymq.amqp.connection import Connection, connect
from partymq.amqp.content import Message, Span, decode
from partymq.amqp.url import BrokerUrl
from partymq.client.publisher import Outgoing, Publisher
from partymq.client.sync import SyncPublisher
from partymq.coordinator.layout_store import locked, read_layout, read_layout_since, write_layout
from partymq.coordinator.pull_removal import delete
from partymq.coordinator.pull_topology import agree, declare, unbind
from partymq.errors import CallTimeout, ConfigError
from partymq.group.layout import GroupLayout
from partymq.group.names import settings_queue, write_exchange
from partymq.group.partitioner import partition_of
from tests.broker.tcp_proxy import TcpProxy
from tests.conftest import Vhost

GROUP = "orders"


@pytest.fixture
async def connection(vhost: Vhost) -> AsyncIterator[Connection]:
    opened = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
    yield opened
    await opened.close()


async def drained(connection: Connection, queue: str) -> list[Message]:
    # A quorum queue with a single active consumer allows no basic.get.
    channel = await connection.open_channel()
    count = (await channel.declare_queue(queue, passive=True)).messages
    messages: list[Message] = []
    complete = asyncio.Event()

    def receive(buf: bytes, spans: list[Span]) -> None:
        messages.extend(decode(buf, span) for span in spans)
        if len(messages) == count:
            complete.set()

    await channel.consume(queue, receive, no_ack=True)
    if count:
        await asyncio.wait_for(complete.wait(), 60)
    await channel.close()
    return messages


async def resize(connection: Connection, layout: GroupLayout, partitions: int) -> GroupLayout:
    """What a resize does to publishers."""
    after = layout.resized(partitions)
    async with locked(connection, GROUP):
        await declare(connection, GROUP, after)
        await write_layout(connection, GROUP, after)
        await unbind(connection, GROUP, layout)
    return after


async def by_key(connection: Connection, *layouts: GroupLayout) -> dict[str, list[int]]:
    """The numbers in the bodies, by key, of one layout after the other."""
    found: dict[str, list[int]] = {}
    for layout in layouts:
        for partition in range(layout.partitions):
            for message in await drained(connection, layout.queue(GROUP, partition)):
                key = (message.properties.headers or {})["partitionKey"]
                assert isinstance(key, str)
                assert partition_of(key.encode(), layout.partitions) == partition
                found.setdefault(key, []).append(int(message.body))
    return found


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_a_message_is_in_its_keys_queue_as_it_was_given(
    vhost: Vhost, connection: Connection, queue_type: str
) -> None:
    async with Publisher(vhost.amqp_url, group=GROUP, partitions=4, queue_type=queue_type) as publisher:
        await publisher.publish({"amount": 7}, key="customer-42")
        await publisher.publish(b"\0raw", key="customer-42", headers={"trace": "t1"})
        await publisher.publish("größer", key=42)
        in_headers = Basic.Properties(headers={"partitionKey": 42})
        for _ in range(4):
            await publisher.publish(b"", properties=in_headers)
        layout = publisher.layout
    first, second = await drained(connection, layout.queue(GROUP, partition_of(b"customer-42", 4)))
    assert first.body == b'{"amount":7}'
    assert first.properties.content_type == "application/json"
    assert first.properties.delivery_mode == 2
    assert first.properties.headers == {"partitionKey": "customer-42"}
    assert second.body == b"\0raw"
    assert second.properties.headers == {"partitionKey": "customer-42", "trace": "t1"}
    third, *others = await drained(connection, layout.queue(GROUP, partition_of(b"42", 4)))
    assert third.body.decode() == "größer"
    assert len(others) == 4


async def test_messages_without_a_key_are_spread(vhost: Vhost, connection: Connection) -> None:
    async with Publisher(vhost.amqp_url, group=GROUP, partitions=4, queue_type="classic") as publisher:
        assert await publisher.publish_many(Outgoing(b"") for _ in range(8)) == 8
        layout = publisher.layout
    counts = [len(await drained(connection, layout.queue(GROUP, number))) for number in range(4)]
    assert counts == [2, 2, 2, 2]


async def test_whoever_comes_first_creates_the_group_and_others_are_told_what_differs(
    vhost: Vhost, connection: Connection
) -> None:
    others = [await connect(BrokerUrl.parse(vhost.amqp_url), name=f"other {n}") for n in range(4)]
    layouts = await asyncio.gather(*(agree(one, GROUP, {"partitions": 3}) for one in (connection, *others)))
    assert {layout.partitions for layout in layouts} == {3}
    assert await read_layout(connection, GROUP) == layouts[0]
    with pytest.raises(ConfigError, match=r"partitions = 5 is set here, .* partitions = 3"):
        async with Publisher(vhost.amqp_url, group=GROUP, partitions=5):
            pass
    with pytest.raises(ConfigError, match="rabbitmq_consistent_hash_exchange"):
        await agree(others[0], "hashed", {"ingress": "hash-exchange"})
    assert await delete(connection, GROUP, layouts[0]) == 0
    assert await read_layout(connection, GROUP) is None
    for other in others:
        await other.close()


async def test_a_group_that_nobody_asked_for_is_a_warning(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "partymq")
    await agree(connection, "meant", {"queue_type": "classic", "partitions": 1})
    await agree(connection, "meant too", meant=True)
    await agree(connection, "odrers")
    await agree(connection, "odrers")
    created = [record for record in caplog.records if record.getMessage().startswith("group created")]
    assert [(record.levelname, record.partymq["group"]) for record in created] == [  # type: ignore[attr-defined]
        ("INFO", "meant"),
        ("INFO", "meant too"),
        ("WARNING", "odrers"),
    ]


@pytest.mark.parametrize("cut", [False, True], ids=["", "while connections break"])
async def test_order_is_kept_while_the_group_is_resized(
    vhost: Vhost, connection: Connection, tcp_proxy: TcpProxy, cut: bool
) -> None:
    sent: dict[str, list[int]] = {}
    url = tcp_proxy.url(vhost.amqp_url)
    async with Publisher(
        url, group=GROUP, partitions=4, queue_type="classic", max_in_flight=500
    ) as publisher:
        layouts = [publisher.layout]
        stop = asyncio.Event()

        async def publish(who: int) -> None:
            number = 0
            while not stop.is_set():
                messages = []
                for _ in range(100):
                    number += 1
                    key = f"k{who}.{number % 7}"
                    sent.setdefault(key, []).append(number)
                    messages.append((str(number), key))
                await publisher.publish_many(messages)

        publishing = [asyncio.create_task(publish(who)) for who in range(3)]
        for partitions in (6, 2):
            await asyncio.sleep(0.2)
            if cut:
                tcp_proxy.cut()
            layouts.append(await resize(connection, layouts[-1], partitions))
        await asyncio.sleep(0.2)
        stop.set()
        await asyncio.gather(*publishing)
        assert publisher.layout == layouts[-1]
    found = await by_key(connection, *layouts)
    if cut:
        found = {key: list(dict.fromkeys(numbers)) for key, numbers in found.items()}
    assert found == sent


async def test_what_was_not_confirmed_when_the_connection_broke_comes_again_in_order(
    vhost: Vhost, connection: Connection, tcp_proxy: TcpProxy
) -> None:
    async with Publisher(
        tcp_proxy.url(vhost.amqp_url), group=GROUP, partitions=2, queue_type="classic"
    ) as publisher:

        async def numbers() -> AsyncIterator[tuple[str, str]]:
            for number in range(3_000):
                if number in (1_000, 2_000):
                    tcp_proxy.cut()
                yield str(number), "k"
                if not number % 50:
                    await asyncio.sleep(0.001)

        assert await publisher.publish_many(numbers()) == 3_000
        layout = publisher.layout
    found = (await by_key(connection, layout))["k"]
    assert sorted(set(found)) == list(range(3_000))
    firsts = list(dict.fromkeys(found))
    assert firsts == list(range(3_000))
    # Going back only where something is repeated, and then without a gap.
    assert all(later <= earlier + 1 for earlier, later in pairwise(found))


async def test_a_publisher_does_not_go_back_to_an_older_layout(vhost: Vhost, connection: Connection) -> None:
    """Whoever resized has died before the older settings were dropped, and somebody reads the newer ones."""
    layout = await agree(connection, GROUP, {"partitions": 2, "queue_type": "classic"})
    async with Publisher(vhost.amqp_url, group=GROUP) as publisher:
        after = await resize(connection, layout, 4)
        await publisher.publish(b"0", key="a")
        settings = await connection.open_channel()
        await settings.select_confirms()
        await settings.publish("", settings_queue(GROUP), layout.encode(), mandatory=True)
        newer = await settings.get(settings_queue(GROUP))
        assert newer is not None
        assert GroupLayout.decode(newer.body) == after
        other = await connect(BrokerUrl.parse(vhost.amqp_url), name="other")
        reading = asyncio.create_task(read_layout_since(other, GROUP, after))
        assert await read_layout(other, GROUP) == layout
        await asyncio.sleep(0.2)
        await settings.close()
        assert await reading == after
        await other.close()


async def test_a_queue_that_was_deleted_is_declared_again(vhost: Vhost, connection: Connection) -> None:
    async with Publisher(vhost.amqp_url, group=GROUP, partitions=1, queue_type="classic") as publisher:
        queue = publisher.layout.queue(GROUP, 0)
        channel = await connection.open_channel()
        await channel.delete_queue(queue)
        await publisher.publish(b"1", "k")
        await channel.delete_exchange(write_exchange(GROUP))
        await publisher.publish(b"2", "k")
        assert [message.body for message in await drained(connection, queue)] == [b"1", b"2"]
        await delete(connection, GROUP, publisher.layout)
        with pytest.raises(ConfigError, match="was deleted"):
            await asyncio.wait_for(publisher.publish(b"3", "k"), 60)


async def test_a_message_that_the_broker_refuses_is_told_and_the_others_go_on(
    vhost: Vhost, connection: Connection
) -> None:
    async with Publisher(vhost.amqp_url, group=GROUP, partitions=1, queue_type="classic") as publisher:
        refused = Basic.Properties(user_id="somebody")
        outcomes = await asyncio.gather(
            *(publisher.publish(str(n), "k", properties=refused if n == 3 else None) for n in range(6)),
            return_exceptions=True,
        )
        layout = publisher.layout
    assert [n for n, outcome in enumerate(outcomes) if outcome is not None] == [3]
    assert "user_id" in str(outcomes[3])
    found = (await by_key(connection, layout))["k"]
    assert list(dict.fromkeys(found)) == [0, 1, 2, 4, 5]


async def test_what_its_queue_refuses_for_a_while_is_sent_again_in_order(
    vhost: Vhost, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    policy = f"policies/{vhost.name}/full"
    full = {"max-length": 0, "overflow": "reject-publish"}
    async with Publisher(vhost.amqp_url, group=GROUP, partitions=2) as publisher:
        vhost.api("PUT", policy, {"pattern": r"q\.partition", "definition": full, "apply-to": "queues"})
        many = [(str(number), f"k{key}") for number in range(50) for key in range(4)]
        publishing = asyncio.create_task(publisher.publish_many(many))
        async with asyncio.timeout(60):
            while "did not take over" not in caplog.text:
                await asyncio.sleep(0.01)
        assert not publishing.done()
        vhost.api("DELETE", policy)
        async with asyncio.timeout(60):
            assert await publishing == len(many)
        layout = publisher.layout
    assert await by_key(connection, layout) == {f"k{key}": list(range(50)) for key in range(4)}


async def test_a_publish_that_takes_too_long_says_why(vhost: Vhost, tcp_proxy: TcpProxy) -> None:
    url = tcp_proxy.url(vhost.amqp_url)
    async with Publisher(url, group=GROUP, partitions=1, queue_type="classic", timeout=0.5) as publisher:
        tcp_proxy.close()
        said = ""
        while re.search(r"not connected: .*127.0.0.1", said) is None:
            # It may take longer until that is noticed.
            with pytest.raises(CallTimeout) as late:
                await publisher.publish(b"", "k")
            said = str(late.value)


def test_scripts_publish_without_an_event_loop(vhost: Vhost) -> None:
    with SyncPublisher(vhost.amqp_url, group=GROUP, partitions=2, queue_type="classic") as publisher:
        publisher.publish({"n": 1}, key="a")
        assert publisher.publish_many((str(n), f"k{n}") for n in range(600)) == 600
        with pytest.raises(TypeError, match="can't be JSON"):
            publisher.publish(object(), key="a")


def test_a_publisher_that_is_open_is_not_opened_again(vhost: Vhost) -> None:
    publisher = SyncPublisher(vhost.amqp_url, group=GROUP, partitions=2, queue_type="classic")
    threads = threading.active_count()
    for _ in range(2):  # it may be, when it was closed
        with publisher:
            with pytest.raises(RuntimeError, match="open already"):
                publisher.open()
            publisher.publish(b"", key="a")
    publisher.close()
    assert threading.active_count() == threads


async def test_an_async_publisher_that_is_open_is_not_opened_again(vhost: Vhost) -> None:
    async with Publisher(vhost.amqp_url, group=GROUP, partitions=2, queue_type="classic") as publisher:
        with pytest.raises(RuntimeError, match="open already"):
            await publisher.open()
        await publisher.publish(b"", key="a")


def test_a_process_that_was_forked_does_not_wait_for_the_thread_it_has_not(vhost: Vhost) -> None:
    program = """
        import os, sys
        from partymq import SyncPublisher

        with SyncPublisher(sys.argv[1], group="orders", partitions=2, queue_type="classic") as publisher:
            if not (child := os.fork()):
                try:
                    publisher.publish(b"", key="a")
                except RuntimeError as error:
                    print(error, flush=True)
                publisher.close()  # of no effect on the parent's
                os._exit(0)
            os.waitpid(child, 0)
            publisher.publish(b"", key="a")
        print("published")
    """
    told = subprocess.run(
        (sys.executable, "-c", dedent(program), vhost.amqp_url),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert "opened before a fork" in told
    assert told.endswith("published\n")
