"""When reads and writes are put together, and when not: with a clock of its own."""

import asyncio
from collections.abc import Callable
from typing import Any

from partymq.amqp.transport import Transport


class Clock:
    """The parts of an event loop that the decision needs."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[..., Any], tuple[Any, ...]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., Any], *arguments: Any) -> None:
        self.timers.append((self.now + delay, callback, arguments))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer[0] <= self.now]
        self.timers = [timer for timer in self.timers if timer[0] > self.now]
        for _, callback, arguments in due:
            callback(*arguments)


class Socket(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.paused = False
        self.writes: list[bytes] = []

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False


def reading(coalesce: float) -> tuple[Transport, Socket, Clock]:
    transport = Transport(len, lambda _: None, coalesce=coalesce)
    socket, clock = Socket(), Clock()
    transport.connection_made(socket)
    transport._loop = clock  # type: ignore[assignment]
    return transport, socket, clock


def pauses(transport: Transport, socket: Socket, clock: Clock, every: float, count: int, reads: int) -> int:
    """How many of `reads`, of `count` messages each and `every` so many seconds, had a pause behind them."""
    paused = 0
    for _ in range(reads):
        clock.pass_time(every)
        transport.data_received(b"m" * count)
        if socket.paused:
            paused += 1
            clock.pass_time(0.001)
            assert not socket.paused
    return paused


async def test_a_slow_connection_never_waits() -> None:
    assert pauses(*reading(0.001), every=0.001, count=1, reads=3000) == 0
    assert pauses(*reading(0.001), every=0.01, count=20, reads=300) == 0


async def test_a_lone_burst_does_not_wait() -> None:
    transport, socket, clock = reading(0.001)
    for _ in range(10):
        clock.pass_time(1)
        for _ in range(20):
            clock.pass_time(0.0002)
            transport.data_received(b"m" * 4)
            assert not socket.paused


async def test_a_busy_connection_reads_once_a_millisecond_until_it_is_not_busy_any_more() -> None:
    transport, socket, clock = reading(0.001)
    assert pauses(transport, socket, clock, every=0.00025, count=4, reads=1000) > 950
    assert pauses(transport, socket, clock, every=0.0001, count=16, reads=1000) == 1000
    clock.pass_time(1)
    assert pauses(transport, socket, clock, every=0.01, count=1, reads=100) == 0


async def test_without_the_setting_nothing_waits() -> None:
    assert pauses(*reading(0.0), every=0.0001, count=100, reads=100) == 0


async def test_the_pause_is_shorter_where_the_broker_may_send_few_messages() -> None:
    for window, within in ((200, 0.001), (100_000, 0.003), (0, 0.003)):
        transport, socket, clock = reading(0.003)
        transport.window = window
        for _ in range(10):
            clock.pass_time(0.004)
            transport.data_received(b"m" * 100)
        assert socket.paused
        clock.pass_time(within * 0.9)
        assert socket.paused
        clock.pass_time(within * 0.2)
        assert not socket.paused


async def test_the_pause_of_somebody_else_outlasts_ours() -> None:
    transport, socket, clock = reading(0.001)
    pauses(transport, socket, clock, every=0.0002, count=10, reads=100)
    clock.pass_time(0.0001)
    transport.data_received(b"m" * 10)
    assert socket.paused
    transport.pause_reading("held messages")
    clock.pass_time(0.001)
    assert socket.paused
    transport.resume_reading("held messages")
    assert not socket.paused


async def test_what_is_written_while_corked_is_sent_at_once_in_order() -> None:
    transport, socket, _ = reading(0.0)
    transport.write(b"before")
    transport.cork()
    transport.write(b"one,")
    transport.write(b"two")
    assert socket.writes == [b"before"]
    transport.uncork()
    transport.cork()
    transport.uncork()
    transport.write(b"after")
    assert socket.writes == [b"before", b"one,two", b"after"]
