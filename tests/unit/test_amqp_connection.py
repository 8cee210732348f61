"""A connection's life against a broker that does what the test says: login, heartbeats, loss, closing."""

import asyncio
import time
from typing import Any

import pytest
from amqp_fake_broker import Peer, connected, fake_broker
from amqp_loops import both_loops
from amqp_stream import confirm, delivery, joined, method, returned
from pamqp.commands import Basic, Channel, Confirm, Connection, Queue

from partymq import amqp
from partymq.errors import BrokerError, ChannelClosed, ConnectionLost, LoginRefused, ProtocolError


async def nothing(peer: Peer) -> None:
    await peer.until_closed()


async def until(condition: Any, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


# Login -------------------------------------------------------------------------------------------


@both_loops
async def test_login_says_who_we_are_and_agrees_on_limits() -> None:
    peers: list[Peer] = []

    async def script(peer: Peer) -> None:
        peers.append(peer)
        ok = await peer.start()
        assert (ok.mechanism, ok.response) == ("PLAIN", "\0u@\0p:")
        peer.send(0, Connection.Tune(100, 131_072, 60))
        peer.tuned = await peer.expect(Connection.TuneOk)
        assert (await peer.expect(Connection.Open)).virtual_host == "v"
        peer.send(0, Connection.OpenOk())
        await peer.until_closed()

    async with fake_broker(script) as plain:
        url = amqp.BrokerUrl(
            plain.host, plain.port, "u@", "p:", "v", heartbeat=7, channel_max=200, frame_max=8192
        )
        connection = await amqp.connect(url, name="my name")
        assert (connection.channel_max, connection.frame_max, connection.heartbeat) == (100, 8192, 7)
        assert connection.username == "u@"
        assert connection.server_properties == {"product": "fake"}
        assert connection.error is None
        assert "my name" in repr(connection)
        assert "0 channels" in repr(connection)
        await connection.close()
        assert isinstance(await connection.wait_lost(), ConnectionLost)
        assert "by ourselves" in str(connection.error)
    [peer] = peers
    assert peer.tuned is not None
    assert (peer.tuned.channel_max, peer.tuned.frame_max, peer.tuned.heartbeat) == (100, 8192, 7)
    assert peer.client["connection_name"] == "my name"
    assert {name for name, there in peer.client["capabilities"].items() if there} == {
        "publisher_confirms",
        "consumer_cancel_notify",
        "basic.nack",
        "connection.blocked",
        "authentication_failure_close",
        "exchange_exchange_bindings",
    }


@both_loops
async def test_a_broker_without_limits_leaves_ours() -> None:
    async def script(peer: Peer) -> None:
        await peer.login(0, 0, 0)
        assert peer.tuned is not None
        assert (peer.tuned.channel_max, peer.tuned.frame_max, peer.tuned.heartbeat) == (65_535, 0, 0)
        await peer.until_closed()

    async with fake_broker(script, "?heartbeat=0") as url:
        connection = await amqp.connect(url, name="test")
        assert connection.frame_max == 0xFFFF_FFFF
        await connection.close()


@pytest.mark.parametrize(("code", "kind"), [(403, LoginRefused), (530, LoginRefused), (541, ConnectionLost)])
@both_loops
async def test_a_refused_login_says_why(code: int, kind: type[BrokerError]) -> None:
    async def script(peer: Peer) -> None:
        await peer.start()
        peer.send(0, Connection.Close(code, "ACCESS_REFUSED - nobody knows you", 0, 0))
        await peer.expect(Connection.CloseOk)

    async with fake_broker(script) as url:
        with pytest.raises(kind, match="nobody knows you") as refused:
            await amqp.connect(url, name="test")
        assert type(refused.value) is kind


@both_loops
async def test_a_broker_without_plain_login_is_refused() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readexactly(8)
        peer.send(0, Connection.Start(mechanisms="EXTERNAL"))
        await peer.until_closed()

    async with fake_broker(script) as url:
        with pytest.raises(LoginRefused, match="EXTERNAL"):
            await amqp.connect(url, name="test")


@both_loops
async def test_a_cut_during_login_is_a_lost_connection() -> None:
    async with fake_broker(Peer.start) as url:
        with pytest.raises(ConnectionLost, match="no login: the broker cut the connection"):
            await amqp.connect(url, name="test")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"AMQP\x00\x01\x00\x00", "another version"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak"),
        (b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x29\xce", "OpenOk instead of Start|can't be decoded"),
        (b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x33\xce", "CloseOk instead of Start"),
    ],
)
@both_loops
async def test_what_does_not_speak_amqp_is_a_protocol_error(answer: bytes, why: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readexactly(8)
        peer.send_raw(answer)
        await peer.until_closed()

    async with fake_broker(script) as url:
        with pytest.raises(ProtocolError, match=why):
            await amqp.connect(url, name="test")


@both_loops
async def test_nobody_there_is_a_lost_connection() -> None:
    async with fake_broker(nothing) as url:
        pass
    with pytest.raises(ConnectionLost, match=f"127.0.0.1:{url.port}: connecting failed"):
        await amqp.connect(url, name="test")
    with pytest.raises(ConnectionLost, match="connecting failed"):
        await amqp.connect(amqp.BrokerUrl("no such host.invalid"), name="test")


@both_loops
async def test_a_silent_broker_is_given_up_in_time() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readexactly(8)
        await peer.until_closed()

    async with fake_broker(script, "?connection_timeout=200") as url:
        with pytest.raises(ConnectionLost, match=r"no connection within 0\.2 s"):
            await amqp.connect(url, name="test")


@both_loops
async def test_a_cancelled_login_leaves_no_connection_behind() -> None:
    gone = asyncio.Event()
    there = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.readexactly(8)
        there.set()
        assert await peer.until_closed() == []
        gone.set()

    async with fake_broker(script) as url:
        task = asyncio.create_task(amqp.connect(url, name="test"))
        await there.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gone.wait()


# Heartbeats --------------------------------------------------------------------------------------


@both_loops
async def test_heartbeats_are_sent_and_a_silent_broker_is_noticed() -> None:
    peers: list[Peer] = []

    async def script(peer: Peer) -> None:
        peers.append(peer)
        await peer.until_closed()

    # On a machine that stands still meanwhile there are fewer.
    while not any(peer.heartbeats >= 3 for peer in peers):
        async with connected(script, "?heartbeat=1") as connection:
            begin = time.monotonic()
            assert "heartbeat" in str(await connection.wait_lost())
            assert time.monotonic() - begin > 1.5


@both_loops
async def test_missed_heartbeats_do_not_count_while_we_do_not_read() -> None:
    async with connected(nothing, "?heartbeat=1") as connection:
        connection.pause_reading("test")
        await asyncio.sleep(2.6)
        assert connection.error is None
        connection.resume_reading("test")
        assert "heartbeat" in str(await connection.wait_lost())


# Loss and closing --------------------------------------------------------------------------------


@both_loops
async def test_a_close_by_the_broker_reaches_everybody_who_waits() -> None:
    async def script(peer: Peer) -> None:
        await peer.open_channel()
        await peer.expect(Queue.Declare)
        peer.send(0, Connection.Close(320, "CONNECTION_FORCED", 0, 0))
        await peer.expect(Connection.CloseOk)
        assert await peer.reader.read() == b""

    async with connected(script) as connection:
        channel = await connection.open_channel()
        lost: list[BrokerError] = []
        connection.on_lost(lost.append)
        undo = connection.on_lost(lambda _: pytest.fail("undone"))
        undo()
        undo()
        waiting = [asyncio.create_task(connection.wait_lost()) for _ in range(3)]
        closed = asyncio.create_task(channel.wait_closed())
        with pytest.raises(ConnectionLost, match="320 CONNECTION_FORCED"):
            await channel.declare_queue("q")
        assert {id(error) for error in await asyncio.gather(*waiting, closed)} == {id(connection.error)}
        assert lost == [connection.error]
        assert channel.error is connection.error
        with pytest.raises(ConnectionLost):
            channel.ack(1)
        with pytest.raises(ConnectionLost):
            await connection.open_channel()
        connection.write(b"without effect")
        await channel.close()
        await connection.close()


@both_loops
async def test_a_cut_reaches_everybody_who_waits() -> None:
    async def script(peer: Peer) -> None:
        await peer.open_channel()
        await peer.expect(Queue.Declare)
        peer.writer.transport.abort()

    async with connected(script) as connection:
        channel = await connection.open_channel()
        with pytest.raises(ConnectionLost):
            await channel.declare_queue("q")
        assert connection.error is not None
        assert "lost" in repr(connection)


@both_loops
async def test_closing_is_bounded_when_the_broker_does_not_answer() -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(Connection.Close)
        await peer.until_closed()

    async with connected(script) as connection:
        await asyncio.gather(connection.close(0.2), connection.close(0.3))
        assert "by ourselves" in str(connection.error)


@both_loops
async def test_closing_works_while_reading_is_paused() -> None:
    async with connected(nothing) as connection:
        connection.pause_reading("a")
        connection.pause_reading("b")
        await connection.close(3600)


@both_loops
async def test_a_cancelled_close_cuts_the_connection() -> None:
    closing = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.expect(Connection.Close)
        closing.set()
        await peer.until_closed()

    async with connected(script) as connection:
        task = asyncio.create_task(connection.close(10))
        await closing.wait()
        with pytest.raises(ConnectionLost, match="being closed"):
            await connection.open_channel()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert connection.error is not None


@both_loops
async def test_abort_cuts_at_once() -> None:
    async def script(peer: Peer) -> None:
        assert await peer.until_closed() == []

    async with connected(script) as connection:
        connection.abort()
        assert "cut by ourselves" in str(connection.error)


@both_loops
async def test_broken_bytes_cut_the_connection_after_what_came_before_them() -> None:
    async def script(peer: Peer) -> None:
        await peer.open_channel()
        await peer.expect(Confirm.Select)
        peer.send(1, Confirm.SelectOk())
        peer.send_raw(joined([confirm(1, 3, True, True)]) + b"\x07nonsense")
        await peer.until_closed()

    async with connected(script) as connection:
        channel = await connection.open_channel()
        confirms: list[Any] = []
        await channel.select_confirms(confirms.extend)
        assert isinstance(await connection.wait_lost(), ProtocolError)
        assert confirms == [(3, True, True)]


# Blocked, reading and writing --------------------------------------------------------------------


@both_loops
async def test_blocked_and_unblocked_are_told() -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        peer.send(0, Connection.Blocked("low on memory"))
        await go.wait()
        peer.send(0, Connection.Unblocked())
        await peer.until_closed()

    async with connected(script) as connection:
        told: list[str | None] = []
        connection.on_blocked(told.append)
        await until(lambda: connection.blocked)
        assert "blocked: low on memory" in repr(connection)
        go.set()
        await until(lambda: connection.blocked is None)
        assert told[-2:] in (["low on memory", None], [None])


@both_loops
async def test_reading_is_paused_for_as_long_as_there_is_a_reason() -> None:
    send = asyncio.Event()

    async def script(peer: Peer) -> None:
        await send.wait()
        peer.send(0, Connection.Blocked("x"))
        await peer.until_closed()

    async with connected(script) as connection:
        connection.pause_reading("a")
        connection.pause_reading("a")
        connection.pause_reading("b")
        send.set()
        connection.resume_reading("a")
        connection.resume_reading("never")
        await asyncio.sleep(0.1)
        assert connection.blocked is None
        connection.resume_reading("b")
        await until(lambda: connection.blocked)


@both_loops
async def test_a_full_write_buffer_is_told_and_when_it_is_not_any_more() -> None:
    read = asyncio.Event()

    async def script(peer: Peer) -> None:
        await read.wait()
        while await peer.reader.read(1 << 20):
            pass

    async with connected(script, "?heartbeat=0") as connection:
        told: list[bool] = []
        connection.on_writable(lambda: told.append(connection.write_buffer_full))
        for _ in range(32):
            connection.write(b"x" * (1 << 20))
        assert connection.write_buffer_full
        read.set()
        await until(lambda: told)
        assert told == [False]
        connection.abort()


@pytest.mark.parametrize("coalesce", [0.0, 0.001])
@both_loops
async def test_reads_are_handed_on_whatever_the_pace(coalesce: float) -> None:
    async def script(peer: Peer) -> None:
        await peer.open_channel()
        await peer.expect(Basic.Consume)
        peer.send(1, Basic.ConsumeOk("c1"))
        for number in range(1, 4001):
            peer.send_raw(joined([delivery(1, "c1", number, b"x" * 500)]))
            if number % 8 == 0:
                await peer.writer.drain()
                await asyncio.sleep(0)
        await peer.until_closed()

    async with connected(script, coalesce=coalesce) as connection:
        channel = await connection.open_channel()
        tags: list[int] = []
        await channel.consume("q", lambda _, spans: tags.extend(span[0] for span in spans))
        await until(lambda: len(tags) >= 4000)
        assert tags == list(range(1, 4001))


# Callbacks ---------------------------------------------------------------------------------------


@both_loops
async def test_a_read_is_handed_on_in_one_call_a_kind_returns_first() -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.open_channel()
        await peer.expect(Confirm.Select)
        peer.send(1, Confirm.SelectOk())
        await peer.expect(Basic.Consume)
        peer.send(1, Basic.ConsumeOk("c1"))
        await go.wait()
        items = [delivery(1, "c1", 1, b"a"), confirm(1, 1, False, True), returned(1, b"back")]
        items += [confirm(1, 2, False, False), delivery(1, "c1", 2, b"b")]
        peer.send_raw(joined(items))
        await peer.until_closed()

    async with connected(script) as connection:
        channel = await connection.open_channel()
        calls: list[Any] = []
        await channel.select_confirms(
            calls.append, lambda message: calls.append((message.code, message.routing_key))
        )
        await channel.consume("q", lambda _, spans: calls.append([span[0] for span in spans]))
        go.set()
        await until(lambda: len(calls) == 3)
        assert calls == [(312, "key"), [(1, False, True), (2, False, False)], [1, 2]]


@pytest.mark.parametrize("where", ["deliveries", "confirms", "returns", "blocked", "closed", "cancel"])
@both_loops
async def test_an_exception_in_a_callback_closes_the_connection_with_it(where: str) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.open_channel()
        await peer.expect(Confirm.Select)
        peer.send(1, Confirm.SelectOk())
        await peer.expect(Basic.Consume)
        peer.send(1, Basic.ConsumeOk("c1"))
        await go.wait()
        match where:
            case "deliveries":
                peer.send_raw(joined([delivery(1, "c1", 1, b"a")]))
            case "confirms":
                peer.send_raw(joined([confirm(1, 1, False, True)]))
            case "returns":
                peer.send_raw(joined([returned(1, b"a")]))
            case "blocked":
                peer.send(0, Connection.Blocked("x"))
            case "closed":
                peer.send(1, Channel.Close(404, "NOT_FOUND", 0, 0))
            case _:
                peer.send(1, Basic.Cancel("c1", True))
        await peer.until_closed()

    def fail(*_: object) -> None:
        raise ZeroDivisionError(where)

    async with connected(script) as connection:
        channel = await connection.open_channel()
        await channel.select_confirms(fail, fail)
        await channel.consume("q", fail, on_cancel=fail)
        connection.on_blocked(fail)
        if where == "closed":
            channel.on_closed(fail)
        go.set()
        error = await connection.wait_lost()
        assert isinstance(error, ConnectionLost)
        assert "a callback failed: ZeroDivisionError" in str(error)
        assert isinstance(error.__cause__, ZeroDivisionError)
        assert channel.error is not None


@both_loops
async def test_after_a_callback_has_cut_the_connection_no_other_is_called() -> None:
    async def script(peer: Peer) -> None:
        await peer.open_channel()
        await peer.expect(Confirm.Select)
        peer.send(1, Confirm.SelectOk())
        await peer.expect(Basic.Consume)
        items = [confirm(1, 1, False, True), delivery(1, "c1", 1, b"a"), method(1, Basic.ConsumeOk("c1"))]
        peer.send_raw(joined(items))
        await peer.until_closed()

    async with connected(script) as connection:
        channel = await connection.open_channel()
        seen: list[Any] = []
        await channel.select_confirms(lambda _: connection.abort())
        with pytest.raises(ConnectionLost):
            await channel.consume("q", lambda _, spans: seen.append(spans))
        assert seen == []


@both_loops
async def test_channel_numbers_are_given_out_and_come_back() -> None:
    async def script(peer: Peer) -> None:
        for _ in range(3):
            await peer.open_channel()
        number, close = await peer.read()
        assert isinstance(close, Channel.Close)
        peer.send(number, Channel.CloseOk())
        await peer.open_channel()
        peer.send(2, Channel.Close(406, "PRECONDITION_FAILED", 0, 0))
        await peer.expect(Channel.CloseOk, 2)
        await peer.until_closed()

    async with connected(script, "?channel_max=7") as connection:
        one, seven, two = [await connection.open_channel(number) for number in (None, 7, None)]
        assert [one.number, seven.number, two.number] == [1, 7, 2]
        for number in (0, 7, 8):
            with pytest.raises(ValueError, match="allowed"):
                await connection.open_channel(number)
        await one.close()
        assert connection.channel_numbers == {2, 7}
        assert isinstance(one.error, ChannelClosed)
        assert one.error.code == 200
        assert (await connection.open_channel()).number == 1
        error = await two.wait_closed()
        assert isinstance(error, ChannelClosed)
        assert (error.code, error.text) == (406, "PRECONDITION_FAILED")
        assert connection.channel_numbers == {1, 7}
        assert connection.error is None


@both_loops
async def test_when_all_channels_are_in_use_it_says_so() -> None:
    async def script(peer: Peer) -> None:
        await peer.open_channel()
        await peer.until_closed()

    async with connected(script, "?channel_max=1") as connection:
        await connection.open_channel()
        with pytest.raises(BrokerError, match="all 1 channels"):
            await connection.open_channel()
