"""What a publisher decides without a broker: bytes, order, confirms, returns, the group's settings."""

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID
from zlib import crc32

import pytest
from pamqp.commands import Basic

from partymq.amqp.content import Returned, body_of, properties_of
from partymq.client.encoding import Encoder, Key, key_bytes
from partymq.client.firsts import Firsts
from partymq.client.outbox import Batch, Item, Outbox
from partymq.client.publisher import Publisher
from partymq.client.routes import Routes
from partymq.errors import CallTimeout, ConfigError, Nacked
from partymq.group.key import KeyRule, make_finder
from partymq.group.layout import GroupLayout, key_rule, key_text
from partymq.group.partitioner import partition_of

RULE = KeyRule()
PUBLISHERS = Path(__file__).parents[2] / "docs" / "publishers.md"


@dataclass
class Order:
    amount: int


def test_the_test_vectors_of_the_docs_are_right() -> None:
    rows = re.findall(
        r"^\| `(.+)` \| `([0-9a-f]+|-)` \| (\d+) \| (\d+) \| (\d+) \|$",
        PUBLISHERS.read_text("utf-8"),
        re.MULTILINE,
    )
    assert len(rows) == 7
    for text, raw, crc, of_64, of_12 in rows:
        key = b"" if raw == "-" else bytes.fromhex(raw)
        assert key.decode() == ("" if text == "(empty)" else text)
        assert crc32(key) == int(crc)
        assert (partition_of(key, 64), partition_of(key, 12)) == (int(of_64), int(of_12))


@pytest.mark.parametrize("headers", [None, {"trace": "t"}], ids=["quick", "by pamqp"])
@pytest.mark.parametrize("key", ["customer-42", "größer", "", b"\xff\xfe", "k" * 2_000, 42, True, None])
def test_a_member_finds_the_key_that_was_given(key: Key | None, headers: dict[str, str] | None) -> None:
    raw = key_bytes(key)
    content = Encoder(1, 4_096, RULE).encode(Order(7), raw, headers)
    assert make_finder(RULE).find(content, 0, len(content), b"") == raw
    assert body_of(content, 0, len(content)) == b'{"amount":7}'
    properties = properties_of(content)
    assert (properties.content_type, properties.delivery_mode) == ("application/json", 2)
    assert (properties.headers or {}).get("trace") == (headers or {}).get("trace")


def test_what_was_set_in_the_properties_stays() -> None:
    own = Basic.Properties(content_type="x/y", delivery_mode=1, message_id="m", headers={"a": 1})
    content = Encoder(1, 0, RULE).encode(b"z" * 10, b"k", {"b": 2}, own)
    found = properties_of(content)
    assert (found.content_type, found.delivery_mode, found.message_id) == ("x/y", 1, "m")
    assert found.headers == {"partitionKey": "k", "a": 1, "b": 2}
    assert own.headers == {"a": 1}


def test_a_key_that_stands_in_the_headers_is_found_wherever_they_are() -> None:
    encoder, headers = Encoder(1, 0, RULE), {"partitionKey": "k"}
    assert encoder.key_in(headers) == "k"
    assert encoder.key_in(None, Basic.Properties(headers=headers)) == "k"
    assert encoder.key_in({"a": 1}, Basic.Properties(headers=headers)) == "k"
    assert encoder.key_in({"partitionKey": "own"}, Basic.Properties(headers=headers)) == "own"
    assert encoder.key_in({"a": 1}, Basic.Properties()) is None


def test_a_big_body_is_split() -> None:
    body = bytes(range(256)) * 100
    content = Encoder(1, 4_096, RULE).encode(body, b"k")
    assert body_of(content, 0, len(content)) == body
    assert len(content) > len(body) + 6 * 8


def put(outbox: Outbox, *bodies: bytes, at: float = 0.0, batch: Batch | None = None) -> list[Item]:
    items = [Item(body, None, at, None, batch) for body in bodies]
    for item in items:
        outbox.put(item)
    return items


