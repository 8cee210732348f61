"""A channel's calls: timeouts, cancelled callers, late answers, what the broker does on its own."""

import asyncio
from typing import Any

import pytest
from amqp_fake_broker import Peer, connected
from amqp_loops import both_loops
from amqp_stream import confirm, delivery, got, joined, raw_content
from pamqp import frame
from pamqp.commands import Basic, Channel, Confirm, Queue

from partymq.amqp import Message, Returned
from partymq.errors import CallTimeout, ChannelClosed, ConnectionLost, Nacked, ProtocolError, Unroutable


async def answered(peer: Peer) -> None:
    """Answers passive declares with a count that grows, so that a test sees which answer it got."""
    number = await peer.open_channel()
    count = 0
    while True:
        _, value = await peer.read()
        if not isinstance(value, Queue.Declare):
            await peer.until_closed()
            return
        count += 1
        peer.send(number, Queue.DeclareOk(value.queue, count, 0))


@both_loops
async def test_a_queue_whose_node_is_away_is_not_taken_for_one_that_is_not_there() -> None:
    async def script(peer: Peer) -> None:
        await peer.open_channel()
        await peer.expect(Queue.Declare)
        told = "NOT_FOUND - home node 'a@b' of durable queue 'q' in vhost '/' is down or inaccessible"
        peer.send(1, Channel.Close(404, told, 50, 10))
        await peer.expect(Channel.CloseOk)
        await peer.until_closed()

    async with connected(script) as connection:
        channel = await connection.open_channel()
        with pytest.raises(ChannelClosed, match="home node") as closed:
            await channel.declare_queue("q", passive=True)
        assert closed.value.code == 506


@both_loops
async def test_calls_need_not_wait_for_each_other() -> None:
    async with connected(answered) as connection:
        channel = await connection.open_channel()
        infos = await asyncio.gather(*(channel.declare_queue(f"q{n}", passive=True) for n in range(50)))
        assert [(info.name, info.messages) for info in infos] == [(f"q{n}", n + 1) for n in range(50)]
        channel.shut()


@both_loops
async def test_a_late_answer_is_not_taken_for_the_next_ones() -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.open_channel()
        await peer.expect(Queue.Declare)
        await peer.expect(Queue.Declare)
        await go.wait()
        await peer.expect(Queue.Declare)
        peer.send(1, *(Queue.DeclareOk("q", number, 0) for number in (1, 2, 3)))
        await peer.until_closed()

    async with connected(script) as connection:
        channel = await connection.open_channel()
        cancelled = asyncio.create_task(channel.declare_queue("one"))
        await asyncio.sleep(0.01)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        with pytest.raises(CallTimeout, match=r"no answer to Queue\.Declare within 0\.05 s"):
            await channel.declare_queue("two", timeout=0.05)
        go.set()
        assert (await channel.declare_queue("three")).messages == 3


@both_loops
async def test_names_that_the_broker_allows_are_sent_as_they_are() -> None:
    name = "täglich[1]~" + "x" * 200

    async def script(peer: Peer) -> None:
        await peer.open_channel()
        head = await peer.reader.readexactly(7)
        payload = await peer.reader.readexactly(int.from_bytes(head[3:7]) + 1)
        assert bytes([len(name.encode())]) + name.encode() in payload
        peer.send(1, Queue.DeclareOk("q", 0, 0))
        await peer.until_closed()

    async with connected(script) as connection:
        channel = await connection.open_channel()
        await channel.declare_queue(name)
        with pytest.raises(ValueError, match="queue"):
            await channel.declare_queue("x" * 256)
        with pytest.raises(ValueError, match="arguments"):
            await channel.consume("q", lambda _buf, _spans: None, arguments={"a": object()})
        assert "0 consumers" in repr(channel)


@both_loops
async def test_an_answer_to_nothing_cuts_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.open_channel()
        await peer.expect(Queue.Declare)
        peer.send(1, Queue.BindOk())
        await peer.until_closed()

    async with connected(script) as connection:
        channel = await connection.open_channel()
        with pytest.raises(ProtocolError, match=r"Queue\.BindOk instead of DeclareOk"):
            await channel.declare_queue("q")
        assert connection.error is not None


