"""One run of a benchmark: a private node, one part after the other, tables and measurements kept in files."""

import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import uvloop

from bench.broker import PLUGINS, Broker
from bench.machine import facts
from bench.targets import Verdict
from partymq.broker import PrivateNode
from partymq.errors import PartyMQError

RESULTS = Path(__file__).parent / "results"
_INVALID, _INTERRUPTED = 1, 130

Tell = Callable[[str], None]
Measure = Callable[[Broker, str, Path, Tell], Awaitable[None]]
"""Measures one part, with a folder for files."""


class Outcome(Protocol):
    """What a session fills in, besides what is measured."""

    facts: dict[str, str]
    invalid: dict[str, str]
    """Parts whose figures count for nothing, and why."""
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain values, every single measurement in them."""


def run(outcome: Outcome, parts: tuple[str, ...], measure: Measure, keep: Callable[[], None]) -> int:
    """The exit status: 0 where all runs were valid, whatever the figures. `keep` is called at the end."""
    folder = Path(tempfile.mkdtemp(prefix="partymq-bench-"))
    try:
        with (
            PrivateNode(plugins=PLUGINS) as node,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(_measure(node, outcome, parts, measure, folder))
    except (KeyboardInterrupt, asyncio.CancelledError) as interruption:
        by = "SIGINT" if isinstance(interruption, KeyboardInterrupt) else interruption
        print(f"interrupted: {by}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        return _INTERRUPTED
    except PartyMQError as error:
        print(f"bench: {error}", file=sys.stderr)
        return _INVALID
    keep()
    if outcome.invalid:
        print(f"not all runs were valid; logs are in {folder}", file=sys.stderr)
        return _INVALID
    shutil.rmtree(folder, ignore_errors=True)
    return 0


async def _measure(
    node: PrivateNode, outcome: Outcome, parts: tuple[str, ...], measure: Measure, folder: Path
) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel, "SIGTERM")
    began = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)

    async with Broker(node) as broker:
        outcome.facts = facts(await broker.ask("GET", "overview"))
        await broker.calm()
        for part in parts:
            try:
                await measure(broker, part, folder, tell)
            except PartyMQError as error:
                outcome.invalid[part] = str(error)
                tell(f"{part}: {error}")
    outcome.seconds = time.monotonic() - began


def keep(outcome: Outcome, text: str, verdicts: list[Verdict], folder: Path, suffix: str) -> None:
    """Print the tables, and write them and every measurement to files of one name, which ends so."""
    print(f"\n{text}")
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{outcome.facts['commit']}{suffix}"
    found = outcome.as_json() | {
        "targets": [
            {"what": one.what, "target": one.target, "measured": one.measured, "reached": one.reached}
            for one in verdicts
        ]
    }
    _write(folder / f"{name}.json", lambda path: path.write_text(json.dumps(found, indent=1) + "\n"))
    _write(folder / f"{name}.md", lambda path: path.write_text(text))
    print(f"kept as {folder / name}.md and .json")


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """All of the file or nothing."""
    unfinished = path.with_name(path.name + ".tmp")
    write(unfinished)
    unfinished.replace(path)
