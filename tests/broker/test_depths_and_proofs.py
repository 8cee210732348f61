"""What the broker's counts prove, and what they do not."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from partymq.amqp.connection import Connection, connect
from partymq.amqp.content import Span
from partymq.amqp.url import BrokerUrl
from partymq.broker import PrivateNode
from partymq.coordinator import proofs
from partymq.coordinator.depths import QueueDepths
from partymq.coordinator.management import Management
from partymq.coordinator.proofs import Proofs
from partymq.errors import ManagementUnavailable
from partymq.group.events import Drain, PutOff, Reclaim, Released
from tests.broker.management import delete_vhost
from tests.conftest import Vhost, new_vhost

IDLE = 1.0


class FakeLanes:
    """A router at rest, until told otherwise."""

    def __init__(self) -> None:
        self.session = 1
        self.at_rest = True
        self.sent = 0
        self.last = monotonic()
        self.locked: list[int] = []

    def settled(self, hostname: str) -> bool:
        return self.at_rest

    def published(self, hostname: str) -> int:
        return self.sent

    def idle_since(self, partition: int) -> float:
        return self.last

    def lock(self, partitions: Sequence[int]) -> None:
        self.locked.extend(partitions)


class Setting:
    """A queue with messages, somebody who may consume it, and proofs about it."""

    def __init__(self, vhost: Vhost, connection: Connection, management: Management | None) -> None:
        self.vhost = vhost
        self.connection = connection
        self.depths = QueueDepths(lambda: connection, management)
        self.lanes = FakeLanes()
        self.new_queues: list[str] = []
        self.proofs = self.made()
        self.hasty = self.made(drain_timeout=1.0)
        """For proofs that are not found."""

    def made(self, drain_timeout: float = 600.0, idle_handover: float = IDLE) -> Proofs:
        return Proofs(
            self.lanes,
            self.depths,
            drain_timeout=drain_timeout,
            idle_handover=idle_handover,
            queue_of=lambda hostname: None,
            moved_on=self.moved_on,
            is_unbound=lambda hostname: self.depths.is_unbound("e", hostname),
        )

    async def moved_on(self, hostname: str, queue: str) -> bool:
        return bool(self.new_queues)

    async def queue(self, messages: int) -> None:
        channel = await self.connection.open_channel()
        await channel.declare_queue("q", durable=True)
        await channel.select_confirms()
        for _ in range(messages):
            await channel.publish("", "q", b"x")

    @asynccontextmanager
    async def consumer(self) -> AsyncIterator["Consumer"]:
        connection = await connect(BrokerUrl.parse(self.vhost.amqp_url), name="member")
        try:
            consumer = Consumer(connection)
            await consumer.start()
            yield consumer
        finally:
            await connection.close()


class Consumer:
    """Takes everything and acks when told to."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.tags: list[int] = []

    async def start(self) -> None:
        self.channel = await self.connection.open_channel()
        self.tag = await self.channel.consume("q", self._delivered)

    def _delivered(self, buf: bytes, spans: list[Span]) -> None:
        self.tags += [span[0] for span in spans]

    async def has(self, messages: int) -> None:
        while len(self.tags) < messages:
            await asyncio.sleep(0.01)

    def ack_all(self) -> None:
        self.channel.ack(self.tags[-1], multiple=True)


@pytest.fixture
async def setting(vhost: Vhost) -> AsyncIterator[Setting]:
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
    async with Management(vhost.management_url, vhost.name, timeout=60) as management:
        yield Setting(vhost, connection, management)
    await connection.close()


@pytest.fixture
async def blind(vhost: Vhost) -> AsyncIterator[Setting]:
    """Without the management API."""
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
    yield Setting(vhost, connection, None)
    await connection.close()


@pytest.fixture(autouse=True)
async def in_bounded_time() -> AsyncIterator[None]:
    async with asyncio.timeout(60):
        yield


DRAIN = Drain(1, "pod", "q", [0, 1])
RECLAIM = Reclaim(1, "pod", "q", [0, 1])


async def test_counts_of_a_classic_queue_are_exact_at_once(setting: Setting) -> None:
    await setting.queue(3)
    async with setting.consumer() as consumer:
        await consumer.has(3)
        depth = (await setting.depths.sample(["q", "nowhere"]))["q"]
        assert (depth.exists, depth.ready, depth.unacked, depth.consumers) == (True, 0, 3, 1)
        consumer.ack_all()
        while not (await setting.depths.sample(["q"]))["q"].empty:
            await asyncio.sleep(0.01)
    depths = await setting.depths.sample(["q", "nowhere"])
    assert depths["q"].consumers == 0
    assert not depths["nowhere"].exists


async def test_fragile_queues_are_known(setting: Setting) -> None:
    channel = await setting.connection.open_channel()
    await channel.declare_queue("weak", durable=False, exclusive=True, auto_delete=True)
    depth = (await setting.depths.sample(["weak"]))["weak"]
    assert depth.fragile == "exclusive, auto-delete, not durable"