@both_loops
async def test_an_answer_nobody_asked_for_cuts_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.open_channel()
        peer.send(1, Queue.BindOk())
        await peer.until_closed()

    async with connected(script) as connection:
        await connection.open_channel()
        assert "nobody asked for" in str(await connection.wait_lost())


@both_loops
async def test_a_channel_that_the_broker_closes_fails_every_call_on_it_alone() -> None:
    async def script(peer: Peer) -> None:
        await peer.open_channel()
        await peer.open_channel()
        await peer.expect(Queue.Declare)
        await peer.expect(Queue.Declare)
        peer.send(1, Channel.Close(404, "NOT_FOUND - no queue 'q'", 50, 10))
        await peer.expect(Channel.CloseOk, 1)
        await peer.expect(Queue.Declare, 2)
        peer.send(2, Queue.DeclareOk("q", 0, 0))
        await peer.until_closed()

    async with connected(script) as connection:
        channel, other = await connection.open_channel(), await connection.open_channel()
        told: list[Any] = []
        channel.on_closed(told.append)
        calls = [asyncio.create_task(channel.declare_queue("q")) for _ in range(2)]
        for call in calls:
            with pytest.raises(ChannelClosed, match="404 NOT_FOUND") as closed:
                await call
            assert closed.value.code == 404
        assert told == [channel.error]
        assert await channel.wait_closed() is channel.error
        with pytest.raises(ChannelClosed):
            channel.ack(1)
        assert "closed" in repr(channel)
        await other.declare_queue("q")
        await channel.close()
        assert connection.error is None


@both_loops
async def test_closing_a_channel_stops_its_callbacks_at_once() -> None:
    shut = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.open_channel()
        await peer.expect(Basic.Consume)
        peer.send(1, Basic.ConsumeOk("c1"))
        await peer.expect(Confirm.Select)
        peer.send(1, Confirm.SelectOk())
        await peer.expect(Channel.Close)
        await shut.wait()
        items = [delivery(1, "c1", 1, b"a"), confirm(1, 1, False, True)]
        peer.send_raw(joined(items) + frame.marshal(Basic.Cancel("c1", True), 1))
        peer.send(1, Channel.CloseOk())
        await peer.until_closed()

    async with connected(script) as connection:
        channel = await connection.open_channel()
        calls: list[Any] = []
        await channel.consume("q", lambda *_: calls.append(1), on_cancel=lambda: calls.append(2))
        await channel.select_confirms(calls.append)
        with pytest.raises(CallTimeout, match="not closed by the broker"):
            await channel.close(timeout=0.02)
        assert connection.channel_numbers == {1}
        shut.set()
        await channel.close()
        assert connection.channel_numbers == frozenset()
        assert calls == []


@both_loops
async def test_a_channel_closed_by_both_sides_at_once_is_closed() -> None:
    async def script(peer: Peer) -> None:
        await peer.open_channel()
        await peer.expect(Channel.Close)
        peer.send(1, Channel.Close(404, "NOT_FOUND", 0, 0))
        await peer.expect(Channel.CloseOk)
        peer.send(1, Channel.CloseOk())
        await peer.until_closed()

    async with connected(script) as connection:
        channel = await connection.open_channel()
        await channel.close()
        assert connection.channel_numbers == frozenset()


@both_loops
async def test_a_channel_whose_opening_was_given_up_is_closed_when_it_opens() -> None:
    go, closed = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.expect(Channel.Open)
        await go.wait()
        peer.send(1, Channel.OpenOk())
        await peer.expect(Channel.Close)
        peer.send(1, Channel.CloseOk())
        closed.set()
        await peer.until_closed()

    async with connected(script) as connection:
        with pytest.raises(CallTimeout):
            await connection.open_channel(timeout=0.02)
        go.set()
        await closed.wait()
        while connection.channel_numbers:
            await asyncio.sleep(0.001)


