"""What becomes of a user's function, and what is done when it fails."""

import asyncio
import dataclasses
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pydantic
import pytest
from pamqp.commands import Basic

from partymq.amqp.content import encode_content
from partymq.client.failure import RetryPolicy, failure_headers
from partymq.client.handlers import decoder_for, make_handler
from partymq.client.message import Lost, Message, Origin, RawCopy
from partymq.client.settings import ConsumerSettings
from partymq.errors import ConfigError, ConnectionLost, Undecodable
from partymq.group.layout import GroupLayout
from tests.unit.raw_content import short_string


def message(
    body: bytes, content_type: str | None = None, redelivered: bool = True, **headers: Any
) -> Message:
    deliver = (
        b"\0\x3c\0\x3c"
        + short_string("c1")
        + b"\0\0\0\0\0\0\0\x07"
        + bytes([redelivered])
        + short_string("an exchange")
        + short_string("1.5")
    )
    frame = b"\1\0\1" + len(deliver).to_bytes(4) + deliver + b"\xce"
    properties = Basic.Properties(content_type=content_type, headers=headers or None)
    raw = RawCopy(frame + encode_content(1, body, properties), len(frame))
    return Message(raw, b"customer-42", Origin(5, 17, Lost()), 2)


@dataclasses.dataclass
class Order:
    amount: int


class Later:
    def __await__(self) -> Any:
        yield


class StructOrder(msgspec.Struct):
    amount: int


class ModelOrder(pydantic.BaseModel):
    amount: int = pydantic.Field(gt=0)


async def test_a_message_shows_what_came():
    seen = message(b'{"amount": 7}', "application/json", colour="red")
    assert (seen.body, seen.json(), seen.key, seen.partition) == (
        b'{"amount": 7}',
        {"amount": 7},
        "customer-42",
        5,
    )
    assert (seen.headers, seen.properties.content_type) == ({"colour": "red"}, "application/json")
    assert (seen.exchange, seen.routing_key, seen.redelivered) == ("an exchange", "1.5", True)
    assert (seen.fencing_token, seen.attempt, seen.lost.is_set()) == (17, 2, False)
    assert message(b"").headers == {}
    assert message(b"", redelivered=False).redelivered is False
    assert message(b"", redelivered=False, **{"x-partymq-redelivered": "true"}).redelivered is True


async def test_lost_is_seen_by_coroutines_and_threads():
    lost = Lost()
    assert not lost.wait_in_thread(0)
    lost.set()
    await lost.wait()
    assert lost.is_set()
    assert lost.wait_in_thread(0)


@pytest.mark.parametrize("kind", [Order, StructOrder, ModelOrder, dict[str, int], Any])
@pytest.mark.parametrize("packed", [False, True])
async def test_bodies_are_decoded_by_the_annotation(kind: Any, packed: bool):
    body = msgspec.msgpack.encode({"amount": 7}) if packed else b'{"amount": 7}'
    order = decoder_for(kind)(message(body, "application/msgpack" if packed else None))
    assert (order["amount"] if isinstance(order, dict) else order.amount) == 7
    if kind not in (dict[str, int], Any):
        assert isinstance(order, kind)


async def test_bytes_and_text_are_handed_on_as_they_are():
    assert decoder_for(bytes)(message(b"\xff")) == b"\xff"
    assert decoder_for(str)(message("ö".encode())) == "ö"
    with pytest.raises(Undecodable, match="UTF-8"):
        decoder_for(str)(message(b"\xff"))


@pytest.mark.parametrize("kind", [Order, StructOrder, ModelOrder])
@pytest.mark.parametrize("body", [b"", b"{", b'{"amount": "no"}', b"\xff\xfe", b"[" * 10_000])
async def test_a_body_that_does_not_fit_says_why(kind: Any, body: bytes):
    with pytest.raises(Undecodable, match="the body is not JSON of the handler's type"):
        decoder_for(kind)(message(body))
    with pytest.raises(Undecodable, match="MessagePack"):
        decoder_for(kind)(message(body, "application/msgpack; v=1"))


