"""How much later a message is with its consumer because it takes the way through PartyMQ."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from bench.broker import Broker, Vhost
from bench.candidates import DESTINATIONS
from bench.errors import InvalidRun
from bench.messages import Writer, keys, message
from bench.plan import Plan
from bench.server import SOURCE, members, served
from bench.waiting import until
from partymq.amqp.channel import Channel
from partymq.amqp.content import Span

_DIRECT = "direct"
_PREFETCH = 200
_WARM_UP = 2.0
"""Seconds that do not count: a fresh member's window begins small and grows within about one second."""
_LATE = 30.0
_MARK = b'"sent": '
_DIGITS = 20
"""Of the time in a body, which is padded with zeros behind a 1, so that all bodies are of one size."""
_KEYS = 1_000


@dataclass(frozen=True, slots=True)
class Latency:
    """From publishing to the consumer, in milliseconds, of all rounds together; of each round the median."""

    messages: int
    p50: float
    p99: float
    rounds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Latencies:
    """The two ways."""

    per_second: float
    direct: Latency
    partymq: Latency

    @property
    def added_p50(self) -> float:
        """Milliseconds that the way through PartyMQ takes longer: the difference of the medians."""
        return self.partymq.p50 - self.direct.p50

    @property
    def added_p99(self) -> float:
        """The difference of the 99th percentiles, in milliseconds."""
        return self.partymq.p99 - self.direct.p99


async def measure(broker: Broker, plan: Plan, folder: Path, tell: Callable[[str], None]) -> Latencies:
    """Both ways in turn, at the same rate, with the same consumers.

    Raises InvalidRun where a message did not arrive.
    """
    seen: dict[str, list[list[float]]] = {_DIRECT: [], SOURCE: []}
    async with broker.vhost() as vhost, served(vhost, folder) as server:
        await vhost.declare(_DIRECT, *DESTINATIONS)
        async with _consumers(vhost) as stopwatch, members(server, vhost, DESTINATIONS):
            for number in range(plan.latency_rounds):
                for queue in (_DIRECT, SOURCE):
                    took = await _round(vhost, queue, stopwatch, plan)
                    seen[queue].append(took)
                    tell(
                        f"latency {number + 1}/{plan.latency_rounds}: to {queue}: "
                        f"p50 {percentile(took, 50):.2f} ms, p99 {percentile(took, 99):.2f} ms"
                    )
    return Latencies(plan.latency_rate, _latency(seen[_DIRECT]), _latency(seen[SOURCE]))


def percentile(values: list[float], percent: float) -> float:
    """The least value that so many percent of the values are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def _latency(rounds: list[list[float]]) -> Latency:
    together = [value for one in rounds for value in one]
    return Latency(
        len(together),
        percentile(together, 50),
        percentile(together, 99),
        tuple(round(median(one), 3) for one in rounds),
    )


class _Stopwatch:
    """Takes the time of each message that arrives."""

    def __init__(self) -> None:
        self.took: list[float] = []

    def take(self, channel: Channel, buf: bytes, spans: list[Span]) -> None:
        now = time.monotonic_ns()
        for _tag, _method_at, header_at, end in spans:
            start = buf.index(_MARK, header_at, end) + len(_MARK)
            sent = int(buf[start : start + _DIGITS]) - 10 ** (_DIGITS - 1)
            self.took.append((now - sent) / 1e6)
        channel.ack(spans[-1][0], multiple=True)


@asynccontextmanager
async def _consumers(vhost: Vhost) -> AsyncIterator[_Stopwatch]:
    """One for each queue, on a connection of its own."""
    stopwatch = _Stopwatch()
    for queue in (_DIRECT, *DESTINATIONS):
        channel = await (await vhost.connect(f"bench consumer {queue}")).open_channel()
        await channel.qos(_PREFETCH)
        await channel.consume(queue, partial(stopwatch.take, channel))
    yield stopwatch


async def _round(vhost: Vhost, queue: str, stopwatch: _Stopwatch, plan: Plan) -> list[float]:
    """Publish for a while; what each message took, those of the warm-up left out."""
    writer = await Writer.open(vhost)
    placeholder = 10 ** (_DIGITS - 1)
    made = [message(queue, key, sent=placeholder) for key in keys(_KEYS)]
    places = [one.index(_MARK) + len(_MARK) for one in made]
    warm_up = int(_WARM_UP * plan.latency_rate)
    total = warm_up + int(plan.latency_seconds * plan.latency_rate)
    stopwatch.took.clear()
    began = time.monotonic()
    for number in range(total):
        wait = began + number / plan.latency_rate - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        one, place = made[number % _KEYS], places[number % _KEYS]
        sent = b"%d" % (placeholder + time.monotonic_ns())
        await writer.write(one[:place] + sent + one[place + _DIGITS :])

    async def all_arrived() -> bool:
        return len(stopwatch.took) >= total

    await until(all_arrived, f"all {total:,} messages to {queue} arrived", _LATE)
    if len(stopwatch.took) != total:
        raise InvalidRun(f"{len(stopwatch.took):,} messages arrived, not {total:,}")
    return stopwatch.took[warm_up:]
