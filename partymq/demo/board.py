"""What one sees while the demo runs: a live board on a terminal, plain lines elsewhere."""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_LINE_SECONDS = 2.0
_STYLES = {
    "joining": "yellow",
    "working": "green",
    "leaving": "yellow",
    "left": "dim",
    "killed": "red",
}


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker at a moment; `rate` is messages per second."""

    name: str
    state: str
    handled: int
    rate: float


@dataclass(frozen=True, slots=True)
class View:
    """A run at a moment; `rate` is messages per second, `step` what is being waited for."""

    title: str
    step: str
    seconds: float
    total: int
    published: int
    handled: int
    rate: float
    workers: list[WorkerView]


class Board(Protocol):
    """Where progress is shown. A context manager: the board stands within."""

    def event(self, text: str) -> None:
        """Something happened."""

    def show(self, view: View) -> None:
        """This is how it stands."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def board_for(console: Console) -> Board:
    """The live board on a terminal, lines elsewhere."""
    return LiveBoard(console) if console.is_terminal else LineBoard(console)


class LineBoard:
    """A line for each event, and one every two seconds in between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._last = self._began

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def event(self, text: str) -> None:
        self._line(text)

    def show(self, view: View) -> None:
        now = time.monotonic()
        if now < self._last + _LINE_SECONDS:
            return
        self._last = now
        workers = " ".join(f"{one.name.removeprefix('worker-')}:{one.rate:.0f}/s" for one in _active(view))
        self._line(
            f"  {view.title}: published {view.published:,} handled {view.handled:,} of {view.total:,}, "
            f"{view.rate:,.0f}/s  [{workers}]"
        )

    def _line(self, text: str) -> None:
        clock = time.monotonic() - self._began
        self._console.print(f"{clock:6.1f}s  {text}", highlight=False, markup=False, soft_wrap=True)


class LiveBoard:
    """Bars and a table of the workers, redrawn in place below the events, which stay."""

    def __init__(self, console: Console) -> None:
        self._began = time.monotonic()
        # No refresh thread: processes are forked from this one.
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def event(self, text: str) -> None:
        clock = time.monotonic() - self._began
        self._live.console.print(f"{clock:6.1f}s  {text}", highlight=False, markup=False)

    def show(self, view: View) -> None:
        title = f"{view.title}  {view.seconds:.0f} s  waiting for {view.step}"
        panel = Panel(Group(_bars(view), _workers(view)), title=title, title_align="left", expand=False)
        self._live.update(panel, refresh=True)


def _active(view: View) -> list[WorkerView]:
    return [one for one in view.workers if one.state not in ("left", "killed")]


def _bars(view: View) -> Table:
    table = Table.grid(padding=(0, 1))
    for name, count in (("published", view.published), ("handled", view.handled)):
        table.add_row(name, ProgressBar(view.total, count, width=40), f"{count:,} of {view.total:,}")
    table.add_row("", Text(f"{view.rate:,.0f} flights a second", style="bold"))
    return table


def _workers(view: View) -> Table:
    table = Table(box=None, padding=(0, 2))
    table.add_column("worker")
    table.add_column("state")
    table.add_column("handled", justify="right")
    table.add_column("a second", justify="right")
    for one in view.workers:
        style = _STYLES.get(one.state, "")
        rate = f"{one.rate:,.0f}" if one.state not in ("left", "killed") else ""
        table.add_row(one.name, Text(one.state, style=style), f"{one.handled:,}", rate)
    return table