@both_loops
async def test_flow_is_answered() -> None:
    flowed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.open_channel()
        peer.send(1, Channel.Flow(True))
        assert (await peer.expect(Channel.FlowOk)).active
        flowed.set()
        await peer.until_closed()

    async with connected(script) as connection:
        await connection.open_channel()
        await flowed.wait()


# Consuming ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("nowait", [True, False])
@both_loops
async def test_a_consumer_that_the_broker_cancels_is_told(nowait: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.open_channel()
        await peer.expect(Basic.Consume)
        peer.send(1, Basic.ConsumeOk("mine"), Basic.Cancel("mine", nowait))
        if not nowait:
            assert (await peer.expect(Basic.CancelOk)).consumer_tag == "mine"
        await peer.until_closed()

    async with connected(script) as connection:
        channel = await connection.open_channel()
        cancelled = asyncio.Event()
        assert await channel.consume("q", lambda *_: None, tag="mine", on_cancel=cancelled.set) == "mine"
        await cancelled.wait()
        await channel.cancel("mine")  # Without effect.


@both_loops
async def test_how_many_messages_may_come_is_known_of_all_consumers() -> None:
    async def script(peer: Peer) -> None:
        await peer.open_channel()
        for tag in ("c1", "c2", "c3"):
            if tag != "c3":
                await peer.expect(Basic.Qos)
                peer.send(1, Basic.QosOk())
            await peer.expect(Basic.Consume)
            peer.send(1, Basic.ConsumeOk(tag))
        await peer.expect(Basic.Cancel)
        peer.send(1, Basic.CancelOk("c1"))
        await peer.until_closed()

    async with connected(script) as connection:
        channel, transport = await connection.open_channel(), connection._transport
        assert transport.window == 0
        await channel.qos(62)
        await channel.consume("q1", lambda *_: None)
        await channel.qos(100)
        await channel.consume("q2", lambda *_: None)
        await channel.consume("q3", lambda *_: None, no_ack=True)
        assert transport.window == 162
        await channel.cancel("c1")
        assert transport.window == 100
        channel.shut()
        assert transport.window == 0


@both_loops
async def test_deliveries_may_come_before_consume_has_returned_and_until_cancel_has() -> None:
    async def script(peer: Peer) -> None:
        await peer.open_channel()
        consume = await peer.expect(Basic.Consume)
        assert (consume.exclusive, consume.no_ack, consume.arguments) == (True, False, {"x-priority": 3})
        start = frame.marshal(Basic.ConsumeOk("c1"), 1)
        peer.send_raw(start + joined([delivery(1, "c1", 1, b"a")]))
        await peer.expect(Basic.Cancel)
        end = frame.marshal(Basic.CancelOk("c1"), 1)
        peer.send_raw(joined([delivery(1, "c1", 2, b"a")]) + end + joined([delivery(1, "c1", 3, b"a")]))
        await peer.until_closed()

    async with connected(script) as connection:
        channel = await connection.open_channel()
        tags: list[int] = []
        tag = await channel.consume(
            "q",
            lambda _, spans: tags.extend(span[0] for span in spans),
            exclusive=True,
            arguments={"x-priority": 3},
        )
        with pytest.raises(ValueError, match="already"):
            await channel.consume("q", lambda *_: None, tag=tag)
        await channel.cancel(tag)
        assert tags[:2] == [1, 2]
        assert "0 consumers" in repr(channel)


@both_loops
async def test_a_consumer_whose_caller_gave_up_is_cancelled_and_its_messages_go_back() -> None:
    given_up, done = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.open_channel()
        await peer.expect(Basic.Consume)
        await given_up.wait()
        start = frame.marshal(Basic.ConsumeOk("c1"), 1)
        peer.send_raw(start + joined([delivery(1, "c1", number, b"a") for number in (1, 2)]))
        back = [(await peer.expect(Basic.Nack)) for _ in range(2)]
        assert [(nack.delivery_tag, nack.multiple, nack.requeue) for nack in back] == [
            (1, False, True),
            (2, False, True),
        ]
        await peer.expect(Basic.Cancel)
        peer.send(1, Basic.CancelOk("c1"))
        done.set()
        await peer.expect(Queue.Declare)
        peer.send(1, Queue.DeclareOk("q", 7, 0))
        await peer.until_closed()

    async with connected(script) as connection:
        channel = await connection.open_channel()
        task = asyncio.create_task(channel.consume("q", lambda *_: pytest.fail("nobody wants this")))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        given_up.set()
        await done.wait()
        assert (await channel.declare_queue("q")).messages == 7
        assert "0 consumers" in repr(channel)


@both_loops
async def test_get_answers_a_message_or_nothing_and_a_late_one_goes_back() -> None:
    go, back = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.open_channel()
        await peer.expect(Basic.Get)
        peer.send_raw(joined([got(1, 5, b"body")]))
        await peer.expect(Basic.Get)
        peer.send(1, Basic.GetEmpty())
        await peer.expect(Basic.Get)
        await go.wait()
        peer.send_raw(joined([got(1, 6, b"late")]))
        nack = await peer.expect(Basic.Nack)
        assert (nack.delivery_tag, nack.requeue) == (6, True)
        back.set()
        await peer.until_closed()

    async with connected(script) as connection:
        channel = await connection.open_channel()
        assert await channel.get("q") == Message(
            b"body", Basic.Properties(message_id="m"), "ex", "key", 5, True
        )
        assert await channel.get("q") is None
        with pytest.raises(CallTimeout):
            await channel.get("q", timeout=0.02)
        go.set()
        await back.wait()


@both_loops
async def test_callers_that_go_in_the_moment_of_their_answer_leave_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answers, then perhaps the channel's end, are read at once; the callers are cancelled just then."""
    go = asyncio.Event()
    written: list[Any] = []

    async def script(peer: Peer) -> None:
        await peer.open_channel()
        await peer.expect(Basic.Get)
        await peer.expect(Basic.Consume)
        await go.wait()
        end = b"" if alive else frame.marshal(Channel.Close(404, "NOT_FOUND", 0, 0), 1)
        peer.send_raw(joined([got(1, 6, b"x")]) + frame.marshal(Basic.ConsumeOk("c1"), 1) + end)
        written.extend(type(value) for _, value in await peer.until_closed())

    for alive in (True, False):
        go.clear()
        written.clear()
        async with connected(script) as connection:
            channel = await connection.open_channel()
            calls = [
                asyncio.create_task(channel.get("q")),
                asyncio.create_task(channel.consume("q", lambda *_: None)),
            ]
            await asyncio.sleep(0.01)
            answer = channel.handle

            def handle(frame: Any, answer: Any = answer, calls: Any = calls) -> None:
                answer(frame)
                if isinstance(frame, Basic.ConsumeOk):
                    for call in calls:
                        call.cancel()

            monkeypatch.setattr(channel, "handle", handle)
            go.set()
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(result) for result in results] == [asyncio.CancelledError] * 2
        expected = [Basic.Nack, Basic.Cancel] if alive else [Channel.CloseOk]
        assert written[: len(expected)] == expected


