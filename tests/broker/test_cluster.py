"""A pull group on a cluster of which a node dies: the one that everything was on."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from partymq import Consumer, Message, Publisher
from partymq.amqp.connection import connect
from partymq.amqp.url import BrokerUrl
from partymq.broker import NodeError, PrivateCluster
from partymq.coordinator.commands import AnswerTo, CommandClient, serve_commands
from partymq.errors import NoCoordinator
from partymq.group.wire import Bind, Command, Reply, Status

KEYS = 8


@pytest.fixture(scope="module")
def started() -> Iterator[PrivateCluster]:
    with PrivateCluster(3, net_ticktime=8) as started:
        yield started
    assert not any(node.running for node in started.nodes)
    for node in started.nodes:
        with pytest.raises(NodeError):
            _ = node.data_dir


@pytest.fixture
def cluster(started: PrivateCluster, monkeypatch: pytest.MonkeyPatch) -> PrivateCluster:
    """All nodes run; they are tried in the order in which the URL names them."""
    for node in started.nodes:
        if not node.running:
            node.start()
    monkeypatch.setattr("partymq.amqp.dialing.random.shuffle", lambda _nodes: None)
    return started


@pytest.mark.timeout(600)
async def test_commands_get_through_that_are_sent_while_a_node_dies(cluster: PrivateCluster) -> None:
    """On a channel on which the coordinator queue had no leader yet the broker refuses for as long as the old
    leader's node is away."""
    first, _, living = (BrokerUrl.parse(node.amqp_url) for node in cluster.nodes)
    declaring, serving, front = [await connect(url, name="test") for url in (first, living, living)]
    # The queue's leader is where it is declared.
    await CommandClient(declaring, "commands", timeout=5, queue_type="quorum").start()

    def answered(command: Command, answer: AnswerTo) -> None:
        answer(Reply(command.request_id, Status.OK))

    await serve_commands(serving, "commands", answered, queue_type="quorum")
    clients = [CommandClient(front, "commands", timeout=5, queue_type="quorum") for _ in range(100)]
    for client in clients:
        await client.start()

    async def call(number: int, client: CommandClient) -> None:
        await asyncio.sleep(number * 0.01)
        async with asyncio.timeout(120):
            while True:
                with contextlib.suppress(NoCoordinator):
                    await client.call(f"r{number}", Bind("pod"))
                    return

    killing = asyncio.create_task(cluster.nodes[0].kill_async())
    await asyncio.gather(*(call(number, client) for number, client in enumerate(clients)))
    await killing
    for connection in (declaring, serving, front):
        await connection.close()


async def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.timeout(600)
async def test_members_and_a_publisher_survive_the_node_that_they_are_connected_to(
    cluster: PrivateCluster,
) -> None:
    seen: dict[str, list[int]] = defaultdict(list)
    running: set[str] = set()
    published: list[int] = []
    group: dict[str, Any] = {"group": "orders", "partitions": 4}

    def member(name: str) -> Consumer:
        consumer = Consumer(cluster.amqp_url, name=name, session_timeout=4, **group)

        @consumer.handler
        async def handle(message: Message) -> None:
            key = str(message.key)
            assert key not in running
            running.add(key)
            try:
                await asyncio.sleep(0.001)
            finally:
                running.discard(key)
            seen[key].append(int(message.body))

        return consumer

    def handled() -> int:
        return sum(len(set(numbers)) for numbers in seen.values())

    first, second = member("one"), member("two")
    async with first, Publisher(cluster.amqp_url, timeout=100, **group) as publisher:
        stop = asyncio.Event()

        async def publish() -> None:
            number = 0
            while not stop.is_set():
                await asyncio.gather(*(publisher.publish(str(number), f"k{key}") for key in range(KEYS)))
                published.append(number)
                number += 1
                await asyncio.sleep(0.01)

        publishing = asyncio.create_task(publish())
        await until(lambda: handled() > 20 * KEYS and len(first.partitions) == 4)
        # All connections are to this node, and as the queues were declared here, their leaders are here, too.
        await cluster.nodes[0].kill_async()
        before, confirmed = handled(), len(published)
        await until(lambda: handled() > before + 20 * KEYS and len(published) > confirmed + 20)
        async with second:  # while the node is down
            await until(lambda: len(first.partitions) == len(second.partitions) == 2)
            before = handled()
            await until(lambda: handled() > before + 20 * KEYS)
            stop.set()
            await publishing
            await until(lambda: handled() == len(published) * KEYS)
    for numbers in seen.values():
        assert list(dict.fromkeys(numbers)) == published
