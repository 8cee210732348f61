"""`python -m bench.pull`: measure pull groups, print the tables, and keep them. See docs/benchmarks.md."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from bench import session
from bench.broker import Broker
from bench.places import place
from bench.pull import consuming, publishing, reactions
from bench.pull.plan import FULL, PARTS, QUICK, Plan
from bench.pull.report import markdown
from bench.pull.results import Results
from bench.pull.targets import verdicts


def main(options: argparse.Namespace) -> int:
    """The exit status: 0 where all runs were valid, whatever the figures."""
    results = Results(_plan(options))
    plan = results.plan

    async def measure(broker: Broker, part: str, folder: Path, tell: session.Tell) -> None:
        match part:
            case "consume":
                results.costs = await consuming.costs(broker, plan, folder, tell)
            case "group":
                results.rounds = await consuming.rounds(broker, plan, folder, tell)
            case "join":
                results.joins = await reactions.joins(broker, plan, folder, tell)
            case "death":
                results.kills = await reactions.kills(broker, plan, folder, tell)
                results.stops = await reactions.stops(broker, plan, folder, tell)
            case "restart":
                results.restarts = await reactions.restarts(broker, plan, folder, tell)
            case "publish":
                results.rates = await publishing.measure(broker, plan, tell)

    def keep() -> None:
        parts = "" if plan.parts == PARTS else "-" + "-".join(plan.parts)
        suffix = f"-pull{parts}" + ("-quick" if plan.quick else "")
        text = markdown(results)
        session.keep(results, text, verdicts(results), Path(options.results), suffix)
        if options.docs is not None and not results.invalid:
            options.docs.put(text)

    return session.run(results, plan.parts, measure, keep)


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else FULL
    return replace(plan, parts=tuple(part for part in PARTS if part in options.only) or PARTS)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.pull",
        description="Measure what pull groups cost and how fast they react, beside plain consumers.",
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run; its figures say little")
    parser.add_argument(
        "--only", action="append", choices=PARTS, default=[], help="measure this part (may be repeated)"
    )
    parser.add_argument(
        "--docs",
        metavar="FILE",
        type=place("make bench-consume"),
        help="put the tables into docs/benchmarks.md, too, in place of the figures of this command there",
    )
    parser.add_argument("--results", default=str(session.RESULTS), help="folder for the tables")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(_parse(sys.argv[1:])))
