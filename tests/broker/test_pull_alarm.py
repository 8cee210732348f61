"""A broker that takes no messages: members keep what they have, and their acks get through."""

import asyncio
from collections.abc import Callable

from partymq import Consumer, Message, Publisher, RetryPolicy
from partymq.amqp.connection import connect
from partymq.amqp.url import BrokerUrl
from partymq.broker import PrivateNode
from partymq.group.names import partition_queue
from tests.broker.pull_members import GROUP, Journal, Member, shared, until

KEYS = 50
OF_EACH = 20


class Working:
    """A consumer with a backlog that is larger than its prefetch, whose first message can't be handled."""

    def __init__(self, url: str) -> None:
        self.go_on = asyncio.Event()
        self.handled = 0
        self.url = url
        self.consumer = Consumer(url, group="backlog", retry=RetryPolicy(max_attempts=1))
        self.consumer.handler(self.handle)

    async def publish(self) -> None:
        async with Publisher(self.url, group="backlog", partitions=1, queue_type="classic") as publisher:
            await publisher.publish_many((f"{n}", f"k{n % KEYS}") for n in range(KEYS * OF_EACH))

    async def handle(self, message: Message) -> None:
        await self.go_on.wait()
        if message.body == b"0":
            raise ValueError("not this one")
        await asyncio.sleep(0.02)
        self.handled += 1


async def test_members_work_on_while_the_broker_takes_no_messages(
    own_node: Callable[..., PrivateNode],
) -> None:
    node = await asyncio.to_thread(own_node)
    one = Member(node.amqp_url, Journal(), "one", session_timeout=1.0)
    two = Member(node.amqp_url, one.journal, "two", session_timeout=1.0)
    working = Working(node.amqp_url)
    await working.publish()
    try:
        await working.consumer.__aenter__()
        await until(lambda: shared(one, two) and working.consumer.describe()["running"] > 0, one, two)
        had = {**one.tokens}, {**two.tokens}
        await node.ctl_async("set_vm_memory_high_watermark", "absolute", "1000")
        await asyncio.sleep(3.0)
        for member in (one, two):
            assert member.connection is not None
            assert member.connection.blocked is None
        assert ({**one.tokens}, {**two.tokens}) == had
        # What can't be handled waits, with its key, until it can be put away; all else goes on.
        working.go_on.set()
        await until(lambda: working.handled == (KEYS - 1) * OF_EACH)
        three = Member(node.amqp_url, one.journal, "three", session_timeout=1.0)
        # Long enough for it to try to join; an event loop that it holds up would end the test.
        await asyncio.sleep(1.5)
        await node.ctl_async("set_vm_memory_high_watermark", "0.9")
        await until(lambda: shared(one, two, three), one, two, three)
        probe = await connect(BrokerUrl.parse(node.amqp_url), name="probe")
        channel = await probe.open_channel()
        found = await channel.declare_queue(partition_queue(GROUP, 1, 0), passive=True)
        assert found.consumers == 1
        await probe.close()
        await until(lambda: working.handled == KEYS * OF_EACH - 1)
        assert working.consumer.describe()["failed"] == 1
        await three.leave()
    finally:
        working.consumer.stop()
        await working.consumer.wait()
        for member in (one, two):
            member.kill()
        await asyncio.gather(one.running, two.running, return_exceptions=True)
