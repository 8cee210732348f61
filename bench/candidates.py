"""The forwarders that are compared: how each is set up, started and ended on an empty vhost.

Each takes messages from the queue `SOURCE` to the queues `DESTINATIONS`, by their key, with confirms, acking
after them.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.broker import Vhost
from bench.drained import drain
from bench.errors import InvalidRun
from bench.messages import BODY_KEY, KEY_HEADER
from bench.server import SOURCE, members, served
from bench.waiting import beside
from partymq.demo.children import Child

DESTINATIONS = ("member-1", "member-2", "member-3")
_EXCHANGE = "bench"
_ROOM = Path(__file__).parent / "forwarders"
_STOP_WITHIN = 10.0


@dataclass(frozen=True, slots=True)
class Ready:
    """A forwarder that is set up and does not run yet.

    Attributes:
        start, stop: after `stop` it has acked what it forwarded.
        pid: of its process while it runs; None where it is part of the broker.
        consumed: messages that have left the destinations again.
    """

    start: Callable[[], Coroutine[Any, Any, None]]
    stop: Callable[[], Coroutine[Any, Any, None]]
    pid: Callable[[], int | None]
    consumed: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A forwarder.

    Attributes:
        name: short, for JSON and the command line.
        title: for people.
        set_up: on an empty vhost, with a folder for its files.
        slow: gets fewer messages.
    """

    name: str
    title: str
    set_up: Callable[[Vhost, Path], AbstractAsyncContextManager[Ready]]
    slow: bool = False


@asynccontextmanager
async def _ours(
    vhost: Vhost, folder: Path, *, consumers: bool = False, **settings: str
) -> AsyncIterator[Ready]:
    """Our server. Its members join while the source is empty; then it stops, to start again when measured."""
    async with AsyncExitStack() as stack:
        consumed: Callable[[], int] = _none
        if consumers:
            drained = await stack.enter_async_context(drain(vhost, folder, *DESTINATIONS))
            consumed = partial(getattr, drained, "count")
        server = await stack.enter_async_context(served(vhost, folder, **settings))
        await stack.enter_async_context(members(server, vhost, DESTINATIONS))
        await stack.enter_async_context(beside(server.scrape()))
        await server.stop()

        async def start() -> None:
            server.start()

        yield Ready(start, server.stop, lambda: server.pid, consumed)


@asynccontextmanager
async def _library(program: str, vhost: Vhost, folder: Path) -> AsyncIterator[Ready]:
    """A program of the folder `forwarders`."""
    await vhost.declare(SOURCE, *DESTINATIONS)
    await vhost.channel.declare_exchange(_EXCHANGE, "direct", durable=True)
    for queue in DESTINATIONS:
        await vhost.channel.bind_queue(queue, _EXCHANGE, queue)
    command = [sys.executable, str(_ROOM / program), f"--amqp={vhost.url}", f"--queue={SOURCE}"]
    command += [f"--exchange={_EXCHANGE}", "--routing-keys", *DESTINATIONS]
    running: list[Child] = []

    async def start() -> None:
        running.append(Child(program, command, folder / f"{program}-{vhost.name}.log"))

    async def stop() -> None:
        child = running[0]
        await asyncio.to_thread(child.stop, _STOP_WITHIN)
        if child.status != 0:
            raise InvalidRun(f"{program} ended with {child.status}:\n{child.last_words()}")

    try:
        yield Ready(start, stop, lambda: running[0].pid, _none)
    finally:
        for child in running:
            child.stop(0.0)


@asynccontextmanager
async def _shovel(vhost: Vhost, folder: Path) -> AsyncIterator[Ready]:
    """The broker's dynamic shovel, to an exchange that hashes the header."""
    await vhost.declare(SOURCE, *DESTINATIONS)
    await vhost.channel.declare_exchange(
        _EXCHANGE, "x-consistent-hash", durable=True, arguments={"hash-header": KEY_HEADER}
    )
    for queue in DESTINATIONS:
        await vhost.channel.bind_queue(queue, _EXCHANGE, "20")
    path = f"parameters/shovel/{vhost.name}/bench"
    definition = {
        "src-protocol": "amqp091",
        "src-uri": f"amqp:///{vhost.name}",
        "src-queue": SOURCE,
        "dest-protocol": "amqp091",
        "dest-uri": f"amqp:///{vhost.name}",
        "dest-exchange": _EXCHANGE,
        "ack-mode": "on-confirm",
    }

    async def start() -> None:
        await vhost.broker.ask("PUT", path, {"value": definition})

    async def stop() -> None:
        await vhost.broker.ask("DELETE", path)

    yield Ready(start, stop, lambda: None, _none)


def _none() -> int:
    return 0


CANDIDATES = (
    Candidate(
        "partymq-full",
        "PartyMQ, everything on, members consume",
        partial(_ours, consumers=True),
    ),
    Candidate(
        "partymq-body",
        f"PartyMQ, the same, key in the body (`{BODY_KEY}`)",
        partial(_ours, consumers=True, KEY_CONFIG_SOURCE="body", KEY_CONFIG_KEY=BODY_KEY),
    ),
    Candidate("partymq", "PartyMQ, nobody consumes", partial(_ours, WINDOW="0s")),
    Candidate("pika", "pika (SelectConnection), nobody consumes", partial(_library, "with_pika.py")),
    Candidate("shovel", "shovel → x-consistent-hash, nobody consumes", _shovel),
    Candidate("aio-pika", "aio-pika, nobody consumes", partial(_library, "with_aio_pika.py"), slow=True),
)
