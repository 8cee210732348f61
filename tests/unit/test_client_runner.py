"""The runner with a broker that is only played: what is settled when, and what is not."""

import asyncio
import contextlib
import contextvars
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

import partymq
from partymq.client.consumer import Consumer
from partymq.client.failure import RetryPolicy
from partymq.client.guard import Guard
from partymq.client.handlers import Handler
from partymq.client.message import Delivery, Message
from partymq.client.ownership import Owned
from partymq.client.partition import Partition
from partymq.client.runner import Runner
from partymq.client.settings import ConsumerSettings
from partymq.client.testing import StaticOwnership
from partymq.errors import ConfigError, ConnectionLost, HandlerFailed
from partymq.group.key import HeaderKey
from tests.unit.test_client_handlers import message as raw_message


def delivery(partition: Partition, tag: int, key: bytes, body: bytes | None = None) -> Delivery:
    raw = raw_message(key if body is None else body).raw
    return Delivery(partition.stream, tag, key, raw.data, raw.header_at)


class Acked:
    """A channel that notes what is acknowledged."""

    error = None

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def ack(self, tag: int, multiple: bool = False) -> None:
        self.calls.append(("upto", tag))

    def ack_many(self, tags: list[int]) -> None:
        self.calls.append(("alone", tags))

    def shut(self) -> None:
        self.calls.append("shut")


class World:
    def __init__(self, call: Callable[[Message], Any], **settings: Any) -> None:
        self.fatal: list[HandlerFailed] = []
        settings.setdefault("retry", RetryPolicy(max_attempts=2, first_delay=0.001))
        self.runner = Runner(
            Handler(call, in_threads=settings.pop("in_threads", False)),
            "orders",
            ConsumerSettings(**settings),
            self.failed,
        )
        self.partition = Partition(
            Owned(3, "q.3", 7), self.runner.lanes, HeaderKey("k"), 100, self.runner.pump, lambda *_: None
        )
        self.acked = Acked()
        self.partition._channel = self.acked  # type: ignore[assignment]

    def failed(self, error: HandlerFailed) -> None:
        self.partition.drop()
        self.fatal.append(error)

    def deliver(self, *keys: str) -> None:
        for tag, key in enumerate(keys, start=1):
            self.runner.lanes.add(delivery(self.partition, tag, key.encode()))
        self.runner.pump()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def test_acks_of_a_few_milliseconds_are_put_together():
    async def handle(message: Message) -> None: ...

    world = World(handle)
    world.deliver("a", "b", "c")
    await until(lambda: world.acked.calls)
    assert world.acked.calls == [("upto", 3)]
    assert world.runner.handled == 3


async def test_the_acks_of_all_partitions_go_out_in_one_write():
    async def handle(message: Message) -> None: ...

    world = World(handle)
    other = Partition(
        Owned(4, "q.4", 7), world.runner.lanes, HeaderKey("k"), 100, world.runner.pump, lambda *_: None
    )
    other._channel = world.acked  # type: ignore[assignment]
    calls = world.acked.calls

    @contextlib.contextmanager
    def one_write() -> Iterator[None]:
        calls.append("begin")
        yield
        calls.append("end")

    world.runner.connection = SimpleNamespace(one_write=one_write)  # type: ignore[assignment]
    world.runner.lanes.add(delivery(other, 5, b"b"))
    world.deliver("a")
    await until(lambda: "end" in calls)
    assert calls[0] == "begin"
    assert sorted(calls[1:-1]) == [("upto", 1), ("upto", 5)]
    assert calls[-1] == "end"


