"""What is to be reached by pull groups, and whether it was."""

from collections.abc import Iterator
from statistics import median

from bench.latency import percentile
from bench.pull.consuming import ratios
from bench.pull.counted import HANDLER, OURS, PLAIN
from bench.pull.publishing import MANY, THEIRS, median_rate
from bench.pull.results import Results
from bench.targets import Verdict

_CPU = 1.5
_TIMES_PLAIN = 0.9
_JOIN = 0.5
_KILL = 2.0
_STOP = 2.0
_TIMES_AIO_PIKA = 5.0


def verdicts(results: Results) -> list[Verdict]:
    """Of all targets whose part was measured."""
    return [
        *_consuming(results),
        *_groups(results),
        *_reactions(results),
        *_restarts(results),
        *_publishing(results),
    ]


def _consuming(results: Results) -> Iterator[Verdict]:
    for cost in results.costs:
        if cost.candidate == OURS.name:
            yield Verdict(
                f"consumer's CPU, {cost.queue_type} queues",
                f"≤ {_CPU:g} s / 100k messages",
                f"{cost.cpu:.2f} s",
                cost.cpu <= _CPU,
            )


def _groups(results: Results) -> Iterator[Verdict]:
    for (queue_type, members, messages), rounds in results.groups().items():
        for beside, what in ((PLAIN.name, "no handler"), (HANDLER.name, "with a handler")):
            times = median(ratios(rounds, beside))
            where = f"{queue_type} queues, {messages}"
            yield Verdict(
                f"{members} members beside {members} raw consumers, {what}, {where}",
                f"≥ {_TIMES_PLAIN:g} ×",
                f"{times:.2f} ×",
                times >= _TIMES_PLAIN,
            )


def _reactions(results: Results) -> Iterator[Verdict]:
    if results.joins:
        p99 = percentile(results.joins, 99)
        yield Verdict(
            f"a joining member's first message, p99 of {len(results.joins)}",
            f"≤ {_JOIN * 1000:g} ms after the start of its consumer",
            f"{p99 * 1000:.0f} ms",
            p99 <= _JOIN,
        )
    if results.kills:
        p99 = percentile([death.last for death in results.kills], 99)
        yield Verdict(
            f"all partitions of a member go on after kill -9, p99 of {len(results.kills)}",
            f"≤ {_KILL:g} s",
            f"{p99:.2f} s",
            p99 <= _KILL,
        )
    for timeout, deaths in results.stops.items():
        longest = max(death.last for death in deaths)
        yield Verdict(
            f"all partitions of a member go on after SIGSTOP, the longest of {len(deaths)}",
            f"≤ {timeout + _STOP:g} s (session_timeout {timeout:g} s)",
            f"{longest:.2f} s",
            longest <= timeout + _STOP,
        )


def _restarts(results: Results) -> Iterator[Verdict]:
    for one in results.restarts:
        yield Verdict(
            f"a rolling restart of four members, rejoin_grace {one.rejoin_grace:g} s",
            "repeats and loses no message",
            f"{one.repeated} of {one.published:,} repeated",
            not one.repeated,
        )


def _publishing(results: Results) -> Iterator[Verdict]:
    for queue_type in {one.queue_type: None for one in results.rates}:
        theirs = max(median_rate(results.rates, way, queue_type) for way in THEIRS)
        times = median_rate(results.rates, MANY, queue_type) / theirs
        yield Verdict(
            f"publish_many beside aio-pika's best confirmed publish, {queue_type} queues",
            f"≥ {_TIMES_AIO_PIKA:g} ×",
            f"{times:.1f} ×",
            times >= _TIMES_AIO_PIKA,
        )
