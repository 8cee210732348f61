"""`python -m bench`: measure, print the tables, and keep them in bench/results. See docs/benchmarks.md."""

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from bench import forwarding, latency, memory, rebalance
from bench.broker import PLUGINS, Broker
from bench.candidates import CANDIDATES
from bench.machine import facts
from bench.plan import FULL, PARTS, QUICK, Plan
from bench.report import markdown
from bench.results import Results
from bench.targets import verdicts
from partymq.broker import PrivateNode
from partymq.errors import PartyMQError

RESULTS = Path(__file__).parent / "results"
_INVALID, _INTERRUPTED = 1, 130


def main(options: argparse.Namespace) -> int:
    """The exit status: 0 where all runs were valid, whatever the figures."""
    folder = Path(tempfile.mkdtemp(prefix="partymq-bench-"))
    results = Results(_plan(options))
    try:
        with (
            PrivateNode(plugins=PLUGINS) as node,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(_measure(node, results, frozenset(options.forwarder), folder))
    except (KeyboardInterrupt, asyncio.CancelledError) as interruption:
        by = "SIGINT" if isinstance(interruption, KeyboardInterrupt) else interruption
        print(f"interrupted: {by}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        return _INTERRUPTED
    except PartyMQError as error:
        print(f"bench: {error}", file=sys.stderr)
        return _INVALID
    _keep(results, Path(options.results))
    if results.invalid:
        print(f"not all runs were valid; logs are in {folder}", file=sys.stderr)
        return _INVALID
    shutil.rmtree(folder, ignore_errors=True)
    return 0


async def _measure(node: PrivateNode, results: Results, forwarders: frozenset[str], folder: Path) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel, "SIGTERM")
    began = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)

    plan = results.plan
    async with Broker(node) as broker:
        results.facts = facts(await broker.ask("GET", "overview"))
        await broker.calm()
        for part in plan.parts:
            try:
                match part:
                    case "forwarding":
                        results.forwarding = await forwarding.measure(broker, plan, folder, tell, forwarders)
                    case "latency":
                        results.latency = await latency.measure(broker, plan, folder, tell)
                    case "memory":
                        results.memory = await memory.measure(broker, plan, folder, tell)
                    case "rebalance":
                        results.rebalance = await rebalance.measure(broker, plan, folder, tell)
            except PartyMQError as error:
                results.invalid[part] = str(error)
                tell(f"{part}: {error}")
    results.seconds = time.monotonic() - began


def _keep(results: Results, folder: Path) -> None:
    """Print the tables, and write them and every measurement to files of one name."""
    text = markdown(results)
    print(f"\n{text}")
    folder.mkdir(parents=True, exist_ok=True)
    parts = "" if results.plan.parts == PARTS else "-" + "-".join(results.plan.parts)
    quick = "-quick" if results.plan.quick else ""
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{results.facts['commit']}{parts}{quick}"
    found = results.as_json() | {
        "targets": [
            {"what": one.what, "target": one.target, "measured": one.measured, "reached": one.reached}
            for one in verdicts(results)
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


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else FULL
    return replace(
        plan,
        parts=tuple(part for part in PARTS if part in options.only) or PARTS,
        repeat=options.repeat or plan.repeat,
        messages=options.messages or plan.messages,
        slow_messages=min(plan.slow_messages, options.messages or plan.slow_messages),
    )


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure what PartyMQ costs, beside other ways to do the same job.",
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run; its figures say little")
    parser.add_argument(
        "--only", action="append", choices=PARTS, default=[], help="measure this part (may be repeated)"
    )
    parser.add_argument("--repeat", type=_positive, help=f"runs of each forwarder ({FULL.repeat})")
    parser.add_argument(
        "--messages", type=_positive, help=f"messages of a fast one's run ({FULL.messages:,})"
    )
    parser.add_argument(
        "--forwarder",
        action="append",
        choices=[candidate.name for candidate in CANDIDATES],
        default=[],
        help="only this one (may be repeated)",
    )
    parser.add_argument("--results", default=str(RESULTS), help="folder for the tables")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("allowed are whole numbers from 1")
    return number


if __name__ == "__main__":
    sys.exit(main(_parse(sys.argv[1:])))
