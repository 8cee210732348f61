"""Bytes to and from the broker on one TCP (or TLS) connection: flow control, heartbeats, nothing of AMQP.

Reads go to one function, synchronously. Reading may be paused for several reasons at once. When the
connection is busy, reads are put together for some milliseconds (`coalesce`), because the broker sends in
small segments and every wake-up costs more than the messages in it; on a connection that is not busy
nothing waits. Nor does it wait so long that the broker could run out of what it may send (`window`).
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, cast

from partymq.amqp.methods import HEARTBEAT
from partymq.errors import BrokerError, ConnectionLost

WRITE_HIGH: Final = 4 * 1024 * 1024
WRITE_LOW: Final = 1024 * 1024
"""Bytes waiting to be written: full from the first on, not full again from the second on."""

_COALESCE: Final = "coalesce"
_WINDOW: Final = 0.005
_BUSY: Final = 4_000
_NOT_BUSY: Final = 2_000
"""Seconds over which messages are counted; messages a second from which a connection is busy, or not."""
_FASTEST: Final = 200_000
"""Messages a second that coming in is not to be slowed down to by waiting."""
_MISSED: Final = 4
"""Half heartbeat intervals without a byte after which the peer is gone."""


class Transport(asyncio.Protocol):
    """One connection's bytes.

    Args:
        on_bytes: gets every read, answers with the number of messages and confirms in it.
        on_lost: called once, when nothing can be read or written any more.
        coalesce: seconds for which reads of a busy connection are put together at most; 0 = never.

    Attributes:
        write_buffer_full: whether 4 MB or more wait to be written (until they are 1 MB again).
        on_writable: called when that is over.
        window: messages that the peer may send before it gets an answer; 0 = no limit.
    """

    def __init__(
        self,
        on_bytes: Callable[[bytes], int],
        on_lost: Callable[[BrokerError], None],
        *,
        coalesce: float = 0.0,
    ) -> None:
        self.write_buffer_full = False
        self.on_writable: Callable[[], None] = _nothing
        self.window = 0
        self._on_bytes = on_bytes
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._closed = self._loop.create_future()
        self._why: BrokerError | None = None
        self._kept: list[bytes] | None = None
        self._paused: set[str] = set()
        self._coalesce = coalesce
        self._window_start = 0.0
        self._window_count = 0
        self._busy = False
        self._heartbeat = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._wrote = self._received = False
        self._missed = 0

    # Called by the event loop ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, because uvloop's transports are no subclass of asyncio's.
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._received = True
        count = self._on_bytes(data)
        if self._coalesce:
            self._count(count)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._closed.done():
            self._closed.set_result(None)
        if self._why is None:
            told = f"the connection broke: {exc}" if exc else "the broker cut the connection"
            self._why = ConnectionLost(told)
            self._why.__cause__ = exc
        self._on_lost(self._why)

    def pause_writing(self) -> None:
        self.write_buffer_full = True

    def resume_writing(self) -> None:
        self.write_buffer_full = False
        self.on_writable()

    # Called by the connection ---------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Sends, or keeps to be sent; without effect once the connection is gone."""
        self._wrote = True
        if self._kept is not None:
            self._kept.append(data)
        elif self._transport is not None and self._why is None:
            self._transport.write(data)

    def cork(self) -> None:
        """Keeps what is written until `uncork`: each write by itself would be a system call."""
        if self._kept is None:
            self._kept = []

    def uncork(self) -> None:
        """Sends what was kept."""
        kept, self._kept = self._kept, None
        if kept:
            self.write(b"".join(kept))

    @property
    def bytes_waiting(self) -> int:
        """Bytes that wait to be written."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    @property
    def closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._why is not None

    def pause_reading(self, reason: str) -> None:
        """Reads nothing until every reason to pause is taken back. Idempotent for each reason."""
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._paused.add(reason)

    def resume_reading(self, reason: str) -> None:
        """Takes a reason to pause back."""
        if reason not in self._paused:
            return
        self._paused.discard(reason)
        if not self._paused:
            self._missed = 0
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def resume_reading_for_good(self) -> None:
        """Takes every reason back and coalesces no more: for closing, which needs the last answers."""
        self._coalesce = 0.0
        for reason in tuple(self._paused):
            self.resume_reading(reason)

    def start_heartbeats(self, interval: float) -> None:
        """Sends a heartbeat whenever nothing else was sent for half an interval (seconds), and takes the
        peer for gone when nothing came for two. Time while reading is paused does not count."""
        self._heartbeat = interval
        if interval:
            self._timer = self._loop.call_later(interval / 2, self._tick)

    def close(self, why: BrokerError) -> None:
        """Sends what is waiting, then closes; `on_lost` gets `why`."""
        if self._why is None:
            self._why = why
            if self._transport is not None:
                self._transport.close()

    def abort(self, why: BrokerError) -> None:
        """Closes at once; `on_lost` gets `why` (in a later turn of the event loop)."""
        if self._why is None:
            self._why = why
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Until the socket is closed."""
        await asyncio.shield(self._closed)

    # Inside ---------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._heartbeat / 2, self._tick)
        if not self._wrote:
            self.write(HEARTBEAT)
        self._wrote = False
        if self._received or self._paused - {_COALESCE}:
            self._missed = 0
        else:
            self._missed += 1
        self._received = False
        if self._missed >= _MISSED:
            self.abort(ConnectionLost(f"no byte from the broker for {2 * self._heartbeat:g} s (heartbeat)"))

    def _count(self, count: int) -> None:
        """Whether the connection is busy is seen over a few milliseconds, so that a lone burst waits for
        nothing; then the next reads are put together."""
        self._window_count += count
        now = self._loop.time()
        elapsed = now - self._window_start
        if elapsed >= _WINDOW:
            rate = self._window_count / elapsed
            self._busy = rate > (_NOT_BUSY if self._busy else _BUSY)
            self._window_start = now
            self._window_count = 0
        if self._busy and not self._paused:
            self.pause_reading(_COALESCE)
            seconds = min(self._coalesce, self.window / _FASTEST) if self.window else self._coalesce
            self._loop.call_later(seconds, self.resume_reading, _COALESCE)


def _nothing() -> None:
    pass
