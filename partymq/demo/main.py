"""The whole demo: a private broker, a run through PartyMQ, the same run through a plain queue, the tables."""

import shutil
import tempfile
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from partymq.broker import PrivateNode
from partymq.demo.board import Board, board_for
from partymq.demo.endings import termination_interrupts
from partymq.demo.flights import choose, read_flights, write_lines
from partymq.demo.outcome import Outcome, judge
from partymq.demo.plan import Mode, Plan
from partymq.demo.report import report
from partymq.demo.run import DemoError, Run
from partymq.demo.scenario import fly
from partymq.demo.topology import Broker
from partymq.demo.ways import PartyMQ, PlainQueue, PullGroup, Way
from partymq.errors import PartyMQError

KEPT, BROKEN, FAILED, INTERRUPTED = 0, 1, 2, 130


def run_demo(
    plan: Plan, console: Console, *, mode: Mode = Mode.PUSH, keep: Path | None = None, compare: bool = True
) -> int:
    """Run the demo and print what came out of it.

    Args:
        mode: with a server, or as a pull group.
        keep: folder for notes and logs. None: a temporary one, which stays only if a promise was broken.
        compare: with the plain queue too.

    Returns:
        The exit status: 0 when PartyMQ kept its promises, 1 when not, 2 when the demo could not be carried
        through, 130 when it was interrupted. Whatever it started has ended by then.
    """
    folder = keep or Path(tempfile.mkdtemp(prefix="partymq-demo-"))
    began = time.monotonic()
    status = FAILED
    try:
        with termination_interrupts():
            if (mode is Mode.PUSH or compare) and find_spec("pika") is None:
                raise DemoError("workers and publisher need pika: pip install 'partymq[demo]'")
            folder.mkdir(parents=True, exist_ok=True)
            outcomes = _runs(plan, console, folder, mode, compare)
            report(console, outcomes)
        status = KEPT if outcomes[0].kept else BROKEN
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started has been ended")
        status = INTERRUPTED
    except PartyMQError as failure:
        console.print(f"demo: {failure}", style="red", highlight=False, markup=False)
    finally:
        if keep is None and status in (KEPT, INTERRUPTED):
            shutil.rmtree(folder, ignore_errors=True)
        elif keep or folder.exists():
            console.print(f"notes and logs are in {folder}", highlight=False)
    if status in (KEPT, BROKEN):
        console.print(
            f"{'all promises kept' if status == KEPT else 'A PROMISE WAS BROKEN'} "
            f"({time.monotonic() - began:.0f} s in all)",
            style="bold green" if status == KEPT else "bold red",
            highlight=False,
        )
    return status


def _runs(plan: Plan, console: Console, folder: Path, mode: Mode, compare: bool) -> list[Outcome]:
    with ExitStack() as stack:
        board = stack.enter_context(board_for(console))
        board.event("reading the flights of 2013")
        flights = choose(read_flights(), plan.messages)
        aircraft = [flight.aircraft for flight in flights]
        lines = folder / "flights.csv"
        write_lines(flights, lines)
        board.event(f"{len(flights):,} flights of {len(set(aircraft)):,} aircraft; starting a private broker")
        node = stack.enter_context(PrivateNode())
        board.event(f"broker on port {node.port}")
        broker = Broker(node.amqp_url, node.management_url)

        def run_of(way: Way, name: str) -> Run:
            return Run(way, broker, plan, lines, aircraft, folder / name, board)

        if mode is Mode.PULL:
            outcomes = [_without_server(run_of(PullGroup(), "pull"), board)]
        else:
            way = PartyMQ(broker, plan, folder)
            outcomes = [_with_server(way, run_of(way, "partymq"), board)]
        if compare:
            board.event("the same again with one plain queue")
            outcomes.append(_without_server(run_of(PlainQueue(broker), "plain"), board))
        return outcomes


def _with_server(way: PartyMQ, run: Run, board: Board) -> Outcome:
    board.event("PartyMQ: starting the server")
    try:
        way.start()
        run.until(way.ready, "the server", 60.0)
        fly(run)
        status = way.stop()
        return judge(run, status)
    finally:
        run.close()
        way.kill_if_running()


def _without_server(run: Run, board: Board) -> Outcome:
    board.event(run.way.title)
    try:
        fly(run)
        return judge(run)
    finally:
        run.close()
