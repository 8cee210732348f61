"""A queue that was taken for empty, as it had no leader, has messages after all."""

import asyncio

import pytest

from partymq.amqp.connection import Connection, connect
from partymq.amqp.content import Span, decode
from partymq.amqp.queues import arguments_of
from partymq.amqp.topology import QueueInfo
from partymq.amqp.url import BrokerUrl
from partymq.coordinator.vacancy import Vacancy
from tests.conftest import Vhost

_MESSAGES = 20
_PREFETCH = 5


async def taken(connection: Connection, wanted: int, prefetch: int) -> list[int]:
    """The first messages; they are given back in order."""
    got: list[int] = []
    channel = await connection.open_channel()
    await channel.qos(prefetch)

    def receive(buf: bytes, spans: list[Span]) -> None:
        got.extend(int(decode(buf, span).body) for span in spans)

    await channel.consume("q", receive)
    async with asyncio.timeout(60):
        while len(got) < wanted:
            await asyncio.sleep(0.01)
        await channel.close()
        looking = await connection.open_channel()
        while (await looking.declare_queue("q", passive=True)).consumers:
            await asyncio.sleep(0.01)
    return got


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_its_messages_keep_their_order_when_it_was_looked_at(
    vhost: Vhost, monkeypatch: pytest.MonkeyPatch, queue_type: str
) -> None:
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
    channel = await connection.open_channel()
    arguments = arguments_of(queue_type) | {"x-single-active-consumer": True}
    await channel.declare_queue("q", durable=True, arguments=arguments)
    await channel.select_confirms()
    for number in range(_MESSAGES):
        await channel.publish("", "q", str(number).encode())
    assert await taken(connection, _PREFETCH, _PREFETCH) == list(range(_PREFETCH))

    async def without_a_leader(_: object, queue: str) -> QueueInfo:
        return QueueInfo(queue, 0, 0)

    monkeypatch.setattr("partymq.coordinator.vacancy.look_at", without_a_leader)
    vacancy = Vacancy(connection, "q", _PREFETCH, asyncio.get_running_loop().time)
    assert await vacancy.look() is None
    assert await vacancy.look() is False
    assert await taken(connection, _MESSAGES, 100) == list(range(_MESSAGES))
    await connection.close()
