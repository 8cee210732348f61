"""The results as Markdown."""

from collections.abc import Iterable, Iterator
from statistics import median

from bench.forwarding import Run
from bench.latency import Latency, percentile
from bench.rebalance import Join, Kill
from bench.results import Results
from bench.tables import head, table
from bench.targets import TITLES, verdicts


def markdown(results: Results) -> str:
    """All tables, those of parts that were not measured left out."""
    sections = [
        head("Benchmark", results.plan.quick, results.facts, results.invalid, results.seconds),
        _targets(results),
        _forwarding(results),
        _latency(results),
        _memory(results),
        _rebalance(results),
    ]
    return "\n".join(line for section in sections for line in section) + "\n"


def _targets(results: Results) -> Iterator[str]:
    yield "## Targets"
    yield ""
    yield from table(TITLES, "lllr", (one.row() for one in verdicts(results)))


def _forwarding(results: Results) -> Iterator[str]:
    if not results.forwarding:
        return
    yield "## Forwarding"
    yield ""
    plan = results.plan
    yield (
        f"CPU seconds for 100,000 messages; medians of {plan.repeat} (least to most). {plan.messages:,}"
        f" messages a run ({plan.slow_messages:,} with aio-pika), {plan.keys:,} keys, 3 destinations."
    )
    yield ""
    rows = []
    for name, one in results.figures().items():
        runs = [run for run in results.forwarding if run.candidate == name]
        rows.append(
            (
                one.title,
                "–" if one.router_cpu is None else f"{one.router_cpu:.2f} {_span(_routers(runs), '.2f')}",
                f"{one.broker_cpu:.1f} {_span((run.broker_cpu for run in runs), '.1f')}",
                "–" if one.share is None else f"{one.share:.1%}",
                f"{one.per_second:,.0f} {_span((run.per_second for run in runs), ',.0f')}",
                f"{median(run.other_load for run in runs):.1f}",
            )
        )
    titles = ("forwarder", "router CPU s", "broker CPU s", "router / broker", "messages/s", "other CPUs busy")
    yield from table(titles, "lrrrrr", rows)


def _routers(runs: Iterable[Run]) -> list[float]:
    return [run.router_cpu for run in runs if run.router_cpu is not None]


def _span(values: Iterable[float], form: str) -> str:
    every = list(values)
    return f"({min(every):{form}}–{max(every):{form}})" if len(every) > 1 else ""


def _latency(results: Results) -> Iterator[str]:
    if results.latency is None:
        return
    latency = results.latency
    yield f"## Latency at {latency.per_second:,.0f} messages/s"
    yield ""
    yield "Milliseconds from publishing to the consumer; `added` is the difference."
    yield ""
    rows = [
        ("publisher → queue → consumer", *_percentiles(latency.direct)),
        ("publisher → source → PartyMQ → member's queue → consumer", *_percentiles(latency.partymq)),
        ("added", f"{latency.added_p50:.2f}", f"{latency.added_p99:.2f}", ""),
    ]
    yield from table(("way", "p50", "p99", "medians of the rounds"), "lrrr", rows)


def _percentiles(latency: Latency) -> tuple[str, str, str]:
    return f"{latency.p50:.2f}", f"{latency.p99:.2f}", ", ".join(f"{one:.2f}" for one in latency.rounds)


def _memory(results: Results) -> Iterator[str]:
    if not results.memory:
        return
    yield "## Memory of the server"
    yield ""
    yield "Resident, in MB; a fresh server for each row."
    yield ""
    rows = [
        (
            f"{one.keys:,}",
            f"{one.messages:,}",
            *(f"{size / 1e6:.1f}" for size in (one.before, one.after, one.peak)),
        )
        for one in results.memory
    ]
    yield from table(("distinct keys", "messages", "before", "after", "peak"), "rrrrr", rows)


def _rebalance(results: Results) -> Iterator[str]:
    if results.rebalance is None:
        return
    yield "## Rebalancing"
    yield ""
    yield (
        f"Two members, {results.rebalance.per_second:g} messages/s, {results.rebalance.work_ms:g} ms of work"
        " a message on average; one more joins, or is killed. Seconds; shares as parts of the fair share."
    )
    yield ""
    yield from table(
        ("joins", "first message p50", "p99", "share in seconds 4 and 5 p50", "least", "in all 5 s p50"),
        "lrrrrr",
        [_joins(backlog, joins) for backlog, joins in results.rebalance.joins.items()],
    )
    yield from table(
        ("kill -9", "known after p50", "first partition goes on p50", "all go on p50", "longest"),
        "lrrrr",
        [_kills(notice, kills) for notice, kills in results.rebalance.kills.items()],
    )


def _joins(backlog: int, joins: list[Join]) -> tuple[str, ...]:
    firsts = [join.first for join in joins]
    return (
        f"{len(joins)}, backlog of {backlog:,}",
        f"{percentile(firsts, 50):.2f}",
        f"{percentile(firsts, 99):.2f}",
        f"{median(join.share for join in joins):.0%}",
        f"{min(join.share for join in joins):.0%}",
        f"{median(join.share_of_all for join in joins):.0%}",
    )


def _kills(notice: str, kills: list[Kill]) -> tuple[str, ...]:
    return (
        f"{len(kills)}, known by {notice}",
        f"{median(kill.known for kill in kills):.2f}",
        f"{median(kill.first for kill in kills):.2f}",
        f"{median(kill.last for kill in kills):.2f}",
        f"{max(kill.last for kill in kills):.2f}",
    )
