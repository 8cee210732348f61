"""A broker on the loopback address that does what a test says, frame by frame, coded with pamqp."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from pamqp import base, frame
from pamqp.commands import Channel, Connection
from pamqp.heartbeat import Heartbeat

from partymq import amqp

_FrameT = TypeVar("_FrameT")
CUT_OFF = (asyncio.IncompleteReadError, ConnectionError)


class Peer:
    """The broker's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.heartbeats = 0
        self.client: dict[str, Any] = {}
        self.tuned: Connection.TuneOk | None = None

    async def read(self) -> tuple[int, Any]:
        """Channel and frame; heartbeats are only counted."""
        while True:
            head = await self.reader.readexactly(7)
            rest = await self.reader.readexactly(int.from_bytes(head[3:7]) + 1)
            _, channel, value = frame.unmarshal(head + rest)
            if not isinstance(value, Heartbeat):
                return channel, value
            self.heartbeats += 1

    async def expect(self, kind: type[_FrameT], channel: int | None = None) -> _FrameT:
        number, value = await self.read()
        assert isinstance(value, kind), f"{value.name} instead of {kind}"
        assert channel is None or number == channel
        return value

    def send(self, channel: int, *frames: Any) -> None:
        """In one write, so that they come in one read."""
        self.writer.write(b"".join(frame.marshal(value, channel) for value in frames))

    def send_raw(self, data: bytes) -> None:
        self.writer.write(data)

    async def start(self) -> Connection.StartOk:
        assert await self.reader.readexactly(8) == b"AMQP\0\0\x09\x01"
        self.send(0, Connection.Start(server_properties={"product": "fake"}))
        ok = await self.expect(Connection.StartOk, 0)
        self.client = dict(ok.client_properties or {})
        return ok

    async def login(self, channel_max: int = 2047, frame_max: int = 131_072, heartbeat: int = 60) -> None:
        await self.start()
        self.send(0, Connection.Tune(channel_max, frame_max, heartbeat))
        self.tuned = await self.expect(Connection.TuneOk, 0)
        await self.expect(Connection.Open, 0)
        self.send(0, Connection.OpenOk())

    async def open_channel(self) -> int:
        number, value = await self.read()
        assert isinstance(value, Channel.Open)
        self.send(number, Channel.OpenOk())
        return number

    async def until_closed(self) -> list[tuple[int, base.Frame]]:
        """What comes until the client is gone; a Connection.Close is answered."""
        frames: list[tuple[int, base.Frame]] = []
        with suppress(*CUT_OFF):
            while True:
                channel, value = await self.read()
                if isinstance(value, Connection.Close):
                    self.send(0, Connection.CloseOk())
                frames.append((channel, value))
        return frames


Script = Callable[[Peer], Awaitable[Any]]


@asynccontextmanager
async def fake_broker(script: Script, options: str = "") -> AsyncIterator[amqp.BrokerUrl]:
    """Runs the script for each connection made to the URL; what the script raises fails the test."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script(Peer(reader, writer))
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield amqp.BrokerUrl.parse(f"amqp://127.0.0.1:{port}{options}")
    finally:
        server.close()
    done, late = await asyncio.wait(tasks, timeout=60) if tasks else (set(), set())
    for task in late:
        task.cancel()
    assert not late, "the broker's script has not ended"
    for task in done:
        task.result()


@asynccontextmanager
async def connected(script: Script, options: str = "", **arguments: Any) -> AsyncIterator[amqp.Connection]:
    """A connection to a fake broker whose script begins behind the login; closed at the end."""

    async def with_login(peer: Peer) -> None:
        await peer.login()
        await script(peer)

    async with fake_broker(with_login, options) as url:
        connection = await amqp.connect(url, name="test", **arguments)
        try:
            yield connection
        finally:
            await connection.close(timeout=60)