async def test_many_queues_are_asked_for_in_pages(setting: Setting) -> None:
    channel = await setting.connection.open_channel()
    names = [f"q.{n}+({n})" for n in range(60)]
    for name in names:
        await channel.declare_queue(name, durable=True)
    assert all(depth.exists for depth in (await setting.depths.sample(names, consumers=False)).values())
    few = await setting.depths.sample(names[:3], consumers=False)
    assert sorted(few) == sorted(names[:3])


async def test_an_empty_queue_is_proof(setting: Setting) -> None:
    await setting.queue(0)
    assert await setting.proofs.drained(DRAIN) == Released(1)


async def test_a_queue_that_is_gone_is_proof(setting: Setting) -> None:
    assert await setting.proofs.reclaimed(RECLAIM) == Released(1)


async def test_a_queue_that_is_gone_is_no_proof_while_the_member_has_another(setting: Setting) -> None:
    setting.new_queues.append("another")
    assert await setting.hasty.drained(DRAIN) == PutOff(1)
    proof = asyncio.create_task(setting.proofs.reclaimed(RECLAIM))
    await asyncio.sleep(0.2)
    assert not proof.done()
    setting.new_queues.clear()
    assert await proof == Released(1)


async def test_a_message_with_the_consumer_is_no_proof_until_it_is_acked(setting: Setting) -> None:
    await setting.queue(2)
    async with setting.consumer() as consumer:
        await consumer.has(2)
        assert await setting.hasty.drained(DRAIN) == PutOff(1)
        proof = asyncio.create_task(setting.proofs.drained(DRAIN))
        await asyncio.sleep(0.1)
        assert not proof.done()
        consumer.ack_all()
        assert await proof == Released(1)


async def test_nothing_is_proof_while_a_publish_is_on_its_way(setting: Setting) -> None:
    await setting.queue(0)
    setting.lanes.at_rest = False
    assert await setting.hasty.drained(DRAIN) == PutOff(1)


async def test_a_consumer_that_is_gone_leaves_a_leftover(setting: Setting) -> None:
    await setting.queue(5)
    async with setting.consumer() as consumer:
        await consumer.has(5)
        proof = asyncio.create_task(setting.proofs.reclaimed(RECLAIM))
        await asyncio.sleep(0.2)
        assert not proof.done()
    assert await proof == Released(1, leftover="q")


