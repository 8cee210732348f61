"""The consumer's data path against a real broker, with partitions that are given to it by hand."""

import asyncio
import random
import signal
import sys
import textwrap
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from pamqp.commands import Basic

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection, connect
from partymq.amqp.content import decode
from partymq.amqp.url import BrokerUrl
from partymq.client.consumer import Consumer
from partymq.client.failure import RetryPolicy
from partymq.client.message import Lost, Message, Origin
from partymq.client.ownership import Gain, Owned
from partymq.client.parking import ask_for_release, sequence, sift
from partymq.client.testing import StaticOwnership
from partymq.errors import ChannelClosed, ConfigError, HandlerFailed
from partymq.group.key import KeyRule, make_finder
from partymq.group.names import dead_letter_queue, parked_queue
from partymq.group.partitioner import partition_of
from tests.conftest import Vhost

GROUP = "orders"


class Partitions:
    """Partition queues, and somebody who publishes to them and looks into them."""

    def __init__(self, url: str, connection: Connection, channel: Channel) -> None:
        self.url = url
        self.connection = connection
        self.channel = channel
        self.owned: list[Owned] = []

    async def declare(self, number: int, kind: str) -> None:
        queue = f"q.{number}"
        await self.channel.declare_queue(
            queue, durable=True, arguments={"x-queue-type": kind, "x-single-active-consumer": True}
        )
        self.owned.append(Owned(number, queue, 100 + number))

    async def publish(self, key: str | None, body: str, **properties: Any) -> None:
        number = partition_of((key or "").encode(), len(self.owned))
        headers = {"partitionKey": key} if key is not None else {}
        await self.channel.publish(
            "", self.owned[number].queue, body.encode(), Basic.Properties(headers=headers, **properties)
        )

    async def left(self) -> list[str]:
        """Takes out what is ready, in order; nobody consumes now. (No basic.get: quorum queues with a single
        active consumer do not know it.)"""
        bodies: list[str] = []
        for owned in self.owned:
            await self.channel.publish("", owned.queue, b"the end")
            tag = await self.channel.consume(
                owned.queue,
                lambda buf, spans: bodies.extend(decode(buf, span).body.decode() for span in spans),
                no_ack=True,
            )
            await until(lambda: "the end" in bodies)
            bodies.remove("the end")
            await self.channel.cancel(tag)
        return bodies

    async def dead(self) -> list[Any]:
        found = []
        while (message := await self.channel.get(dead_letter_queue(GROUP), no_ack=True)) is not None:
            found.append(message)
        return found

    def consumer(self, handle: Callable[..., Any], **settings: Any) -> tuple[Consumer, StaticOwnership]:
        ownership = StaticOwnership(
            settings.pop("url", self.url), self.owned, prefetch=settings.pop("prefetch", 250)
        )
        settings.setdefault("retry", RetryPolicy(first_delay=0.01, max_attempts=3))
        consumer = Consumer(self.url, group=GROUP, ownership=ownership, **settings)
        consumer.handler(handle)
        return consumer, ownership


