"""`partymq serve` as a process of its own, and plain clients that are its members."""

import asyncio
import contextlib
import os
import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from bench.broker import Vhost
from bench.errors import InvalidRun
from bench.waiting import beside, until
from partymq.broker.ports import free_ports
from partymq.demo.children import Child

SOURCE = "partymq.q.source"
_READY_WITHIN = 60.0
_BALANCED_WITHIN = 60.0
_STOP_WITHIN = 30.0
_HEARTBEAT = 2.0
_SCRAPE = 5.0


class Server:
    """The server with its full configuration on a vhost, set up by environment variables as in a deployment.

    It can be stopped and started again: the group's state is in the broker.
    """

    def __init__(self, vhost: Vhost, folder: Path, **settings: str) -> None:
        """`settings`: more environment variables, without their prefix `PARTYMQ_`."""
        self.log = folder / f"server-{vhost.name}.log"
        port = free_ports(1, random.Random())[0]
        self.url = f"http://127.0.0.1:{port}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PARTYMQ_")}
        ours = {
            "RABBIT_CS": vhost.url,
            "MANAGEMENT_URL": vhost.management_url,
            "SOURCE_QUEUE": SOURCE,
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(port),
            **settings,
        }
        self._environment = kept | {f"PARTYMQ_{name}": value for name, value in ours.items()}
        self._process: Child | None = None
        self._session = aiohttp.ClientSession(base_url=self.url, timeout=aiohttp.ClientTimeout(total=10))

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        return self._running().pid

    def check(self) -> None:
        """Raises InvalidRun, with the end of the log, where the server has ended."""
        process = self._running()
        if process.status is not None:
            raise InvalidRun(f"the server ended with {process.status}:\n{process.last_words()}")

    def start(self) -> None:
        """Start it; see `ready`."""
        self._process = Child(
            "server", [sys.executable, "-m", "partymq", "serve"], self.log, self._environment
        )

    async def ready(self) -> None:
        """Return when it says that it can route."""

        async def says_so() -> bool:
            self.check()
            try:
                async with self._session.get("/ready") as answer:
                    return answer.status == 200
            except (aiohttp.ClientError, TimeoutError):
                return False

        await until(says_so, "the server ready", _READY_WITHIN)

    async def stop(self) -> None:
        """End it in an orderly way. Raises InvalidRun where it does not."""
        process = self._running()
        await asyncio.to_thread(process.stop, _STOP_WITHIN)
        if process.status != 0:
            raise InvalidRun(f"the server ended with {process.status}:\n{process.last_words()}")
        self._process = None

    async def close(self) -> None:
        """Leave nothing behind."""
        if self._process is not None:
            self._process.kill()
        await self._session.close()

    async def call(self, hostname: str, what: str, body: dict[str, str] | None = None) -> Any:
        """One of a client's four calls. Raises InvalidRun where it is refused."""
        path = f"/clients/{quote(hostname, safe='')}/{what}"
        async with self._session.post(path, json=body) as answer:
            if answer.status != 200:
                raise InvalidRun(f"{path}: {answer.status} {await answer.text()}")
            return await answer.json()

    async def group(self) -> dict[str, Any]:
        """What it says of the group."""
        async with self._session.get("/groups/default") as answer:
            if answer.status != 200:
                raise InvalidRun(f"/groups/default: {answer.status} {await answer.text()}")
            described: dict[str, Any] = await answer.json()
            return described

    async def balanced(self, members: int) -> dict[str, Any]:
        """Wait until so many members share the partitions evenly, each where it should be; the group then."""
        group: dict[str, Any] = {}

        async def evenly() -> bool:
            self.check()
            group.update(await self.group())
            return is_balanced(group, members)

        await until(evenly, f"{members} members balanced", _BALANCED_WITHIN)
        return group

    async def scrape(self) -> None:
        """Fetch the metrics again and again, as Prometheus would, until cancelled."""
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self._session.get("/metrics") as answer:
                    await answer.read()
            await asyncio.sleep(_SCRAPE)

    async def heartbeats(self, hostname: str) -> None:
        """A member's heartbeats, until cancelled; a server that is away is no reason to stop.

        Raises InvalidRun when it is no member any more.
        """
        while True:
            await asyncio.sleep(_HEARTBEAT)
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self._session.post(f"/clients/{quote(hostname, safe='')}/heartbeat") as answer:
                    if answer.status == 404:
                        raise InvalidRun(f"{hostname} is no member any more: {await answer.text()}")

    def _running(self) -> Child:
        if self._process is None:
            raise InvalidRun("the server is not running")
        return self._process


def is_balanced(group: dict[str, Any], members: int) -> bool:
    """Whether what the API says of a group means that so many members share it evenly and nothing moves."""
    counts: dict[str, int] = {}
    for partition in group["partitions"]:
        if partition["owner"] is None or partition["owner"] != partition["target"]:
            return False
        counts[partition["owner"]] = counts.get(partition["owner"], 0) + 1
    ready = sum(member["state"] == "ready" for member in group["members"])
    return (
        len(counts) == members == ready
        and max(counts.values()) - min(counts.values()) <= 1
        and not group["rebalancing"]
        and not group["leftovers"]
    )


@asynccontextmanager
async def served(vhost: Vhost, folder: Path, **settings: str) -> AsyncIterator[Server]:
    """A server that is ready, on a vhost with an empty source queue."""
    await vhost.declare(SOURCE)
    server = Server(vhost, folder, **settings)
    try:
        server.start()
        await server.ready()
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def members(server: Server, vhost: Vhost, queues: Sequence[str]) -> AsyncIterator[None]:
    """Plain clients, a queue each (named as its member), that are members and send heartbeats.

    All of them share the partitions evenly when the block begins.
    """
    await vhost.declare(*queues)
    for queue in queues:
        told = await server.call(queue, "bind")
        await vhost.channel.bind_queue(queue, told["exchange"], told["routingKey"])
        await server.call(queue, "ready", {"queue": queue})
    async with beside(*(server.heartbeats(queue) for queue in queues)):
        await server.balanced(len(queues))
        yield
