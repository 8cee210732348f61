"""`python -m bench`: measure, print the tables, and keep them in bench/results. See docs/benchmarks.md."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from bench import forwarding, latency, memory, rebalance, session
from bench.broker import Broker
from bench.candidates import CANDIDATES
from bench.places import place
from bench.plan import FULL, PARTS, QUICK, Plan
from bench.report import markdown
from bench.results import Results
from bench.targets import verdicts


def main(options: argparse.Namespace) -> int:
    """The exit status: 0 where all runs were valid, whatever the figures."""
    results = Results(_plan(options))
    plan = results.plan

    async def measure(broker: Broker, part: str, folder: Path, tell: session.Tell) -> None:
        match part:
            case "forwarding":
                only = frozenset(options.forwarder)
                results.forwarding = await forwarding.measure(broker, plan, folder, tell, only)
            case "latency":
                results.latency = await latency.measure(broker, plan, folder, tell)
            case "memory":
                results.memory = await memory.measure(broker, plan, folder, tell)
            case "rebalance":
                results.rebalance = await rebalance.measure(broker, plan, folder, tell)

    def keep() -> None:
        parts = "" if plan.parts == PARTS else "-" + "-".join(plan.parts)
        suffix = parts + ("-quick" if plan.quick else "")
        text = markdown(results)
        session.keep(results, text, verdicts(results), Path(options.results), suffix)
        if options.docs is not None and not results.invalid:
            options.docs.put(text)

    return session.run(results, plan.parts, measure, keep)


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
    parser.add_argument(
        "--docs",
        metavar="FILE",
        type=place("make bench"),
        help="put the tables into docs/benchmarks.md, too, in place of the figures of this command there",
    )
    parser.add_argument("--results", default=str(session.RESULTS), help="folder for the tables")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("allowed are whole numbers from 1")
    return number


if __name__ == "__main__":
    sys.exit(main(_parse(sys.argv[1:])))
