"""How much memory the server takes, by the number of distinct keys that have passed through it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.broker import Broker
from bench.candidates import DESTINATIONS
from bench.drained import Drain, drain
from bench.messages import Writer, small_message
from bench.plan import Plan
from bench.proc import peak_rss, rss
from bench.server import SOURCE, members, served
from bench.waiting import beside, until

_CHUNK = 200
_MOST_UNDER_WAY = 20_000
_SLOWEST = 300.0
_STALLED = 60.0
_KEY_DIGITS = 36
_SETTLED = 1.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of one server, in bytes: before the first message, after the last, the most ever."""

    keys: int
    messages: int
    before: int
    after: int
    peak: int


async def measure(broker: Broker, plan: Plan, folder: Path, tell: Callable[[str], None]) -> list[Memory]:
    """A fresh server for each number of keys; the same number of messages through each.

    Raises InvalidRun where they did not get through.
    """
    found = []
    for keys in plan.memory_keys:
        one = await _one(broker, keys, plan.memory_messages, folder)
        found.append(one)
        tell(f"memory: {keys:,} keys: {one.before / 1e6:.1f} → {one.after / 1e6:.1f} MB")
    return found


async def _few_under_way(consumers: Drain, published: int) -> bool:
    return published - consumers.count <= _MOST_UNDER_WAY


async def _one(broker: Broker, keys: int, total: int, folder: Path) -> Memory:
    async with (
        broker.vhost() as vhost,
        drain(vhost, folder, *DESTINATIONS) as consumers,
        served(vhost, folder) as server,
        members(server, vhost, DESTINATIONS),
        beside(server.scrape()),
    ):
        await asyncio.sleep(_SETTLED)
        before = rss(server.pid)
        writer = await Writer.open(vhost)
        placeholder = "0" * _KEY_DIGITS
        one = small_message(SOURCE, placeholder)
        place = one.index(placeholder.encode())
        front, back = one[:place], one[place + _KEY_DIGITS :]
        for start in range(0, total, _CHUNK):
            numbers = range(start, min(start + _CHUNK, total))
            await writer.write(
                b"".join([b"%s%0*d%s" % (front, _KEY_DIGITS, number % keys, back) for number in numbers])
            )
            await until(partial(_few_under_way, consumers, start), "messages consumed", _STALLED, 0.05)

        async def all_consumed() -> bool:
            return consumers.count >= total

        await until(all_consumed, f"{total:,} messages consumed", 60 + total / _SLOWEST)
        await asyncio.sleep(_SETTLED)
        return Memory(keys, total, before, rss(server.pid), peak_rss(server.pid))