async def test_a_message_that_cannot_be_put_away_is_not_acknowledged_and_its_key_waits(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("partymq.client.runner._PUT_AWAY_AGAIN", 0.005)
    seen: list[bytes] = []
    tries = 0

    async def handle(message: Message) -> None:
        seen.append(message.body)
        if message.body == b"a":
            raise ValueError

    async def dead_letter(raw: Any, headers: dict[str, str]) -> None:
        nonlocal tries
        tries += 1
        await asyncio.sleep(0.02)
        if tries < 4:
            raise ConnectionLost("not now")

    world = World(handle)
    world.runner.outlet = SimpleNamespace(dead_letter=dead_letter)  # type: ignore[assignment]
    world.deliver("a", "a", "b")
    await until(lambda: tries == 3)
    assert seen == [b"a", b"b", b"a"]
    await until(lambda: world.acked.calls)
    assert world.acked.calls == [("alone", [3])]
    await until(lambda: world.runner.failed == 2)
    assert seen == [b"a", b"b", b"a", b"a", b"a"]
    world.partition.flush(all_now=True)
    assert world.acked.calls[-1] == ("upto", 2)


async def test_nothing_more_of_a_partition_is_acknowledged_once_it_is_lost():
    ended = asyncio.Event()

    async def handle(message: Message) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ended.set()

    world = World(handle)
    world.deliver("a", "b")
    await asyncio.sleep(0)
    world.runner.lose(world.partition)
    await until(ended.is_set)
    await until(lambda: world.runner.lanes.running == 0)
    assert world.acked.calls == ["shut"]
    assert world.runner.retried == 0


async def test_a_message_that_has_not_begun_when_its_partition_is_lost_never_does():
    seen: list[bytes] = []

    async def handle(message: Message) -> None:
        seen.append(message.body)

    world = World(handle)
    world.deliver("a", "b")
    world.runner.lose(world.partition)
    await until(lambda: world.runner.lanes.running == 0)
    assert seen == []
    assert len(world.runner.lanes) == 0


async def test_a_handler_that_cancels_itself_has_failed():
    attempts: list[int] = []

    async def handle(message: Message) -> None:
        attempts.append(message.attempt)
        inner = asyncio.ensure_future(asyncio.sleep(10))
        inner.cancel()
        await inner

    world = World(handle, on_failure="stop")
    world.deliver("a", "a")
    await until(lambda: world.fatal)
    assert attempts == [1, 2]
    assert "CancelledError" in str(world.fatal[0])
    assert world.acked.calls == []


async def test_messages_that_wait_are_handled_at_the_same_time_as_many_as_are_allowed():
    go_on = asyncio.Event()
    begun: list[bytes] = []

    async def handle(message: Message) -> None:
        begun.append(message.body)
        await go_on.wait()

    world = World(handle, concurrency=5)
    world.deliver(*"abcdefgh")
    await until(lambda: len(begun) == 5)
    world.runner.pump()
    await asyncio.sleep(0.01)
    assert begun == [b"a", b"b", b"c", b"d", b"e"]
    go_on.set()
    await until(lambda: world.runner.handled == 8)


async def test_messages_that_come_while_others_wait_are_handled_all_the_same():
    go_on = asyncio.Event()

    async def handle(message: Message) -> None:
        if message.body != b"quick":
            await go_on.wait()

    world = World(handle)
    world.deliver("slow", "slower")
    await until(lambda: world.runner.lanes.running == 2)
    for tag in range(3, 6):
        world.runner.lanes.add(delivery(world.partition, tag, str(tag).encode(), b"quick"))
    world.runner.pump()
    await until(lambda: world.runner.handled == 3)
    go_on.set()
    await until(lambda: world.runner.handled == 5)


async def test_handlers_that_never_wait_let_others_have_their_turn():
    handled_at_turn: list[int] = []

    async def handle(message: Message) -> None: ...

    world = World(handle)
    world.deliver(*(str(number) for number in range(500)))
    while world.runner.handled < 500:
        handled_at_turn.append(world.runner.handled)
        await asyncio.sleep(0)
    assert max(after - before for before, after in itertools.pairwise(handled_at_turn)) <= 100
    assert len(handled_at_turn) >= 5


async def test_a_handler_sees_nothing_that_the_one_before_has_set_in_its_context():
    mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="consumer's")
    seen: list[str] = []

    async def handle(message: Message) -> None:
        seen.append(mark.get())
        mark.set(message.body.decode())
        if message.body == b"b":
            await asyncio.sleep(0)

    world = World(handle)
    world.deliver("a", "a", "b", "b", "c")
    await until(lambda: world.runner.handled == 5)
    assert seen == ["consumer's"] * 5