@pytest.fixture(params=["classic", "quorum"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def opened(vhost: Vhost) -> AsyncIterator[Partitions]:
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
    channel = await connection.open_channel()
    await channel.select_confirms()
    yield Partitions(vhost.amqp_url, connection, channel)
    await connection.close()


@pytest.fixture
async def partitions(opened: Partitions) -> Partitions:
    for number in range(2):
        await opened.declare(number, "classic")
    return opened


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def test_messages_of_a_key_come_one_at_a_time_in_order_and_those_of_others_beside_them(
    opened: Partitions, kind: str
):
    for number in range(3):
        await opened.declare(number, kind)
    seen: dict[str, list[int]] = defaultdict(list)
    running: set[str] = set()
    most = 0

    async def handle(message: Message) -> None:
        nonlocal most
        assert message.key is not None
        assert message.key not in running
        assert message.partition == partition_of(message.key.encode(), 3)
        assert message.fencing_token == 100 + message.partition
        running.add(message.key)
        most = max(most, len(running))
        await asyncio.sleep(random.random() * 0.003)
        running.discard(message.key)
        seen[message.key].append(int(message.body))

    for number in range(20):
        for key in "abcdefgh":
            await opened.publish(key, str(number))
    consumer, _ = opened.consumer(handle)
    async with consumer:
        await until(lambda: sum(map(len, seen.values())) == 160)
    assert seen == {key: list(range(20)) for key in "abcdefgh"}
    assert most > 3
    assert await opened.left() == []


async def test_a_slow_key_holds_back_only_itself(opened: Partitions):
    await opened.declare(0, "classic")
    release = asyncio.Event()
    seen: list[str] = []

    async def handle(message: Message) -> None:
        if message.key == "slow":
            await release.wait()
        seen.append(message.body.decode())

    for number in range(2):
        await opened.publish("slow", f"slow {number}")
    for number in range(40):
        await opened.publish(f"key-{number % 7}", str(number))
    consumer, _ = opened.consumer(handle, prefetch=10, concurrency=4)
    async with consumer:
        await until(lambda: len(seen) == 40)
        release.set()
        await until(lambda: len(seen) == 42)
    assert seen[40:] == ["slow 0", "slow 1"]
    assert await opened.left() == []


async def test_a_failing_message_is_tried_again_then_dead_lettered_and_its_key_goes_on(
    partitions: Partitions,
):
    seen: list[tuple[str, int]] = []

    async def handle(message: Message) -> None:
        seen.append((message.body.decode(), message.attempt))
        if message.body == b"bad":
            raise ValueError("not this one \ud83d")

    for body in ("before", "bad", "after"):
        await partitions.publish("a", body, message_id="m1", content_type="text/plain", expiration="600000")
    consumer, _ = partitions.consumer(handle)
    async with consumer:
        await until(lambda: len(seen) == 5)
    assert seen == [("before", 1), ("bad", 1), ("bad", 2), ("bad", 3), ("after", 1)]
    assert await partitions.left() == []
    (dead,) = await partitions.dead()
    assert (dead.body, dead.properties.message_id, dead.properties.content_type) == (
        b"bad",
        "m1",
        "text/plain",
    )
    headers = dead.properties.headers
    assert headers["partitionKey"] == headers["x-partymq-key"] == "a"
    assert headers["x-partymq-partition"] == str(partition_of(b"a", 2))
    assert headers["x-partymq-reason"] == "failed"
    assert headers["x-partymq-error"] == "ValueError: not this one \\ud83d"
    assert (dead.properties.expiration, headers["x-partymq-expiration"]) == (None, "600000")
    assert "not this one" in headers["x-partymq-traceback"]
    assert headers["x-partymq-attempts"] == "3"


async def test_a_body_that_cannot_be_decoded_is_dead_lettered_at_once(partitions: Partitions):
    seen: list[dict[str, int]] = []

    async def handle(message: Message, order: dict[str, int]) -> None:
        seen.append(order)

    await partitions.publish("a", "no json")
    await partitions.publish("a", '{"amount": 7}')
    consumer, _ = partitions.consumer(handle, on_failure="stop")
    async with consumer:
        await until(lambda: seen == [{"amount": 7}])
    (dead,) = await partitions.dead()
    assert dead.properties.headers["x-partymq-reason"] == "undecodable"
    assert "not JSON" in dead.properties.headers["x-partymq-error"]


async def test_a_consumer_can_stop_at_a_message_that_fails_and_leaves_it_in_its_place(
    opened: Partitions, kind: str
):
    await opened.declare(0, kind)
    seen: list[bytes] = []

    async def handle(message: Message) -> None:
        seen.append(message.body)
        if message.body == b"bad":
            raise ValueError("not this one")

    for body in ("before", "bad", "after", "later"):
        await opened.publish("a", body)
    consumer, _ = opened.consumer(handle, on_failure="stop", retry=RetryPolicy(max_attempts=1))
    with pytest.raises(HandlerFailed, match="not this one"):
        await consumer.serve()
    assert seen == [b"before", b"bad"]
    assert await opened.left() == ["bad", "after", "later"]


async def test_a_revoked_partition_finishes_what_runs_and_gives_the_rest_back_in_order(
    opened: Partitions, kind: str
):
    await opened.declare(0, kind)
    release = asyncio.Event()
    begun: list[bytes] = []
    told: list[Any] = []

    async def handle(message: Message) -> None:
        begun.append(message.body)
        if message.body != b"2":
            await release.wait()

    async def revoked(numbers: Sequence[int]) -> None:
        told.append(("revoked", numbers, release.is_set()))

    for number, key in enumerate("abcabcabcx"):
        await opened.publish(key, str(number))
    consumer, ownership = opened.consumer(
        handle, on_assigned=lambda numbers: told.append(("assigned", numbers)), on_revoked=revoked
    )
    async with consumer:
        await until(lambda: len(begun) == 5)
        assert sorted(begun) == [b"0", b"1", b"2", b"5", b"9"]
        assert ownership.owner is not None
        revoking = asyncio.create_task(ownership.owner.revoke([0, 7]))
        await asyncio.sleep(0.05)
        assert not revoking.done()
        release.set()
        await revoking
        assert consumer.partitions == []
        assert told == [("assigned", [0]), ("revoked", [0], True)]
        assert await opened.left() == ["3", "4", "6", "7", "8"]
    assert len(begun) == 5


async def test_a_handler_that_takes_long_holds_back_no_other_partition(opened: Partitions, kind: str):
    await opened.declare(0, kind)
    await opened.declare(1, kind)
    keys = {partition_of(key.encode(), 2): key for key in "abcdef"}
    release = asyncio.Event()
    begun: list[bytes] = []
    told: list[Any] = []

    async def handle(message: Message) -> None:
        begun.append(message.body)
        if message.body == b"slow":
            await release.wait()

    async def revoked(numbers: Sequence[int]) -> None:
        told.append(("on_revoked", list(numbers)))

    await opened.publish(keys[0], "slow")
    await opened.publish(keys[1], "quick")
    consumer, ownership = opened.consumer(handle, on_revoked=revoked)
    async with consumer:
        await until(lambda: len(begun) == 2)
        owner, connection = ownership.owner, ownership.connection
        assert owner is not None
        assert connection is not None
        revoking = asyncio.create_task(owner.revoke([0, 1, 7], lambda ids: told.append(("ended", set(ids)))))
        await until(lambda: len(told) == 3)
        assert told == [("ended", {7}), ("on_revoked", [1]), ("ended", {1})]
        assert consumer.partitions == [0]

        # What comes meanwhile is taken, and goes again.
        await owner.gained(Gain(connection, opened.owned[1:], 2, make_finder(KeyRule()), 250))
        await opened.publish(keys[1], "again")
        await until(lambda: b"again" in begun)
        await owner.revoke([1])
        assert consumer.partitions == [0]
        assert not revoking.done()

        release.set()
        await revoking
        assert told[3:] == [("on_revoked", [1]), ("on_revoked", [0]), ("ended", {0})]
        assert consumer.partitions == []


async def test_hooks_are_called_one_at_a_time(opened: Partitions):
    for number in range(4):
        await opened.declare(number, "classic")
    inside = 0

    async def hook(numbers: Sequence[int]) -> None:
        nonlocal inside
        assert inside == 0
        inside += 1
        await asyncio.sleep(0.01)
        inside -= 1

    async def handle(message: Message) -> None: ...

    consumer, ownership = opened.consumer(handle, on_assigned=hook, on_revoked=hook)
    async with consumer:
        await until(lambda: len(consumer.partitions) == 4)
        owner, connection = ownership.owner, ownership.connection
        assert owner is not None
        assert connection is not None
        await owner.revoke([3])
        gain = Gain(connection, opened.owned[3:], 4, make_finder(KeyRule()), 250)
        await asyncio.gather(owner.gained(gain), *(owner.revoke([number]) for number in range(3)))
        assert consumer.partitions == [3]


async def test_a_lost_connection_cancels_handlers_and_the_messages_come_again(
    opened: Partitions, tcp_proxy: Any
):
    await opened.declare(0, "classic")
    seen: list[Message] = []
    ended: list[str] = []
    told: list[Any] = []

    async def handle(message: Message) -> None:
        seen.append(message)
        if len(seen) == 1:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                assert message.lost.is_set()
                await asyncio.sleep(0.3)  # It takes its time; its key waits for that.
                ended.append("cancelled")
                raise
        ended.append("handled")

    await opened.publish("a", "one")
    await opened.publish("a", "two")
    consumer, ownership = opened.consumer(
        handle, url=tcp_proxy.url(opened.url), on_lost=lambda numbers: told.append(numbers)
    )
    async with consumer:
        await until(lambda: len(seen) == 1)
        assert ownership.connection is not None
        ownership.connection.abort()
        await until(lambda: len(ended) == 3)
    assert ended == ["cancelled", "handled", "handled"]
    assert [(message.body, message.lost.is_set()) for message in seen] == [
        (b"one", True),
        (b"one", False),
        (b"two", False),
    ]
    assert seen[1].redelivered
    assert told == [[0]]
    assert await opened.left() == []


async def test_on_lost_has_ended_before_the_partition_is_assigned_again(opened: Partitions):
    """What it forgets would be what the next `on_assigned` has just loaded."""
    await opened.declare(0, "classic")
    told: list[str] = []

    def hook(name: str) -> Callable[[Sequence[int]], Any]:
        async def told_to(_: Sequence[int]) -> None:
            told.append(name)
            await asyncio.sleep(0.3)
            told.append(f"{name}, ended")

        return told_to

    async def handle(_: Message) -> None: ...

    consumer, ownership = opened.consumer(handle, on_assigned=hook("assigned"), on_lost=hook("lost"))
    async with consumer:
        await until(lambda: consumer.partitions == [0])
        assert ownership.connection is not None
        ownership.connection.abort()
        await until(lambda: told.count("assigned, ended") == 2)
    assert told == ["assigned", "assigned, ended", "lost", "lost, ended", "assigned", "assigned, ended"]


async def test_plain_functions_run_in_so_many_threads(partitions: Partitions):
    together = threading.Barrier(3)
    seen: list[int] = []

    def handle(message: Message) -> None:
        together.wait(60)
        seen.append(int(message.body))

    for number in range(9):
        await partitions.publish(None, str(number))
    consumer, _ = partitions.consumer(handle, threads=3)
    async with consumer:
        await until(lambda: len(seen) == 9)
        assert consumer.describe()["failed"] == 0
    assert await partitions.left() == []


@pytest.mark.parametrize("there", [True, False], ids=["it was there", "it was not"])
async def test_a_queue_that_is_not_there_is_consumed_when_it_is_there_again(opened: Partitions, there: bool):
    """And `on_assigned` and `on_lost` come in turn, however often it is tried."""
    await opened.declare(0, "classic")
    if not there:
        await opened.channel.delete_queue("q.0")
    seen: list[bytes] = []
    told: list[str] = []

    async def handle(message: Message) -> None:
        seen.append(message.body)

    consumer, ownership = opened.consumer(
        handle, on_assigned=lambda _: told.append("assigned"), on_lost=lambda _: told.append("lost")
    )
    async with consumer:
        await ownership.assigned.wait()
        await opened.channel.delete_queue("q.0")
        await until(lambda: told.count("assigned") >= 3)
        opened.owned.clear()
        await opened.declare(0, "classic")
        await opened.publish("a", "back")
        await until(lambda: seen == [b"back"])
        assert consumer.partitions == [0]
    assert told[::2] == ["assigned"] * (len(told) // 2 + 1)
    assert told[1::2] == ["lost"] * (len(told) // 2)


async def test_handlers_that_do_not_end_in_time_are_cancelled_when_it_stops(opened: Partitions):
    await opened.declare(0, "classic")
    begun = asyncio.Event()
    cancelled = asyncio.Event()

    async def handle(message: Message) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    await opened.publish("a", "one")
    consumer, _ = opened.consumer(handle, stop_timeout=0.1)
    async with asyncio.timeout(60):
        async with consumer:
            await begun.wait()
    assert cancelled.is_set()
    assert await opened.left() == ["one"]


async def test_what_is_cancelled_has_ended_and_the_rest_is_acknowledged_before_somebody_else_gets_it(
    opened: Partitions, kind: str
):
    await opened.declare(0, kind)
    told: list[str] = []

    async def takes_its_time_to_end(message: Message) -> None:
        if message.key == "done":
            told.append("done")
            return
        told.append("begun")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            assert message.lost.is_set()
            await asyncio.sleep(0.5)
            told.append("ended")
            raise

    async def handle(message: Message) -> None:
        told.append(f"next: {message.key}")

    await opened.publish("slow", "")
    await opened.publish("done", "")
    first, ownership = opened.consumer(
        takes_its_time_to_end, stop_timeout=0.1, ack_interval=1, on_revoked=lambda _: told.append("revoked")
    )
    second, _ = opened.consumer(handle)
    async with first:
        await ownership.assigned.wait()
        async with second:
            await until(lambda: {"begun", "done"} <= set(told))
            first.stop()
            await until(lambda: "next: slow" in told)
    assert told[2:] == ["ended", "revoked", "next: slow"]
    assert await opened.left() == []


async def test_a_hook_that_fails_before_the_first_message_stops_the_consumer(partitions: Partitions):
    def assigned(_: Sequence[int]) -> None:
        raise OSError("no state")

    async def handle(message: Message) -> None: ...

    consumer, _ = partitions.consumer(handle, on_assigned=assigned)
    with pytest.raises(OSError, match="no state"):
        await consumer.serve()


async def test_a_consumer_is_refused_what_it_cannot_do(partitions: Partitions):
    async def handle(message: Message) -> None: ...

    with pytest.raises(ConfigError, match="colour"):
        partitions.consumer(handle, colour="red")
    consumer, _ = partitions.consumer(handle)
    with pytest.raises(ConfigError, match="handler already"):
        consumer.handler(lambda message: None)
    async with consumer:
        with pytest.raises(ConfigError, match="runs already"):
            await consumer.serve()


async def test_a_parked_key_waits_over_changes_of_its_owner_until_it_is_released(
    opened: Partitions, kind: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("partymq.client.parking.POLL_INTERVAL", 0.05)
    await opened.declare(0, kind)
    await opened.channel.declare_queue(parked_queue(GROUP), durable=True, arguments={"x-queue-type": kind})
    broken = {"bad"}
    seen: list[str] = []

    async def handle(message: Message) -> None:
        if message.body.decode() in broken:
            raise ValueError("broken")
        seen.append(message.body.decode())

    async def parked() -> list[bytes]:
        found = await sift(opened.connection, parked_queue(GROUP), lambda raw: True)
        return [Message(raw, None, Origin(0, 0, Lost()), 1).body for raw in sorted(found, key=sequence)]

    for body in ("a0", "bad", "a2", "a3"):
        await opened.publish("a", body)
        await opened.publish("b", body.replace("a", "b"))
    broken.add("b3")
    consumer, _ = opened.consumer(handle, on_failure="park")
    async with consumer:
        await until(lambda: consumer.describe()["failed"] == 4)
        await until(lambda: len(seen) == 4)
    assert sorted(seen) == ["a0", "b0", "b2", "bbd"]
    assert sorted(await parked()) == [b"a2", b"a3", b"b3", b"bad"]

    consumer, _ = opened.consumer(handle, on_failure="park")
    await opened.publish("a", "a4")
    async with consumer:
        await until(lambda: consumer.describe()["failed"] == 1)
        await ask_for_release(opened.connection, GROUP, "a")
        await asyncio.sleep(0.3)
        assert len(await parked()) == 5
        broken.clear()
        seen.clear()
        await ask_for_release(opened.connection, GROUP, "a")
        await until(lambda: len(seen) == 4)
        await opened.publish("a", "a5")
        await until(lambda: len(seen) == 5)
    assert seen == ["bad", "a2", "a3", "a4", "a5"]
    assert await parked() == [b"b3"]
    assert await opened.left() == []


@pytest.mark.parametrize("cuts", [False, True], ids=["planned", "with cuts"])
async def test_partitions_that_move_to_and_fro_under_load_keep_every_promise(
    opened: Partitions, kind: str, cuts: bool
):
    chance = random.Random(7)
    for number in range(4):
        await opened.declare(number, kind)
    all_owned, tokens = list(opened.owned), dict.fromkeys(range(4), 1000)
    seen: dict[str, list[int]] = defaultdict(list)
    running: set[str] = set()
    repeats = 0

    async def handle(message: Message) -> None:
        nonlocal repeats
        key, number = str(message.key), int(message.body)
        assert key not in running
        running.add(key)
        try:
            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.004]))
        finally:
            running.discard(key)
        if number < len(seen[key]):
            repeats += 1
            assert message.redelivered
        else:
            assert number == len(seen[key]), f"{key}: {number} after {seen[key][-1:]}"
            seen[key].append(number)

    async def publish() -> None:
        for number in range(60):
            await asyncio.gather(*(opened.publish(f"key-{key}", str(number)) for key in range(12)))

    members = []
    for place in range(2):
        opened.owned = [owned for owned in all_owned if owned.number % 2 == place]
        members.append(opened.consumer(handle, on_failure="stop", retry=RetryPolicy(max_attempts=1)))
    opened.owned = all_owned
    async with members[0][0], members[1][0]:
        for _, ownership in members:
            await ownership.assigned.wait()
        publishing = asyncio.create_task(publish())
        for move in range(30):
            if publishing.done():
                break
            giver, taker = (members[place][1] for place in chance.sample([0, 1], 2))
            moving = [owned for owned in giver.partitions if chance.random() < 0.5]
            if cuts and move % 8 == 4:
                assert giver.connection is not None
                giver.assigned.clear()
                giver.connection.abort()
                await giver.assigned.wait()
                continue
            assert giver.owner is not None
            assert taker.owner is not None
            assert taker.connection is not None
            await giver.owner.revoke([owned.number for owned in moving])
            giver.partitions = [owned for owned in giver.partitions if owned not in moving]
            gained = []
            for owned in moving:
                tokens[owned.number] += 1
                gained.append(Owned(owned.number, owned.queue, tokens[owned.number]))
            taker.partitions += gained
            await taker.owner.gained(Gain(taker.connection, gained, 4, make_finder(KeyRule()), 250))
        await publishing
        await until(lambda: sum(map(len, seen.values())) == 720)
    assert seen == {f"key-{key}": list(range(60)) for key in range(12)}
    assert cuts or not repeats
    assert await opened.left() == []


PROGRAM = """
    import asyncio, sys
    from partymq.client.consumer import Consumer
    from partymq.client.ownership import Owned
    from partymq.client.testing import StaticOwnership

    url = sys.argv[1]
    consumer = Consumer(url, group="orders", ownership=StaticOwnership(url, [Owned(0, "q.0", 1)]))

    @consumer.handler
    async def handle(message):
        print("begun", flush=True)
        await consumer._stopping.wait()
        await asyncio.sleep(0.2)
        print("ended", flush=True)

    consumer.run()
    print("stopped", flush=True)
"""


async def test_run_ends_in_good_order_by_sigterm(opened: Partitions):
    await opened.declare(0, "classic")
    await opened.publish("a", "one")
    await opened.publish("a", "two")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(PROGRAM), opened.url, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGTERM)
        rest = await process.stdout.read()
        assert await process.wait() == 0
    assert rest == b"ended\nstopped\n"
    assert await opened.left() == ["two"]


async def test_a_dead_letter_queue_that_is_gone_is_declared(partitions: Partitions):
    async def handle(message: Message) -> None:
        raise ValueError("no")

    channel = await partitions.connection.open_channel()
    with pytest.raises(ChannelClosed, match="NOT_FOUND"):
        await channel.declare_queue(dead_letter_queue(GROUP), passive=True)
    consumer, _ = partitions.consumer(handle, retry=RetryPolicy(max_attempts=1))
    await partitions.publish("a", "one")
    async with consumer:
        await until(lambda: consumer.describe()["failed"] == 1)
        assert [message.body for message in await partitions.dead()] == [b"one"]
        await partitions.channel.delete_queue(dead_letter_queue(GROUP))
        await partitions.publish("a", "two")
        await until(lambda: consumer.describe()["failed"] == 2)
    assert [message.body for message in await partitions.dead()] == [b"two"]