async def test_what_goes_to_a_dead_members_quorum_queue_does_not_put_off_its_proof(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When no more can be held it goes there, again and again, and each time the proof is begun anew."""
    monkeypatch.setattr(proofs, "_LAG", 2.0)
    channel = await setting.connection.open_channel()
    await channel.declare_queue("q", durable=True, arguments={"x-queue-type": "quorum"})
    await channel.select_confirms()
    async with asyncio.timeout(60):
        while True:
            await channel.publish("", "q", b"x")
            setting.lanes.sent += 1
            proof = asyncio.create_task(setting.proofs.reclaimed(RECLAIM))
            done, _ = await asyncio.wait([proof], timeout=0.7)
            if done:
                break
            proof.cancel()
    assert await proof == Released(1, leftover="q")


async def test_a_cancelled_consumer_that_still_works_keeps_what_it_has(setting: Setting) -> None:
    await setting.queue(5)
    async with setting.consumer() as consumer:
        await consumer.has(5)
        await consumer.channel.cancel(consumer.tag)
        proof = asyncio.create_task(setting.proofs.reclaimed(RECLAIM))
        await asyncio.sleep(0.3)
        assert not proof.done()
        consumer.ack_all()
        assert await proof == Released(1)


async def test_without_the_management_api_a_living_member_is_put_off(blind: Setting) -> None:
    await blind.queue(0)
    assert await blind.proofs.drained(DRAIN) == PutOff(1)


async def test_without_the_management_api_a_dead_members_queue_is_taken_after_a_while(
    blind: Setting,
) -> None:
    await blind.queue(5)
    began = monotonic()
    assert await blind.proofs.reclaimed(RECLAIM) == Released(1, leftover="q")
    assert monotonic() - began >= IDLE


async def test_partitions_of_an_unknown_queue_are_locked_when_they_have_been_idle(setting: Setting) -> None:
    began = setting.lanes.last = monotonic()
    assert await setting.proofs.drained(Drain(1, "pod", None, [3, 4])) == Released(1, partitions=(3, 4))
    assert setting.lanes.locked == [3, 4]
    assert monotonic() - began >= IDLE * 0.9


@pytest.mark.parametrize("bound", ["no", "to a queue", "to an exchange", "somehow"])
async def test_a_member_of_unknown_queue_has_nothing_where_nothing_is_bound(
    setting: Setting, bound: str
) -> None:
    channel = await setting.connection.open_channel()
    await channel.declare_exchange("e", "topic" if bound == "somehow" else "direct", durable=True)
    await channel.declare_queue("q", durable=True)
    await channel.bind_queue("q", "e", "another")
    if bound == "to a queue":
        await channel.bind_queue("q", "e", "pod")
    if bound == "to an exchange":
        await channel.bind_exchange("amq.fanout", "e", "pod")
    proofs = setting.made(idle_handover=3600.0) if bound == "no" else setting.proofs
    began = setting.lanes.last = monotonic()
    assert await proofs.reclaimed(Reclaim(1, "pod", None, [0, 1])) == Released(1)
    assert bound == "no" or monotonic() - began >= IDLE * 0.9


async def test_a_leftovers_queue_is_untouched_drained_or_gone(setting: Setting) -> None:
    assert await setting.proofs.untouched("q") is False
    await setting.queue(2)
    assert await setting.proofs.untouched("q") is True
    async with setting.consumer() as consumer:
        await consumer.has(2)
        waiting = asyncio.create_task(setting.proofs.untouched("q"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        consumer.ack_all()
        assert await waiting is False


async def test_a_leftovers_queue_is_touched_by_a_cancelled_consumer_that_still_works(
    setting: Setting,
) -> None:
    await setting.queue(5)
    async with setting.consumer() as consumer:
        await consumer.has(5)
        await consumer.channel.cancel(consumer.tag)
        await setting.queue(1)
        waiting = asyncio.create_task(setting.proofs.untouched("q"))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        consumer.ack_all()
        assert await waiting is True


async def test_without_the_management_api_a_leftovers_queue_ends_when_nothing_is_ready(
    blind: Setting,
) -> None:
    await blind.queue(2)
    assert await blind.proofs.untouched("q") is True
    async with blind.consumer() as consumer:
        await consumer.has(2)
        consumer.ack_all()
    assert await blind.proofs.untouched("q") is False


async def test_bindings_tell_a_members_queue(setting: Setting) -> None:
    channel = await setting.connection.open_channel()
    await channel.declare_queue("q", durable=True)
    await channel.declare_exchange("e", "direct", durable=True)
    await channel.bind_queue("q", "e", "partymq.partition-pod")
    assert await setting.depths.bindings("e") == {"partymq.partition-pod": ["q"]}
    assert await setting.depths.bindings("no such exchange") == {}


async def test_a_management_api_of_another_broker_is_no_proof_of_anything(
    vhost: Vhost, node: PrivateNode
) -> None:
    other = new_vhost(node)
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
    async with Management(vhost.management_url, other.name, timeout=60) as management:
        setting = Setting(vhost, connection, management)
        await setting.queue(2)
        assert await setting.proofs.drained(DRAIN) == PutOff(1)
        assert not setting.depths.sighted
        assert await setting.depths.bindings("e") is None
    await connection.close()
    delete_vhost(other.management_url, other.name)


async def test_a_management_api_that_says_it_is_anothers_is_not_believed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def another(management: Management) -> str:
        return "rabbit@elsewhere"

    await setting.queue(0)
    monkeypatch.setattr(Management, "cluster_name", another)
    assert (await setting.depths.sample(["q"], consumers=False))["q"].unacked is None
    assert not setting.depths.sighted


async def test_a_management_api_that_is_away_leaves_us_blind_not_dead(setting: Setting) -> None:
    away = Management("http://guest:guest@127.0.0.1:9,127.0.0.1:10", setting.vhost.name)
    depths = QueueDepths(lambda: setting.connection, away)
    await setting.queue(2)
    assert depths.sighted
    depth = (await depths.sample(["q"]))["q"]
    assert (depth.ready, depth.unacked, depth.consumers) == (2, None, 0)
    assert not depths.sighted
    assert await depths.bindings("e") is None
    with pytest.raises(
        ManagementUnavailable, match=r"http://127.0.0.1:9 .*127.0.0.1:10 .*rabbitmq_management"
    ):
        await away.queues(["q"])
    await away.close()


async def test_a_node_of_a_cluster_without_a_name_is_known_by_its_own(vhost: Vhost) -> None:
    async with Management(vhost.management_url, vhost.name, timeout=60) as management:
        node = vhost.node.name
        assert await management.has_node(node)
        assert await management.has_node(f"{node}.example.com")
        for other in (f"x{node}", f"{node}x", "rabbit@localhost"):
            assert not await management.has_node(other)


async def test_of_several_nodes_one_that_answers_is_asked(setting: Setting) -> None:
    several = setting.vhost.management_url.replace("@", "@127.0.0.1:9,127.0.0.1:10,")
    await setting.queue(2)
    async with Management(several, setting.vhost.name) as management:
        for _ in range(2):
            assert (await management.queues(["q"]))["q"].ready == 2
        assert await management.bindings("e") is not None