@both_loops
async def test_acks_and_nacks_are_written() -> None:
    seen: list[Any] = []

    async def script(peer: Peer) -> None:
        await peer.open_channel()
        seen.extend((type(value), tuple(value)) for _, value in (await peer.until_closed())[:5])

    async with connected(script) as connection:
        channel = await connection.open_channel()
        channel.ack(1)
        channel.ack(2, multiple=True)
        channel.ack_many([4, 6])
        channel.nack(7, multiple=False, requeue=False)
    assert seen == [
        (Basic.Ack, (("delivery_tag", 1), ("multiple", False))),
        (Basic.Ack, (("delivery_tag", 2), ("multiple", True))),
        (Basic.Ack, (("delivery_tag", 4), ("multiple", False))),
        (Basic.Ack, (("delivery_tag", 6), ("multiple", False))),
        (Basic.Nack, (("delivery_tag", 7), ("multiple", False), ("requeue", False))),
    ]


# Publishing --------------------------------------------------------------------------------------


async def confirming(peer: Peer) -> None:
    await peer.open_channel()
    await peer.expect(Confirm.Select)
    peer.send(1, Confirm.SelectOk())


async def read_publish(peer: Peer) -> tuple[Basic.Publish, bytes]:
    publish = await peer.expect(Basic.Publish)
    _, header = await peer.read()
    body = b""
    while len(body) < header.body_size:
        body += (await peer.read())[1].value
    return publish, body