def bodies(items: list[Item]) -> bytes:
    return b"".join(item.content for item in items)


def returned(content: bytes) -> Returned:
    return Returned(312, "NO_ROUTE", "x", "1.0", content)


async def test_no_more_is_in_flight_than_may_be_and_one_always_may() -> None:
    outbox = Outbox(2, 3)
    put(outbox, b"abcdef", b"g", b"h", b"i")
    assert bodies(outbox.take()) == b"abcdef"
    assert outbox.take() == []
    outbox.confirms([(1, False, True)])
    assert bodies(outbox.take()) == b"gh"
    assert outbox.flight_bytes == 2
    outbox.confirms([(3, True, True)])
    assert (len(outbox), outbox.confirmed, outbox.flight_bytes, outbox.bytes) == (1, 3, 0, 1)


async def test_what_came_back_is_sent_first_and_in_order_although_confirms_are_not() -> None:
    outbox = Outbox(10, 1_000)
    put(outbox, b"a", b"b", b"c", b"b", b"d")
    outbox.take()
    put(outbox, b"e")
    for content in (b"b", b"b", b"d"):
        assert outbox.came_back(returned(content), 4_096)
    assert not outbox.came_back(returned(b"a"), 4_096)
    outbox.confirms([(5, False, True), (1, False, True), (4, False, True), (3, True, True)])
    assert outbox.confirmed == 2
    assert outbox.again() == 3
    assert bodies(outbox.take()) == b"bbde"


async def test_after_a_lost_channel_all_that_was_not_confirmed_is_sent_again_in_order() -> None:
    outbox = Outbox(10, 1_000)
    put(outbox, b"a", b"b", b"c")
    outbox.take()
    put(outbox, b"d")
    assert outbox.came_back(returned(b"b"), 4_096)
    outbox.confirms([(2, False, True)])
    assert outbox.rewind() == 3
    again = outbox.take()
    assert bodies(again) == b"abcd"
    assert [item.seq for item in again] == [1, 2, 3, 4]
    assert all(item.returned is None for item in again)


async def test_a_batch_ends_with_its_first_error_when_all_are_settled() -> None:
    outbox = Outbox(10, 1_000)
    batch = Batch()
    put(outbox, b"a", b"b", b"c", batch=batch)
    batch.seal()
    outbox.take()
    outbox.confirms([(1, False, True), (3, False, True)])
    seq = 2
    while outbox.flight:
        outbox.confirms([(seq, False, False)])
        assert batch.done.done() == (not outbox.refused)
        outbox.rewind()
        seq = 1
        outbox.take()
    assert batch.done.done()
    assert (batch.confirmed, batch.failed) == (2, 1)
    assert isinstance(batch.error, Nacked)


async def test_what_is_refused_is_sent_again_in_its_place_and_given_up_in_the_end() -> None:
    outbox = Outbox(10, 1_000)
    items = put(outbox, b"a", b"b", b"c")
    outbox.take()
    outbox.confirms([(1, False, True), (2, False, False)])
    put(outbox, b"d")
    assert (bodies(outbox.refused), len(outbox), outbox.bytes, outbox.settled) == (b"b", 3, 3, False)
    tries = 0
    while outbox.rewind():
        tries += 1
        assert bodies(outbox.take()) == {1: b"bcd"}.get(tries, b"b")
        outbox.confirms([(1, False, False), (3, True, True)])
    assert tries == 7
    assert (len(outbox), outbox.bytes, outbox.flight_bytes, outbox.confirmed) == (0, 0, 0, 3)
    assert all(item.settled for item in items)
    assert outbox.settled


