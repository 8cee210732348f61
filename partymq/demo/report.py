"""The tables at the end: both ways beside each other, who did how much, how fast the group reacted."""

from collections.abc import Sequence
from itertools import zip_longest

from rich.console import Console
from rich.table import Table
from rich.text import Text

from partymq.demo.outcome import Outcome


def report(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print what came out of the runs."""
    _titled(console, "The same flights, the same workers coming and going", _verdicts(outcomes))
    _titled(console, "Flights per worker", _workers(outcomes))
    for outcome in outcomes:
        if outcome.has_owners:
            title = f"How fast {outcome.title} reacted: seconds until the first message of what moved"
            _titled(console, title, _reactions(outcome))
    for outcome in outcomes:
        _examples(console, outcome)


def _titled(console: Console, title: str, table: Table) -> None:
    console.print(f"\n{title}", style="bold", highlight=False)
    console.print(table)


def _verdicts(outcomes: Sequence[Outcome]) -> Table:
    table = Table()
    table.add_column("")
    for outcome in outcomes:
        table.add_column(outcome.title, justify="right")

    def row(name: str, *cells: Text | str) -> None:
        table.add_row(name, *cells)

    verdicts = [outcome.verdict for outcome in outcomes]
    row("flights published", *(f"{one.published:,}" for one in verdicts))
    row("handled", *(f"{one.handled:,}" for one in verdicts))
    row("lost", *(_count(one.lost) for one in verdicts))
    row("out of order", *(_count(one.out_of_order) for one in verdicts))
    row("  visible in the worker's own state", *(f"{one.noticed:,}" for one in verdicts))
    row("two workers at one aircraft", *(_count(one.concurrent) for one in verdicts))
    row("repeated after a fault", *(f"{one.repeated - one.unexplained:,}" for one in verdicts))
    row("repeated without a fault", *(_count(one.unexplained) for one in verdicts))
    row("seconds", *(f"{outcome.seconds:.1f}" for outcome in outcomes))
    row(
        "flights a second",
        *(f"{outcome.verdict.deliveries / outcome.seconds:,.0f}" for outcome in outcomes),
    )
    row("order and exclusion kept", *(_yes(outcome.kept) for outcome in outcomes))
    return table


def _workers(outcomes: Sequence[Outcome]) -> Table:
    table = Table()
    for outcome in outcomes:
        table.add_column(outcome.title)
        table.add_column("flights", justify="right")
    for shares in zip_longest(*(outcome.workers for outcome in outcomes)):
        cells = []
        for share in shares:
            if share is None:
                cells += ["", ""]
            else:
                killed = " (killed with -9)" if share.end == "killed" else ""
                cells += [f"{share.name}{killed}", f"{share.deliveries:,}"]
        table.add_row(*cells)
    return table


def _reactions(outcome: Outcome) -> Table:
    table = Table()
    table.add_column("at", justify="right")
    table.add_column("change")
    table.add_column("partitions", justify="right")
    table.add_column("first", justify="right")
    table.add_column("half flow", justify="right")
    table.add_column("all flow", justify="right")
    for one in outcome.reactions:
        table.add_row(
            f"{one.at:.1f} s",
            one.what,
            "" if one.partitions is None else str(one.partitions),
            *("" if time is None else f"{time:.2f}" for time in (one.first, one.half, one.last)),
        )
    return table


def _examples(console: Console, outcome: Outcome) -> None:
    for kind, examples in outcome.verdict.examples.items():
        console.print(f"{outcome.title}, {kind}, for example:", style="dim", highlight=False)
        for text in examples[:3]:
            console.print(f"  {text}", style="dim", highlight=False, markup=False)


def _count(count: int) -> Text:
    return Text(f"{count:,}", style="red" if count else "green")


def _yes(kept: bool) -> Text:
    return Text("yes" if kept else "no", style="bold green" if kept else "bold red")
