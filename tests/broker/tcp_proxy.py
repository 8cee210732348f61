"""A TCP proxy that misbehaves on command: stands between a client and the broker in tests.

It runs an event loop in a thread of its own, so tests of any kind, sync or async, can use it; every command
has taken effect when it returns.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

_T = TypeVar("_T")

_COMMAND_SECONDS = 60.0
_CHUNK = 65_536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

UP = "up"  # client to broker
DOWN = "down"  # broker to client
BOTH = "both"


class TcpProxy:
    """Forwards connections made to `127.0.0.1:port` to a target.

    Attributes:
        host, port: where it listens; the port stays the same over `refuse()`.
        accepted: how many connections it has taken so far.
    """

    host = "127.0.0.1"

    def __init__(self, target_host: str, target_port: int) -> None:
        self._target = (target_host, target_port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._links: dict[_Link, None] = {}  # oldest first
        self._server: asyncio.Server | None = None
        self._open = {UP: asyncio.Event(), DOWN: asyncio.Event()}
        self._budget: dict[str, int | None] = {UP: None, DOWN: None}
        self._counted = {UP: 0, DOWN: 0}
        self.port = 0
        self.accepted = 0

    def start(self) -> Self:
        self._thread.start()
        for gate in self._open.values():
            self._call(gate.set)
        self._run(self._listen())
        return self

    def close(self) -> None:
        """Cut everything and end; the proxy can't be used again."""
        if not self._thread.is_alive():
            return
        self._run(self._shut())
        self._call(self._cut)
        self._run(self._settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_COMMAND_SECONDS)
        self._loop.close()

    def url(self, original: str) -> str:
        """The same URL (user, path, query kept) leading through this proxy."""
        parts = urlsplit(original)
        user = parts.netloc.rpartition("@")[0]
        address = f"{self.host}:{self.port}"
        return urlunsplit(parts._replace(netloc=f"{user}@{address}" if user else address))

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    @property
    def bytes_up(self) -> int:
        """Bytes forwarded from clients to the broker so far."""
        return self._counted[UP]

    @property
    def bytes_down(self) -> int:
        """Bytes forwarded from the broker to clients so far."""
        return self._counted[DOWN]

    def cut(self) -> int:
        """Reset (RST) every open connection on both sides, accept new ones. Returns how many were cut."""
        return self._call(self._cut)

    def cut_one(self, number: int) -> bool:
        """Reset one open connection, counted from the oldest, round and round. False: there is none."""

        def cut() -> bool:
            links = list(self._links)
            if not links:
                return False
            link = links[number % len(links)]
            del self._links[link]
            link.reset(None)
            return True

        return self._call(cut)

    def cut_after(self, count: int, direction: str = UP) -> None:
        """Cut all connections once `count` more bytes have been forwarded in one direction.

        Just these bytes arrive at the receiver, which sees the end of the stream; all else sees a reset.
        """

        def arm() -> None:
            self._budget[direction] = count

        self._call(arm)

    def pause(self, direction: str = BOTH) -> None:
        """Forward nothing (in one direction), as a dead network does: connections stay open."""
        self._gate(direction, lambda event: event.clear())

    def resume(self, direction: str = BOTH) -> None:
        """Undo `pause()` and `refuse()`; what was held back is forwarded."""
        self._gate(direction, lambda event: event.set())
        if self._server is None:
            self._run(self._listen())

    def refuse(self) -> None:
        """Refuse new connections (ECONNREFUSED) until `resume()`; open ones are left alone."""
        self._run(self._shut())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _gate(self, direction: str, act: Callable[[asyncio.Event], None]) -> None:
        for name, event in self._open.items():
            if direction in (name, BOTH):
                self._call(act, event)

    def _cut(self, spared: asyncio.StreamWriter | None = None) -> int:
        self._budget = {UP: None, DOWN: None}
        links = list(self._links)
        self._links.clear()
        for link in links:
            link.reset(spared)
        return len(links)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        if self._server is not None:
            # asyncio loses a connection that it has accepted but not yet attached when its server closes.
            await asyncio.sleep(0.01)
            self._server.close()
            self._server = None

    async def _settle(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        link = _Link(task, writer, far_writer)
        self._links[link] = None
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, far_writer, UP))
                pumps.create_task(self._pump(far_reader, writer, DOWN))
        except asyncio.CancelledError:
            # Only `_Link.reset` cancels, and it is what ends this task.
            pass
        finally:
            self._links.pop(link, None)
            writer.close()
            far_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str) -> None:
        gate = self._open[direction]
        with contextlib.suppress(OSError):
            while True:
                await gate.wait()
                block = await reader.read(_CHUNK)
                await gate.wait()
                if not block:
                    # A half-closed connection is passed on as such.
                    writer.write_eof()
                    return
                budget = self._budget[direction]
                if budget is not None and len(block) >= budget:
                    self._counted[direction] += budget
                    writer.write(block[:budget])
                    await writer.drain()
                    self._cut(spared=writer)
                    return
                if budget is not None:
                    self._budget[direction] = budget - len(block)
                self._counted[direction] += len(block)
                writer.write(block)
                await writer.drain()

    def _call(self, function: Callable[..., _T], *arguments: object) -> _T:
        async def call() -> _T:
            return function(*arguments)

        return self._run(call())

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_COMMAND_SECONDS)


class _Link:
    """One forwarded connection."""

    def __init__(
        self, task: "asyncio.Task[None]", near: asyncio.StreamWriter, far: asyncio.StreamWriter
    ) -> None:
        self._task = task
        self._ends = (near, far)

    def reset(self, spared: asyncio.StreamWriter | None) -> None:
        for end in self._ends:
            if end is not spared:
                _reset(end)
        self._task.cancel()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