async def test_the_first_message_to_a_partition_goes_alone() -> None:
    outbox = Outbox(100, 10_000)
    routes = Routes(1, "g", GroupLayout(partitions=4))
    keys = [b"%d" % number for number in range(12)]
    for key in [*keys, *keys]:
        outbox.put(Item(key, key, 0.0, None, None))
    outbox.put(Item(b"x", None, 0.0, None, None))
    firsts = Firsts(routes.partition, 4)

    sent: list[bytes] = []
    waves: list[set[int]] = []
    while taken := outbox.take(firsts.may_go):
        sent += [item.content for item in taken]
        waves.append({partition_of(item.content, 4) for item in taken if item.key is not None})
        assert len(waves) > 1 or len(waves[0]) == len([item for item in taken if item.key is not None])
        outbox.confirms([(len(sent), True, True)])
    assert waves[0] == {0, 1, 2, 3}
    assert (len(waves), firsts.over) == (2, True)
    for partition in range(4):
        mine = [key for key in keys if partition_of(key, 4) == partition]
        assert [key for key in sent if key in mine] == [*mine, *mine]


async def test_a_first_message_that_is_not_confirmed_holds_its_own_partition_only() -> None:
    outbox = Outbox(100, 10_000)
    routes = Routes(1, "g", GroupLayout(partitions=4))
    one, other = (
        b"0",
        next(key for key in map(str.encode, "123456") if partition_of(key, 4) != partition_of(b"0", 4)),
    )
    for key in (one, one, other):
        outbox.put(Item(key, key, 0.0, None, None))
    firsts = Firsts(routes.partition, 4)
    assert [item.key for item in outbox.take(firsts.may_go)] == [one, other]
    outbox.confirms([(2, False, True)])
    assert outbox.take(firsts.may_go) == []
    outbox.put(Item(other, other, 0.0, None, None))
    assert [item.key for item in outbox.take(firsts.may_go)] == [other]
    outbox.confirms([(1, False, True)])
    assert [item.key for item in outbox.take(firsts.may_go)] == [one]
    assert not firsts.over


async def test_what_took_too_long_is_given_up_and_never_sent() -> None:
    outbox = Outbox(1, 1_000)
    batch = Batch()
    put(outbox, b"a", b"b", at=1.0, batch=batch)
    put(outbox, b"c", at=5.0)
    outbox.take()
    assert outbox.expire(2.0, lambda: CallTimeout("late")) == 2
    assert isinstance(batch.error, CallTimeout)
    outbox.rewind()
    assert bodies(outbox.take()) == b"c"
    outbox.confirms([(1, False, True)])
    assert (len(outbox), outbox.bytes) == (0, 0)


def test_messages_go_to_the_partition_of_their_key() -> None:
    routes = Routes(1, "g", GroupLayout(partitions=8, layout=3))
    frames = routes.frames([Item(b"", b"customer-42", 0.0, None, None)])
    assert f"3.{partition_of(b'customer-42', 8)}".encode() in frames
    assert b"partymq.g.ex.write" in frames
    with pytest.raises(ConfigError, match="publish to the source"):
        Routes(1, "g", GroupLayout(ingress="router"))