async def test_what_is_cancelled_with_its_partition_does_not_keep_others_from_being_handled():
    async def handle(message: Message) -> None:
        if message.body == b"stuck":
            await asyncio.sleep(10)

    world = World(handle, concurrency=1)
    other = Partition(
        Owned(4, "q.4", 7), world.runner.lanes, HeaderKey("k"), 100, world.runner.pump, lambda *_: None
    )
    other._channel = Acked()  # type: ignore[assignment]
    world.deliver("stuck")
    await until(lambda: world.runner.lanes.running == 1)
    for tag in (1, 2):
        world.runner.lanes.add(delivery(other, tag, str(tag).encode(), b"fine"))
    world.runner.lose(world.partition)
    await until(lambda: world.runner.handled == 2)
    assert world.runner.retried == 0


async def test_an_exit_from_a_handler_stops_the_consumer_and_leaves_its_message():
    class Exit(BaseException): ...

    async def handle(message: Message) -> None:
        raise Exit

    world = World(handle)
    caught: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.append(context["exception"]))
    world.deliver("a", "a")
    await until(lambda: world.fatal and caught)
    assert isinstance(world.fatal[0].__cause__, Exit)
    assert world.runner.lanes.running == 0
    assert world.acked.calls == []


async def test_a_consumer_is_made_from_a_file(tmp_path: Path):
    file = tmp_path / "orders.toml"
    file.write_text(
        '[consumer]\nurl = "amqp://localhost"\ngroup = "orders"\nretry = {max_attempts = 3}\nthreads = 2\n'
    )
    ownership = StaticOwnership("amqp://localhost", [])
    consumer = Consumer.from_config(file, ownership=ownership, threads=4)
    assert (consumer.group, consumer.settings.threads, consumer.settings.retry.max_attempts) == (
        "orders",
        4,
        3,
    )
    with pytest.raises(ConfigError, match="nothing"):
        Consumer.from_config(file, "nothing")
    with pytest.raises(ConfigError, match="colour"):
        Consumer.from_config(file, ownership=ownership, colour="red")
    file.write_text('[consumer]\nurl = "amqp://localhost"\nretry = {attempts = 3}\n')
    with pytest.raises(ConfigError, match="attempts"):
        Consumer.from_config(file, ownership=ownership)


async def test_the_library_is_found_under_the_package():
    assert partymq.Consumer.__module__ == "partymq.client.consumer"
    assert partymq.Message is Message
    with pytest.raises(AttributeError, match="Customer"):
        partymq.Customer  # noqa: B018


async def test_nothing_is_started_while_the_guard_is_closed_and_what_has_ended_is_acknowledged():
    seen: list[bytes] = []
    go_on = asyncio.Event()

    async def handle(message: Message) -> None:
        seen.append(message.body)
        await go_on.wait()

    world = World(handle)
    guard = Guard(9.0, monotonic())
    world.runner.guarded(guard)
    world.deliver("a", "a")
    await until(lambda: seen)
    guard.look(monotonic() + 4.0)
    world.runner.heed()
    go_on.set()
    await until(lambda: world.acked.calls == [("upto", 1)])
    assert seen == [b"a"]

    guard.answered(monotonic() + 5.0, monotonic())
    world.runner.heed()
    await until(lambda: world.acked.calls == [("upto", 1), ("upto", 2)])