@both_loops
async def test_publish_waits_for_its_own_confirm() -> None:
    async def script(peer: Peer) -> None:
        await confirming(peer)
        for _ in range(5):
            await read_publish(peer)
        peer.send_raw(
            joined([confirm(1, 3, False, True), confirm(1, 2, True, False), confirm(1, 5, True, True)])
        )
        await peer.until_closed()

    async with connected(script) as connection:
        channel = await connection.open_channel()
        with pytest.raises(RuntimeError, match="select_confirms"):
            await channel.publish("ex", "key", b"x")
        await channel.select_confirms()
        results = await asyncio.gather(
            *(channel.publish("ex", "key", b"x" * 200_000) for _ in range(5)), return_exceptions=True
        )
        assert [type(result) for result in results] == [Nacked, Nacked, *[type(None)] * 3]


@both_loops
async def test_a_returned_message_is_unroutable_and_the_others_are_not() -> None:
    async def script(peer: Peer) -> None:
        await confirming(peer)
        for _ in range(3):
            await read_publish(peer)
        for body in (b"two", b"unknown"):
            method = frame.marshal(Basic.Return(312, "NO_ROUTE", "ex", "key"), 1)
            peer.send_raw(method + b"".join(raw_content(1, body, Basic.Properties())))
        peer.send(1, Basic.Ack(3, True))
        await peer.until_closed()

    async with connected(script) as connection:
        channel = await connection.open_channel()
        strays: list[Returned] = []
        await channel.select_confirms(None, strays.append)
        results = await asyncio.gather(
            channel.publish("ex", "key", b"two"),
            channel.publish("ex", "key", b"two", mandatory=True),
            channel.publish("ex", "key", b"three", mandatory=True),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [type(None), Unroutable, type(None)]
        assert isinstance(results[1], Unroutable)
        assert (results[1].code, results[1].text) == (312, "NO_ROUTE")
        assert [stray.code for stray in strays] == [312]


@both_loops
async def test_a_publish_that_is_not_confirmed_times_out_and_leaves_the_count_right() -> None:
    async def script(peer: Peer) -> None:
        await confirming(peer)
        await read_publish(peer)
        await read_publish(peer)
        peer.send(1, Basic.Ack(1, False), Basic.Ack(2, False))
        await read_publish(peer)
        await peer.until_closed()

    async with connected(script) as connection:
        channel = await connection.open_channel()
        await channel.select_confirms()
        with pytest.raises(CallTimeout, match=r"not confirmed within 0\.02 s"):
            await channel.publish("ex", "key", b"1", timeout=0.02)
        await channel.publish("ex", "key", b"2")
        task = asyncio.create_task(channel.publish("ex", "key", b"3"))
        await asyncio.sleep(0.01)
        connection.abort()
        with pytest.raises(ConnectionLost):
            await task


@both_loops
async def test_raw_mode_is_for_whoever_counts_the_publishes() -> None:
    async def script(peer: Peer) -> None:
        await confirming(peer)
        await peer.until_closed()

    async with connected(script) as connection:
        channel = await connection.open_channel()
        await channel.select_confirms(lambda _: None)
        with pytest.raises(RuntimeError, match="without on_confirms"):
            await channel.publish("ex", "key", b"x")
