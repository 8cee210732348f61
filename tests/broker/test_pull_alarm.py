"""A broker that takes no messages: members keep what they have, and their acks get through."""

import asyncio
from collections.abc import Callable

from partymq.amqp.connection import connect
from partymq.amqp.url import BrokerUrl
from partymq.broker import PrivateNode
from partymq.group.names import partition_queue
from tests.broker.pull_members import GROUP, Journal, Member, shared, until


async def test_members_work_on_while_the_broker_takes_no_messages(
    own_node: Callable[..., PrivateNode],
) -> None:
    node = await asyncio.to_thread(own_node)
    one = Member(node.amqp_url, Journal(), "one", session_timeout=1.0)
    two = Member(node.amqp_url, one.journal, "two", session_timeout=1.0)
    try:
        await until(lambda: shared(one, two), one, two)
        had = {**one.tokens}, {**two.tokens}
        await node.ctl_async("set_vm_memory_high_watermark", "absolute", "1000")
        await asyncio.sleep(3.0)
        for member in (one, two):
            assert member.connection is not None
            assert member.connection.blocked is None
        assert ({**one.tokens}, {**two.tokens}) == had
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
        await three.leave()
    finally:
        for member in (one, two):
            member.kill()
        await asyncio.gather(one.running, two.running, return_exceptions=True)
