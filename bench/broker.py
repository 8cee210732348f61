"""The one private node that everything runs on, and an empty vhost on it for each run."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp

from bench.errors import InvalidRun
from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection, connect
from partymq.amqp.url import BrokerUrl
from partymq.broker import PrivateNode

PLUGINS = (
    "rabbitmq_management",
    "rabbitmq_shovel",
    "rabbitmq_shovel_management",
    "rabbitmq_consistent_hash_exchange",
)
_CALM = 0.15
"""CPU seconds a second below which the broker counts as idle."""
_CALM_WITHIN = 60.0


class Broker:
    """The node, asked through its management API. An async context manager."""

    def __init__(self, node: PrivateNode) -> None:
        self.node = node
        self._vhosts = 0
        self._session = aiohttp.ClientSession(
            base_url=f"http://127.0.0.1:{node.management_port}",
            auth=aiohttp.BasicAuth("guest", "guest"),
            timeout=aiohttp.ClientTimeout(total=30),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The decoded answer of the management API; None where it has no body."""
        async with self._session.request(method, f"/api/{path}", json=body) as answer:
            if answer.status >= 400:
                raise InvalidRun(f"{method} {path}: {answer.status} {await answer.text()}")
            return await answer.json() if answer.status == 200 else None

    async def calm(self) -> None:
        """Return when the broker has nothing left to do of what was before."""
        deadline = time.monotonic() + _CALM_WITHIN
        while True:
            before = self.node.cpu_seconds()
            await asyncio.sleep(0.5)
            if self.node.cpu_seconds() - before < _CALM / 2:
                return
            if time.monotonic() > deadline:
                raise InvalidRun(f"the broker was not idle within {_CALM_WITHIN:g} s")

    @asynccontextmanager
    async def vhost(self) -> AsyncIterator["Vhost"]:
        """A new, empty vhost; it is deleted with all in it at the end."""
        self._vhosts += 1
        name = f"bench-{self._vhosts}"
        await self.ask("PUT", f"vhosts/{name}", {})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        await self.ask("PUT", f"permissions/{name}/guest", everything)
        try:
            vhost = Vhost(self, name)
            await vhost.open()
            try:
                yield vhost
            finally:
                await vhost.close()
        finally:
            await self.ask("DELETE", f"vhosts/{name}")


class Vhost:
    """A vhost, with a connection of ours to look at its queues."""

    channel: Channel

    def __init__(self, broker: Broker, name: str) -> None:
        self.broker = broker
        self.name = name
        self.url = f"amqp://guest:guest@127.0.0.1:{broker.node.port}/{quote(name, safe='')}"
        self.management_url = broker.node.management_url
        self._connections: list[Connection] = []

    async def open(self) -> None:
        """Connect."""
        self.channel = await (await self.connect("bench")).open_channel()

    async def close(self) -> None:
        """Close every connection made by `connect`."""
        for connection in self._connections:
            await connection.close()

    async def connect(self, name: str) -> Connection:
        """One more connection; it lives as long as the vhost."""
        connection = await connect(BrokerUrl.parse(self.url), name=name)
        self._connections.append(connection)
        return connection

    async def declare(self, *queues: str) -> None:
        """Durable classic queues."""
        for queue in queues:
            await self.channel.declare_queue(queue, durable=True)

    async def depth(self, *queues: str) -> int:
        """Ready messages in these queues together."""
        return sum(
            [(await self.channel.declare_queue(queue, passive=True)).messages for queue in queues],
        )

    async def consumers(self, queue: str) -> int:
        """Consumers of a queue."""
        return (await self.channel.declare_queue(queue, passive=True)).consumers

    async def totals(self, queues: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Ready and unacked messages by queue, exact for classic queues."""
        path = f"queues/{quote(self.name, safe='')}?disable_stats=true&enable_queue_totals=true"
        found = {one["name"]: one for one in await self.broker.ask("GET", path)}
        return {
            queue: (found[queue]["messages_ready"], found[queue]["messages_unacknowledged"])
            for queue in queues
        }
