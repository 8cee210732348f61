"""What is to be reached, and whether it was."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench.latency import percentile
from bench.memory import Memory
from bench.results import Results

_ROUTER_CPU = 0.8
_BODY_CPU = 2 * _ROUTER_CPU
_SHARE_OF_BROKER = 0.08
_TIMES_SHOVEL = 1.4
_ADDED_P50 = 2.0
_GROWTH = 10_000_000
_FIRST_MESSAGE = 1.5
_FAIR_SHARE = 0.8
_GO_ON = 2.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target and what was measured, both in words."""

    what: str
    target: str
    measured: str
    reached: bool

    def row(self) -> tuple[str, str, str, str]:
        """Of a table under `TITLES`."""
        return self.what, self.target, self.measured, "yes" if self.reached else "**no**"


TITLES = ("what", "target", "measured", "reached")


def verdicts(results: Results) -> list[Verdict]:
    """Of all targets whose part was measured."""
    return [*_forwarding(results), *_latency(results), *_memory(results), *_rebalance(results)]


def _forwarding(results: Results) -> Iterator[Verdict]:
    figures = results.figures()
    for name, most, what in (
        ("partymq-full", _ROUTER_CPU, "router CPU, header key, everything on, members consume"),
        ("partymq", _ROUTER_CPU, "router CPU, header key, nobody consumes"),
        ("partymq-body", _BODY_CPU, "router CPU, body key, everything on, members consume"),
    ):
        if name not in figures:
            continue
        cpu = figures[name].router_cpu
        assert cpu is not None
        yield Verdict(what, f"≤ {most:g} s / 100k messages", f"{cpu:.2f} s", cpu <= most)
    for name, what in (("partymq-full", "members consume"), ("partymq", "nobody consumes")):
        if name not in figures:
            continue
        share = figures[name].share
        assert share is not None
        yield Verdict(
            f"router's CPU as a part of the broker's, {what}",
            f"≤ {_SHARE_OF_BROKER:.0%}",
            f"{share:.1%}",
            share <= _SHARE_OF_BROKER,
        )
    if "partymq" in figures and "shovel" in figures:
        times = figures["partymq"].per_second / figures["shovel"].per_second
        yield Verdict(
            "throughput beside the shovel's, nobody consumes",
            f"≥ {_TIMES_SHOVEL:g} ×",
            f"{times:.2f} ×",
            times >= _TIMES_SHOVEL,
        )


def _latency(results: Results) -> Iterator[Verdict]:
    if results.latency is not None:
        added = results.latency.added_p50
        yield Verdict(
            f"added latency, median at {results.latency.per_second:,.0f} messages/s",
            f"≤ {_ADDED_P50:g} ms",
            f"{added:.2f} ms",
            added <= _ADDED_P50,
        )


def _memory(results: Results) -> Iterator[Verdict]:
    if len(results.memory) > 1:
        few, many = results.memory[0], results.memory[-1]
        grown = growth(few, many)
        yield Verdict(
            f"memory of the server, from {few.keys:,} to {many.keys:,} keys",
            f"grows by < {_GROWTH / 1e6:.0f} MB",
            f"{grown / 1e6:+.1f} MB",
            grown < _GROWTH,
        )


def growth(few: Memory, many: Memory) -> int:
    """By how much the server with many keys is larger in the end, in bytes."""
    return many.after - few.after


def _rebalance(results: Results) -> Iterator[Verdict]:
    if results.rebalance is None:
        return
    for backlog, joins in results.rebalance.joins.items():
        where = f"backlog of {backlog:,}" if backlog else "no backlog"
        p99 = percentile([join.first for join in joins], 99)
        yield Verdict(
            f"a newcomer's first message after `ready`, p99 of {len(joins)}, {where}",
            f"≤ {_FIRST_MESSAGE:g} s",
            f"{p99:.2f} s",
            p99 <= _FIRST_MESSAGE,
        )
        least = min(join.share for join in joins)
        yield Verdict(
            f"a newcomer's share within 5 s, the least of {len(joins)}, {where}",
            f"≥ {_FAIR_SHARE:.0%} of its fair share",
            f"{least:.0%}",
            least >= _FAIR_SHARE,
        )
    for notice, kills in results.rebalance.kills.items():
        since = "its heartbeat expired" if notice == "heartbeat" else "the broker saw no consumer"
        longest = max(kill.last for kill in kills)
        yield Verdict(
            f"a killed member's messages go on, all its partitions, the longest of {len(kills)}",
            f"≤ {_GO_ON:g} s after {since}",
            f"{longest:.2f} s",
            longest <= _GO_ON,
        )