async def test_a_handler_that_has_blocked_the_event_loop_is_the_last_one_of_its_turn(
    monkeypatch: pytest.MonkeyPatch,
):
    now = 100.0
    monkeypatch.setattr("partymq.client.runner.monotonic", lambda: now)
    seen: list[bytes] = []

    async def handle(message: Message) -> None:
        nonlocal now
        seen.append(message.body)
        now += 4.0  # as if it had slept

    world = World(handle)
    world.runner.guarded(Guard(9.0, now))
    world.deliver("a", "b", "c")
    await until(lambda: world.acked.calls)
    assert seen == [b"a"]
    world.runner.guarded(None)
    await until(lambda: len(seen) == 3)


async def test_parked_messages_wait_while_the_guard_is_closed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("partymq.client.runner._HALTED", 0.005)
    guard = Guard(9.0, monotonic())
    seen: list[bytes] = []

    async def handle(message: Message) -> None:
        seen.append(message.body)
        guard.look(monotonic() + 4.0)
        world.runner.heed()

    class Parked(dict[bytes, None]):
        keys = ()

        async def parked(self, key: bytes) -> list[Any]:
            return [raw_message(b"1").raw, raw_message(b"2").raw]

        async def remove(self, *_: Any, all_of_it: bool) -> None:
            assert all_of_it

    world = World(handle)
    world.partition.prove()
    world.runner.parking = Parked({b"k": None})  # type: ignore[assignment]
    world.runner.guarded(guard)
    world.runner.release(world.partition, b"k")
    await until(lambda: seen)
    await asyncio.sleep(0.02)
    assert seen == [b"1"]
    world.runner.guarded(None)
    await until(lambda: world.runner.lanes.running == 0)
    assert seen == [b"1", b"2"]


async def test_what_was_handled_of_a_parked_key_is_removed_when_the_rest_is_cut_short():
    seen: list[bytes] = []
    removed: list[tuple[int, bool]] = []

    async def handle(message: Message) -> None:
        seen.append(message.body)
        if message.body == b"1" and message.attempt == 1:
            raise asyncio.CancelledError  # It waited for something that was cancelled: a failure like others.
        if message.body == b"3":
            await asyncio.sleep(60)

    class Parked(dict[bytes, None]):
        keys = ()

        async def parked(self, key: bytes) -> list[Any]:
            return [raw_message(body).raw for body in (b"1", b"2", b"3", b"4")]

        async def remove(self, key: bytes, handled: list[Any], *, all_of_it: bool) -> None:
            removed.append((len(handled), all_of_it))

    world = World(handle)
    world.partition.prove()
    world.runner.parking = Parked({b"k": None})  # type: ignore[assignment]
    world.runner.release(world.partition, b"k")
    await until(lambda: seen == [b"1", b"1", b"2", b"3"])
    world.runner.cut_short(world.partition)
    await until(lambda: world.runner.lanes.running == 0)
    assert removed == [(2, False)]


async def test_what_is_delivered_of_a_partition_without_proof_waits_for_it():
    seen: list[bytes] = []

    async def handle(message: Message) -> None:
        seen.append(message.body)

    world = World(handle)
    partition, raw = world.partition, raw_message(b"a").raw
    receive = partition._receiver()
    receive(raw.data, [(1, 0, raw.header_at, len(raw.data))])
    world.runner.release(partition, b"k")
    await asyncio.sleep(0.01)
    assert seen == []
    assert not partition.empty
    partition.prove()
    await until(lambda: seen == [b"a"] and world.runner.lanes.running == 0)
    receive(raw.data, [(2, 0, raw.header_at, len(raw.data))])
    await until(lambda: seen == [b"a", b"a"])


async def test_what_waits_for_proof_is_not_started_when_the_partition_is_given_up_meanwhile():
    seen: list[bytes] = []

    async def handle(message: Message) -> None:
        seen.append(message.body)

    world = World(handle)
    raw = raw_message(b"a").raw
    world.partition._receiver()(raw.data, [(1, 0, raw.header_at, len(raw.data))])
    world.partition.drop()
    world.partition.prove()
    await asyncio.sleep(0.01)
    assert seen == []
    assert len(world.runner.lanes) == 0
