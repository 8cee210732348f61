"""The results of pull groups as Markdown."""

from collections.abc import Iterable, Iterator
from statistics import median

from bench.latency import percentile
from bench.pull.consuming import Round, per_cpu, ratios
from bench.pull.counted import CANDIDATES, HANDLER, OURS, PLAIN
from bench.pull.reactions import Death
from bench.pull.results import Results
from bench.pull.targets import verdicts
from bench.tables import head, table
from bench.targets import TITLES


def markdown(results: Results) -> str:
    """All tables, those of parts that were not measured left out."""
    sections = [
        head(
            "Benchmark of pull groups",
            results.plan.quick,
            results.facts,
            results.invalid,
            results.seconds,
        ),
        _targets(results),
        _costs(results),
        _groups(results),
        _joins(results),
        _deaths(results),
        _restarts(results),
        _rates(results),
    ]
    return "\n".join(line for section in sections for line in section) + "\n"


def _targets(results: Results) -> Iterator[str]:
    yield "## Targets"
    yield ""
    yield from table(TITLES, "lllr", (one.row() for one in verdicts(results)))


def _costs(results: Results) -> Iterator[str]:
    if not results.costs:
        return
    plan = results.plan
    yield "## One process"
    yield ""
    yield (
        f"CPU seconds for 100,000 messages; medians of {plan.repeat} (least to most)."
        f" {plan.messages:,} messages a run, {plan.keys:,} keys, {plan.partitions} partition queues."
    )
    yield ""
    titles = {candidate.name: candidate.title for candidate in CANDIDATES}
    rows = (
        (
            titles[one.candidate],
            one.queue_type,
            f"{one.cpu:.2f} ({min(one.cpus):.2f}–{max(one.cpus):.2f})",
            f"{one.broker_cpu:.1f}",
            f"{one.per_second:,.0f}",
        )
        for one in results.costs
    )
    yield from table(("consumer", "queues", "its CPU s", "broker CPU s", "messages/s"), "llrrr", rows)


def _groups(results: Results) -> Iterator[str]:
    if not results.rounds:
        return
    yield "## Several processes"
    yield ""
    yield (
        f"Messages/s of all together, medians of {results.plan.group_rounds}; our rate as a multiple of the"
        f" other's in the same round. {results.plan.group_messages:,} messages a run, which lie there already"
        " (backlog) or come as fast as the broker takes them (live)."
    )
    yield ""
    compared = (OURS.name, PLAIN.name, HANDLER.name)
    titles = ("members", "queues", "messages", "PartyMQ", "raw", "raw, handler", "× raw", "× raw, handler")
    rows = (
        (
            str(members),
            queue_type,
            messages,
            *(_rate(rounds, name) for name in compared),
            *(_ratios(ratios(rounds, name)) for name in compared[1:]),
        )
        for (queue_type, members, messages), rounds in results.groups().items()
    )
    yield from table(titles, "rllrrrrr", rows)
    yield (
        "CPU seconds for 100,000 messages, of the consumers + of the broker, medians; and our messages for a"
        " CPU second of both together, as a multiple of the other's."
    )
    yield ""
    rows = (
        (
            str(members),
            queue_type,
            messages,
            *(_cpus(rounds, name) for name in compared),
            *(f"{per_cpu(rounds, name):.2f}" for name in compared[1:]),
        )
        for (queue_type, members, messages), rounds in results.groups().items()
    )
    yield from table(titles, "rllrrrrr", rows)


def _cpus(rounds: list[Round], candidate: str) -> str:
    cpu = median(one.cpu[candidate] for one in rounds)
    return f"{cpu:.2f} + {median(one.broker_cpu[candidate] for one in rounds):.2f}"


def _rate(rounds: Iterable[Round], candidate: str) -> str:
    return f"{median(one.per_second[candidate] for one in rounds):,.0f}"


def _ratios(all_of_them: list[float]) -> str:
    return f"{median(all_of_them):.2f} ({', '.join(f'{one:.2f}' for one in all_of_them)})"


def _joins(results: Results) -> Iterator[str]:
    if not results.joins:
        return
    yield "## Joining"
    yield ""
    yield (
        f"Milliseconds from the start of a consumer, its process being up, to its first message;"
        f" {results.plan.rate:,.0f} messages/s to {results.plan.partitions} partitions, two members there."
    )
    yield ""
    cells = [f"{percentile(results.joins, at) * 1000:.0f}" for at in (50, 99)]
    row = (str(len(results.joins)), *cells, f"{max(results.joins) * 1000:.0f}")
    yield from table(("joins", "p50", "p99", "longest"), "rrrr", [row])


def _deaths(results: Results) -> Iterator[str]:
    found = {
        f"kill -9 of the {was}": [death for death in results.kills if death.was == was]
        for was in ("oldest", "newest")
    }
    for timeout, deaths in results.stops.items():
        found[f"SIGSTOP, session_timeout {timeout:g} s"] = deaths
    rows = [(what, *_death(deaths)) for what, deaths in found.items() if deaths]
    if not rows:
        return
    yield "## A member that is gone"
    yield ""
    yield "Seconds until others handle messages of the first, and of all, of its partitions; three members."
    yield ""
    yield from table(("what", "times", "first p50", "all p50", "all, longest"), "lrrrr", rows)


def _death(deaths: list[Death]) -> tuple[str, ...]:
    lasts = [death.last for death in deaths]
    return (
        str(len(deaths)),
        f"{median(death.first for death in deaths):.2f}",
        f"{median(lasts):.2f}",
        f"{max(lasts):.2f}",
    )


def _restarts(results: Results) -> Iterator[str]:
    if not results.restarts:
        return
    yield "## A rolling restart of four members"
    yield ""
    rows = (
        (f"{one.rejoin_grace:g} s", f"{one.seconds:.1f}", f"{one.published:,}", str(one.repeated))
        for one in results.restarts
    )
    yield from table(("rejoin_grace", "took s", "messages meanwhile", "handled again"), "rrrr", rows)


def _rates(results: Results) -> Iterator[str]:
    if not results.rates:
        return
    yield "## Publishing"
    yield ""
    yield f"Confirmed; medians of {results.plan.repeat}."
    yield ""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for one in results.rates:
        found.setdefault((one.way, one.queue_type), []).append((one.per_second, one.cpu))
    rows = (
        (
            way,
            queue_type,
            f"{median(rate for rate, _ in rates):,.0f}",
            f"{median(cpu for _, cpu in rates):.2f}",
        )
        for (way, queue_type), rates in found.items()
    )
    yield from table(("publisher", "queues", "messages/s", "its CPU s / 100k"), "llrr", rows)