async def test_a_second_parameter_gets_the_body():
    got: list[Any] = []

    async def handle(seen: Message, order: "Order") -> None:
        got.append(order)

    await make_handler(handle, None).call(message(b'{"amount": 7}'))
    assert got == [Order(7)]


async def test_a_second_parameter_with_a_default_is_left_alone():
    got: list[Any] = []

    async def handle(seen: Message, session: object = "mine") -> None:
        got.append(session)

    await make_handler(handle, None).call(message(b"no json"))
    assert got == ["mine"]


async def test_methods_and_objects_can_be_handlers():
    class Shop:
        def __init__(self) -> None:
            self.orders: list[Order] = []

        async def take(self, seen: Message, order: Order) -> None:
            self.orders.append(order)

        async def __call__(self, seen: Message, order: Order) -> None:
            self.orders.append(order)

    shop = Shop()
    for function in (shop.take, shop):
        handler = make_handler(function, None)
        assert not handler.in_threads
        await handler.call(message(b'{"amount": 7}'))
    assert shop.orders == [Order(7), Order(7)]


async def test_a_plain_function_runs_in_a_thread():
    names: list[str] = []

    def handle(seen: Message, order: Order) -> None:
        names.append(f"{threading.current_thread().name} {order.amount}")

    with ThreadPoolExecutor(1, "worker") as threads:
        handler = make_handler(handle, threads)
        await handler.call(message(b'{"amount": 7}'))
        with pytest.raises(Undecodable):
            await handler.call(message(b"no"))
    assert handler.in_threads
    assert names == ["worker_0 7"]


async def test_a_plain_function_that_returns_a_coroutine_is_a_failure():
    async def later() -> None: ...

    with ThreadPoolExecutor(1) as threads:
        handler = make_handler(lambda seen: later(), threads)
        with pytest.raises(TypeError, match="make it async"):
            await handler.call(message(b""))


@pytest.mark.parametrize("made", [lambda: (one for one in ()), lambda: asyncio.Future(), Later])
async def test_a_plain_function_that_returns_what_nobody_would_run_is_a_failure(made: Any):
    loop_of_its_own = asyncio.new_event_loop()

    def handle(seen: Message) -> Any:
        asyncio.set_event_loop(loop_of_its_own)
        return made()

    with ThreadPoolExecutor(1) as threads, pytest.raises(TypeError, match="nobody would run"):
        await make_handler(handle, threads).call(message(b""))
    loop_of_its_own.close()


async def test_what_a_call_would_run_nothing_of_is_no_handler():
    def generator(seen: Message) -> Any:
        yield

    async def async_generator(seen: Message) -> Any:
        yield

    class Generator:
        def __call__(self, seen: Message) -> Any:
            yield

    class Forgotten:
        def __init__(self, seen: Message) -> None: ...

        async def __call__(self, seen: Message) -> None: ...

    for function in (generator, async_generator, functools.partial(generator), Generator()):
        with ThreadPoolExecutor(1) as threads, pytest.raises(ConfigError, match="yield"):
            make_handler(function, threads)
    with pytest.raises(ConfigError, match="Forgotten is a class"):
        make_handler(Forgotten, None)


async def test_a_function_that_cannot_be_a_handler_is_refused():
    async def nothing() -> None: ...

    async def three(seen: Message, order: Order, more: int) -> None: ...

    async def keyword(seen: Message, *, order: Order) -> None: ...

    async def odd(seen: Message, order: threading.Lock) -> None: ...  # type: ignore[valid-type]

    for function in (nothing, three, keyword, odd):
        with pytest.raises(ConfigError, match=function.__name__):
            make_handler(function, None)