def test_settings_of_a_group_are_read_as_they_were_written() -> None:
    layout = GroupLayout(12, "classic", "hash-exchange", KeyRule("routing_key"), 2, 5)
    assert GroupLayout.decode(layout.encode()) == layout
    assert layout.resized(24) == GroupLayout(24, "classic", "hash-exchange", KeyRule("routing_key"), 3, 6, 12)
    slower = layout.resized(12, prefetch=96)
    assert GroupLayout.decode(slower.encode()) == slower
    before = slower.before()
    assert before is not None
    assert (before.layout, before.prefetch_of_one, slower.prefetch_of_one) == (2, 250, 8)
    assert (slower.settled().previous, slower.settled().prefetch_of_one) == (0, 8)
    slower.check("g", {"prefetch": 50})  # that of its creation does not count any more
    with pytest.raises(ConfigError, match="prefetch = 50 is set here"):
        GroupLayout().check("g", {"prefetch": 50})
    assert (GroupLayout().queue("g", 3), layout.queue("g", 3)) == (
        "partymq.g.q.partition-3",
        "partymq.g.q.v2.partition-3",
    )
    for text in ("header:customer", "routing_key", "body:customer.id"):
        assert key_text(key_rule(text)) == text


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"partitions": 0}, "partitions = 0: allowed are whole numbers, 1 to"),
        ({"queue_type": "stream"}, "queue_type = 'stream': allowed are quorum, classic"),
        ({"key": "body:id"}, "key = body:id: with ingress publisher allowed are header"),
        ({"partition": 3}, "unknown settings of a group: partition; known are partitions"),
        ({"timeout": 0}, "timeout = 0: allowed are numbers, 0.001 and more s"),
        ({"timeout": "30"}, "timeout = '30': allowed are numbers"),
        ({"timeout": float("nan")}, "timeout = nan: allowed are numbers"),
        ({"max_in_flight": 1.5}, "max_in_flight = 1.5: allowed are whole numbers, 1 and more"),
        ({"max_in_flight_bytes": 0}, "max_in_flight_bytes = 0: allowed are whole numbers, 1 and more"),
        ({"group": "a b"}, "group = 'a b': allowed are 1 to 100 letters"),
        ({"key": "customer"}, "key source 'customer': .* written as in header:customer"),
        ({"key": 5}, "key = 5: allowed are texts such as"),
    ],
)
def test_a_wrong_setting_is_named(wish: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Publisher("amqp://localhost", **({"group": "g"} | wish))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        (["ab"], "a str"),  # not the body a of the key b
        ([["a", "b"]], "a list"),
        ([{"amount": 7}], "a dict"),
        ([("a", "b", "c")], "a tuple of 3"),
        ([Order(7)], "a Order"),
    ],
)
async def test_what_is_no_message_with_its_key_is_not_published(messages: list[Any], told: str) -> None:
    publisher = Publisher("amqp://localhost", group="g")
    with pytest.raises(TypeError, match=rf"{told}: publish_many takes tuples \(body, key\), or Outgoing"):
        await publisher.publish_many(messages)


@pytest.mark.parametrize("key", [UUID(int=7), ("a", 1), None.__class__])
def test_what_can_be_no_key_is_named(key: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"wrong type: {type(key).__name__}; allowed are texts, bytes, numbers"
    ):
        key_bytes(key)


def test_a_number_that_can_be_no_key_is_named() -> None:
    with pytest.raises(ValueError, match="key nan: wrong type: not a finite number"):
        key_bytes(float("nan"))


def test_settings_that_can_not_be_read_are_shown() -> None:
    with pytest.raises(ConfigError, match=r"can't be read: .*nonsense"):
        GroupLayout.decode(b"nonsense")


async def test_a_publisher_is_for_the_event_loop_that_it_was_opened_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def connected(*_: object) -> None: ...

    publisher = Publisher("amqp://localhost", group="g")
    monkeypatch.setattr(publisher._sender, "open", connected)
    await publisher.open()
    publisher._sender.over = None

    def elsewhere() -> None:
        for call in (publisher.publish(b""), publisher.publish_many([(b"", "k")])):
            with pytest.raises(RuntimeError, match="another event loop"):
                asyncio.run(call)  # type: ignore[arg-type]

    await asyncio.to_thread(elsewhere)
    await publisher._end()


async def test_closing_does_not_wait_for_what_nobody_waits_for_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing comes from the broker that could wake it: it blocks publishers."""

    async def nothing(*_: object) -> None: ...

    publisher = Publisher("amqp://localhost", group="g", timeout=60.0)
    monkeypatch.setattr(publisher._sender, "open", nothing)
    await publisher.open()
    publisher._sender.over = None
    publishing = asyncio.create_task(publisher.publish(b""))
    await asyncio.sleep(0)
    publisher._outbox.take()
    monkeypatch.setattr(publisher, "_late", lambda: pytest.fail("it was waited for until it was late"))
    closing = asyncio.create_task(publisher.close())
    await asyncio.sleep(0)
    publishing.cancel()
    await asyncio.wait_for(closing, 60)
