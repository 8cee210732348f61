"""A member whose process was stopped, and what it does when it goes on."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

from partymq import Consumer, Message, Publisher
from tests.broker.test_pull_instance import Served
from tests.conftest import Vhost

CHILD = Path(__file__).with_name("stopped_member.py")
KEYS = [f"key-{number}" for number in range(40)]
"""Some in every partition."""


class Child:
    """The process, and its lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.lines.append(line.decode().strip())

    def begun(self, batch: str) -> list[str]:
        return [line for line in self.lines if line.startswith(f"begins {batch}")]


@asynccontextmanager
async def child(url: str) -> AsyncIterator[Child]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CHILD), url, stdout=asyncio.subprocess.PIPE
    )
    made = Child(process)
    reading = asyncio.create_task(made.read())
    yield made
    process.kill()
    await process.wait()
    await reading


async def until(condition: Callable[[], object], child: Child) -> None:
    try:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError("\n".join(child.lines)) from None


async def test_a_member_that_was_stopped_begins_nothing_before_a_coordinator_has_answered_it(
    vhost: Vhost,
) -> None:
    """And one that was not goes on while nobody coordinates."""
    url = vhost.amqp_url
    handled: list[str] = []

    async def handle(message: Message) -> None:
        handled.append(message.body.decode())

    served = Served(url, "first", partitions=6, queue_type="classic")
    await served.ready()
    other = Consumer(url, group="g", name="other", session_timeout=60.0, coordinator="server")
    other.handler(handle)
    async with Publisher(url, group="g") as publisher, other, child(url) as stopped:

        async def publish(batch: str) -> None:
            for key in KEYS:
                await publisher.publish(batch, key=key)

        def all_of(batch: str) -> Callable[[], bool]:
            return lambda: handled.count(batch) + len(stopped.begun(batch)) >= len(KEYS)

        async with asyncio.timeout(60):
            for number in count():
                await publish(f"before-{number}.")
                await until(all_of(f"before-{number}."), stopped)
                if stopped.begun("before"):
                    break
                await asyncio.sleep(0.1)

        await served.stop()
        stopped.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(1.2)
        await publish("after")
        stopped.process.send_signal(signal.SIGCONT)
        await until(lambda: any("stood still" in line for line in stopped.lines), stopped)
        await until(lambda: "after" in handled, stopped)
        await asyncio.sleep(0.3)
        assert stopped.begun("after") == []

        again = Served(url, "second", partitions=6, queue_type="classic")
        await until(all_of("after"), stopped)
        await again.stop()
