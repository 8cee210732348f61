"""`partymq demo`: the main job on real data, with every fault in it."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from partymq.demo.plan import Mode


def demo(
    mode: Annotated[
        Mode,
        typer.Option(help="push: through a server; pull: as a pull group, with the library and no server."),
    ] = Mode.PUSH,
    quick: Annotated[bool, typer.Option("--quick", help="A part of the flights, in under a minute.")] = False,
    messages: Annotated[
        int | None, typer.Option(min=1000, help="So many flights. All 336,776 of the year when left out.")
    ] = None,
    rate: Annotated[float | None, typer.Option(min=1.0, help="Flights published per second.")] = None,
    work_ms: Annotated[
        float | None, typer.Option(min=0.0, help="Work per flight, in milliseconds on average.")
    ] = None,
    compare: Annotated[bool, typer.Option(help="The same through one plain queue, for comparison.")] = True,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the workers' notes and all logs here.")
    ] = None,
) -> None:
    """Fly the flights of 2013 through PartyMQ and check every promise.

    Starts a private broker, the server and plain pika workers: 1, then 4, one of
    them killed with -9 and replaced, the server killed with -9, then 2 workers.
    With --mode pull workers and publisher use the library, no server runs, and
    instead of it the worker that coordinates the group is killed.
    Then the same through one plain queue. Exit status 0 only if nothing was lost,
    out of order, or at two workers at once, and repeats came only after a fault.
    """
    from rich.console import Console

    from partymq.demo.main import run_demo
    from partymq.demo.plan import Plan, quick_plan

    plan = quick_plan() if quick else Plan()
    plan = replace(
        plan,
        messages=messages or plan.messages,
        rate=rate or plan.rate,
        work_ms=plan.work_ms if work_ms is None else work_ms,
    )
    raise SystemExit(run_demo(plan, Console(), mode=mode, keep=keep, compare=compare))
