"""The parser finds what pamqp encoded, however the stream is cut and mixed."""

import random
import time

import pytest
from amqp_stream import (
    FRAME_MAX,
    HEARTBEAT,
    PAYLOAD,
    Item,
    Reader,
    confirm,
    delivery,
    expected,
    got,
    heartbeat,
    joined,
    method,
    pieces,
    raw_content,
    returned,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import frame
from pamqp.commands import Basic, Channel, Connection, Queue

from partymq.amqp.codec import Consumer, Parser
from partymq.errors import ProtocolError

CONSUMERS = ((1, "c1"), (1, "other"), (2, "c1"))
PROPERTIES = Basic.Properties(headers={"partitionKey": "k", "n": 7}, delivery_mode=2, message_id="m")
BODIES = st.one_of(
    st.just(b""),
    st.binary(max_size=40),
    st.sampled_from([PAYLOAD - 1, PAYLOAD, PAYLOAD + 1, 3 * PAYLOAD + 5]).map(lambda size: b"\xce" * size),
)
NUMBERS = st.integers(1, 2**63 - 1)

ITEMS: st.SearchStrategy[Item] = st.one_of(
    st.builds(
        lambda at, number, body, payload, redelivered: delivery(
            at[0], at[1], number, body, PROPERTIES, payload=payload, redelivered=redelivered
        ),
        st.sampled_from(CONSUMERS),
        NUMBERS,
        BODIES,
        st.sampled_from([PAYLOAD, PAYLOAD, 1000]),
        st.booleans(),
    ),
    st.builds(confirm, st.integers(1, 3), NUMBERS, st.booleans(), st.booleans()),
    st.builds(returned, st.integers(1, 3), BODIES),
    st.builds(got, st.integers(1, 3), NUMBERS, BODIES),
    st.builds(heartbeat),
    st.sampled_from(
        [
            method(1, Basic.ConsumeOk("c1")),
            method(2, Queue.DeclareOk("q", 3, 1)),
            method(1, Basic.GetEmpty()),
            method(3, Channel.Close(404, "NOT_FOUND", 50, 10)),
            method(0, Connection.Blocked("low on memory")),
            method(0, Connection.Unblocked()),
        ]
    ),
)
CUTS = st.lists(st.integers(0, 2**20), max_size=12)


@given(st.lists(ITEMS, max_size=12), CUTS)
@settings(max_examples=300, deadline=None)
def test_every_split_of_a_stream_means_the_same(items: list[Item], cuts: list[int]) -> None:
    reader = Reader(consumers=CONSUMERS)
    for piece in pieces(joined(items), cuts):
        reader.feed(piece)
    assert reader.found == expected(items)


@given(st.lists(ITEMS, max_size=4))
@settings(max_examples=40, deadline=None)
def test_a_stream_that_comes_byte_by_byte_means_the_same(items: list[Item]) -> None:
    reader = Reader(consumers=CONSUMERS)
    stream = joined(items)
    for at in range(len(stream)):
        reader.feed(stream[at : at + 1])
    assert reader.found == expected(items)


@given(st.lists(ITEMS, max_size=10), CUTS, st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_frames_of_channels_and_heartbeats_may_come_in_between_each_other(
    items: list[Item], cuts: list[int], chance: random.Random
) -> None:
    queues: dict[int, list[bytes]] = {}
    for item in items:
        queues.setdefault(item.channel, []).extend(item.frames)
    stream = b""
    while queues:
        channel = chance.choice(list(queues))
        stream += queues[channel].pop(0)
        if chance.random() < 0.2:
            stream += HEARTBEAT
        if not queues[channel]:
            del queues[channel]
    reader = Reader(consumers=CONSUMERS)
    for piece in pieces(stream, cuts):
        reader.feed(piece)
    assert reader.found == expected(items)


@given(st.lists(st.integers(0, 900), min_size=1, max_size=60), CUTS)
@settings(max_examples=100, deadline=None)
def test_usual_deliveries_and_confirms_on_one_connection(sizes: list[int], cuts: list[int]) -> None:
    items = [delivery(1, "c1", number, b"x" * size, PROPERTIES) for number, size in enumerate(sizes, 1)]
    items += [confirm(2, number, number % 3 == 0, number % 5 > 0) for number in range(1, 40)]
    reader = Reader(consumers=CONSUMERS)
    for piece in pieces(joined(items), cuts):
        reader.feed(piece)
    assert reader.found == expected(items)


def test_a_read_yields_each_consumer_once_and_each_channels_confirms_once() -> None:
    items = [
        item
        for number in range(1, 30)
        for item in (
            delivery(1, "c1", number, b"a"),
            confirm(2, number, False, True),
            delivery(1, "other", number, b"b"),
            confirm(3, number, False, True),
        )
    ]
    batch = Reader(consumers=CONSUMERS).feed(joined(items))
    assert [(consumer.tag, len(spans)) for consumer, spans in batch.deliveries] == [
        (b"c1", 29),
        (b"other", 29),
    ]
    assert {channel: len(confirms) for channel, confirms in batch.confirms.items()} == {2: 29, 3: 29}


def test_deliveries_around_an_interrupted_one_are_spans_of_one_buffer() -> None:
    before, after = delivery(1, "c1", 1, b"a"), delivery(1, "c1", 3, b"c")
    interrupted = delivery(1, "c1", 2, b"b" * 9000)
    frames = list(interrupted.frames)
    stream = joined([before]) + frames[0] + HEARTBEAT + frames[1] + joined([confirm(2, 1, False, True)])
    stream += b"".join(frames[2:]) + joined([after])
    reader = Reader(consumers=CONSUMERS)
    batch = reader.feed(stream)
    assert len(batch.deliveries) == 1
    assert reader.found == expected([before, interrupted, confirm(2, 1, False, True), after])


def test_deliveries_of_a_consumer_nobody_knows_are_passed_over() -> None:
    reader = Reader(consumers=CONSUMERS)
    items = [delivery(1, "gone", 1, b"a" * 5000), delivery(1, "c1", 2, b"b")]
    batch = reader.feed(joined(items))
    assert [spans[0][0] for _, spans in batch.deliveries] == [2]


def test_a_removed_consumer_gets_nothing_more_even_of_the_batch_at_hand() -> None:
    parser = Parser()
    consumer = Consumer(1, b"c1", lambda _buf, _spans: None)
    parser.add_consumer(consumer)
    with pytest.raises(ValueError, match="already"):
        parser.add_consumer(Consumer(1, b"c1", lambda _buf, _spans: None))
    assert parser.feed(joined([delivery(1, "c1", 1, b"a")])).deliveries
    parser.remove_consumer(consumer)
    assert not consumer.active
    assert not parser.feed(joined([delivery(1, "c1", 2, b"a")])).deliveries


def test_what_came_before_a_broken_frame_is_not_lost() -> None:
    parser = Parser()
    stream = joined([confirm(1, 5, True, True)]) + b"\x01\x00\x01\x00\x00\x00\x04\x00\x14\x00\x29\xcd"
    batch = parser.feed(stream)
    assert batch.confirms == {1: [(5, True, True)]}
    assert isinstance(batch.error, ProtocolError)


def broken_streams() -> dict[str, bytes]:
    whole = delivery(1, "c1", 1, b"x" * 50)
    start, header, body = whole.frames
    second = raw_content(1, b"y" * 60, Basic.Properties())[1]
    ack = bytearray(joined([confirm(1, 1, False, True)]))
    ack[-1] = 0
    return {
        "another version": b"AMQP\x00\x01\x00\x00",
        "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
        "no end octet behind a method": start[:-1] + b"\x00" + header + body,
        "no end octet behind a header": start + header[:-1] + b"\x00" + body,
        "no end octet behind a body": start + header + body[:-1] + b"\x00",
        "no end octet behind a confirm": bytes(ack),
        "a longer body than announced": start + header + second,
        "a body without a method": body,
        "a header without a method": header,
        "a method inside a message": start + header + joined([method(1, Basic.GetEmpty())]),
        "a header that is too short": start + b"\x02\x00\x01\x00\x00\x00\x02\x00\x3c\xce",
        "an empty method frame": b"\x01\x00\x01\x00\x00\x00\x00\xce",
        "an unknown method": b"\x01\x00\x01\x00\x00\x00\x04\x00\x3c\x00\xff\xce",
        "a method that is cut off": b"\x01\x00\x01\x00\x00\x00\x06\x00\x32\x00\x0b\x09a\xce",
        "a frame larger than agreed on": b"\x01\x00\x01\x00\x00\x10\x00" + b"\x00" * 20,
        "an unknown type": b"\x07\x00\x01\x00\x00\x00\x00\xce",
    }


@pytest.mark.parametrize("name", broken_streams())
@pytest.mark.parametrize("step", [1, 5, 10_000])
def test_what_is_no_amqp_is_refused(name: str, step: int) -> None:
    stream = broken_streams()[name]
    parser = Reader(consumers=CONSUMERS).parser
    reads = [stream[at : at + step] for at in range(0, len(stream), step)]
    assert isinstance(next(batch.error for batch in map(parser.feed, reads) if batch.error), ProtocolError)


@given(st.binary(max_size=300), CUTS)
@settings(max_examples=300, deadline=None)
def test_noise_never_raises_anything_but_a_protocol_error(noise: bytes, cuts: list[int]) -> None:
    parser = Parser(FRAME_MAX)
    for channel, tag in CONSUMERS:
        parser.add_consumer(Consumer(channel, tag.encode(), lambda _buf, _spans: None))
    stream = joined([delivery(1, "c1", 1, b"x")]) + noise
    for piece in pieces(stream, cuts):
        if parser.feed(piece).error is not None:
            return


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=8), CUTS)
@settings(max_examples=300, deadline=None)
def test_damaged_deliveries_never_raise_anything_but_a_protocol_error(
    at: int, damage: bytes, cuts: list[int]
) -> None:
    stream = bytearray(joined([delivery(1, "c1", number, b"x" * 30, PROPERTIES) for number in (1, 2, 3)]))
    at %= len(stream)
    stream[at : at + len(damage)] = damage
    parser = Parser(FRAME_MAX)
    parser.add_consumer(Consumer(1, b"c1", lambda _buf, _spans: None))
    for piece in pieces(bytes(stream), cuts):
        batch = parser.feed(piece)
        for _, spans in batch.deliveries:
            assert all(0 <= a < b < end <= len(batch.buf) for _, a, b, end in spans)
        if batch.error is not None:
            return


@pytest.mark.parametrize("payload", [131_064, 1000])
def test_a_large_body_in_small_reads_takes_linear_time(payload: int) -> None:
    def seconds(size: int) -> float:
        item = delivery(1, "c1", 1, b"x" * size, payload=payload)
        stream = joined([item])
        reader = Reader(131_072, CONSUMERS)
        reads = [stream[at : at + 4096] for at in range(0, len(stream), 4096)]
        begin = time.process_time()
        for read in reads:
            reader.parser.feed(read)
        return time.process_time() - begin

    small = min(seconds(1_000_000) for _ in range(3))
    assert seconds(16_000_000) < 16 * 6 * max(small, 0.001)


def test_pamqp_decodes_what_is_not_on_the_data_path() -> None:
    batch = Reader().feed(frame.marshal(Connection.Close(320, "CONNECTION_FORCED", 0, 0), 0))
    [(channel, close)] = batch.frames
    assert (channel, type(close)) == (0, Connection.Close)
    assert isinstance(close, Connection.Close)
    assert (close.reply_code, close.reply_text) == (320, "CONNECTION_FORCED")