async def test_retries_come_later_and_later_and_end():
    policy = RetryPolicy(max_attempts=5, first_delay=1, factor=3, max_delay=10, jitter=0)
    assert [policy.delay(attempt, 0.5) for attempt in range(1, 6)] == [1, 3, 9, 10, None]
    jittery = RetryPolicy(first_delay=1, jitter=0.5)
    assert (jittery.delay(1, 0), jittery.delay(1, 1)) == (0.5, 1.5)
    assert RetryPolicy(max_attempts=10**6).delay(10**5, 0.5) == 30


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"first_delay": -1},
        {"first_delay": 5, "max_delay": 1},
        {"factor": 0.5},
        {"jitter": 2},
        {"max_attempts": 1.5},
        {"first_delay": "1"},
        {"max_delay": float("inf")},
    ],
)
async def test_a_retry_policy_that_is_not_possible_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RetryPolicy(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"concurrency": True},
        {"threads": 0},
        {"threads": "8"},
        {"ack_interval": 2},
        {"stop_timeout": "30"},
        {"stop_timeout": float("nan")},
        {"retry": {"max_attempts": 3}},
        {"on_failure": "drop"},
    ],
)
async def test_settings_that_are_not_possible_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ConsumerSettings(**wrong)


def test_the_prefetch_is_split_among_all_partitions_of_the_group():
    of_one = [GroupLayout(total).prefetch_of_one for total in (1, 16, 64, 1000)]
    assert of_one == [250, 250, 62, 8]
    of_one = [GroupLayout(total, prefetch=1000).prefetch_of_one for total in (1, 16, 64, 1000)]
    assert of_one == [1000, 62, 15, 8]
    assert GroupLayout(1, prefetch=100_000).prefetch_of_one == 65_535


async def test_a_message_that_is_given_up_says_where_it_came_from_and_why():
    try:
        raise ValueError("no\nsuch " + "x" * 5000)
    except ValueError as error:
        headers = failure_headers(message(b""), "orders", "failed", error)
    assert headers["x-partymq-error"].startswith("ValueError: no such xxx")
    assert len(headers["x-partymq-error"]) == 1000
    assert len(headers["x-partymq-traceback"]) == 4000
    assert {
        name: headers[f"x-partymq-{name}"] for name in ("reason", "group", "exchange", "routing-key")
    } == {
        "reason": "failed",
        "group": "orders",
        "exchange": "an exchange",
        "routing-key": "1.5",
    }
    assert (headers["x-partymq-key"], headers["x-partymq-partition"], headers["x-partymq-attempts"]) == (
        "customer-42",
        "5",
        "2",
    )


class Untold(Exception):
    def __str__(self) -> str:
        raise KeyError("text")


async def test_an_error_that_can_not_be_shown_or_sent_is_told_as_far_as_it_can_be():
    headers = failure_headers(message(b""), "orders", "failed", Untold())
    assert headers["x-partymq-error"].startswith("Untold: ")
    headers = failure_headers(message(b""), "orders", "failed", ValueError("\ud83d"))
    assert headers["x-partymq-error"] == r"ValueError: \ud83d"
    "".join(headers.values()).encode()


async def test_a_plain_function_that_raises_stop_iteration_has_ended_as_well():
    with ThreadPoolExecutor(1) as threads:
        handler = make_handler(lambda _seen: next(iter(())), threads)
        async with asyncio.timeout(60):
            with pytest.raises(RuntimeError, match="StopIteration"):
                await handler.call(message(b""))


async def test_a_handler_that_waited_for_a_thread_does_not_begin_when_its_partition_is_lost():
    handled: list[Message] = []
    go_on = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        busy = threads.submit(go_on.wait, 30)
        handler = make_handler(handled.append, threads)
        late = message(b"{}")
        running = asyncio.ensure_future(handler.call(late))
        await asyncio.sleep(0)
        late.lost.set()
        go_on.set()
        with pytest.raises(ConnectionLost, match="lost before"):
            await running
        busy.result()
    assert not handled
