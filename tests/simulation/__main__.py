"""Play schedules from the command line, and tell the story of one that failed."""

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable

from partymq.log import LOGGER
from tests.simulation.course import Result, random_seeds
from tests.simulation.pull_schedule import play_pull
from tests.simulation.router_core import CoreRouter
from tests.simulation.router_model import RouterModel
from tests.simulation.schedule import Parts, play

Play = Callable[[int, bool], Result]
"""Plays the schedule of a seed, and tells its story."""


def main() -> int:
    """0: all promises kept; 1: a seed is printed that breaks one."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--mode", choices=("push", "pull", "both"), default="both", help="of the groups")
    parser.add_argument("--seed", type=int, help="play this one only")
    parser.add_argument("--first", type=int, help="play seeds from this one on, instead of random ones")
    parser.add_argument("--schedules", type=int, default=1_000_000, help="play so many at most")
    parser.add_argument("--seconds", type=float, default=60.0, help="play for so long at most, in all")
    parser.add_argument("--verbose", action="store_true", help="tell the story, whatever the end")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    parser.add_argument("--model", action="store_true", help="a model of the router instead of the real core")
    parser.add_argument("--scrambled", action="store_true", help="confirms of one queue come in any order")
    arguments = parser.parse_args()
    parts = Parts(router=RouterModel if arguments.model else CoreRouter, scrambled=arguments.scrambled)
    modes: dict[str, Play] = {
        "push": lambda seed, telling: play(seed, parts, telling=telling),
        "pull": lambda seed, telling: play_pull(seed, telling=telling),
    }
    # What real coordinators log is in the story already.
    logging.getLogger(LOGGER).setLevel(logging.CRITICAL)
    chosen = {mode: modes[mode] for mode in modes if arguments.mode in (mode, "both")}
    if arguments.seed is not None:
        return max([_tell(play_it, arguments.seed, arguments.verbose) for play_it in chosen.values()])
    return max([_play_many(mode, play_it, arguments, len(chosen)) for mode, play_it in chosen.items()])


def _tell(play_it: Play, seed: int, verbose: bool) -> int:
    result = play_it(seed, True)
    if verbose or result.failure is not None or result.gaps:
        print("\n".join(result.story))
    print(_verdict(result))
    return int(result.failure is not None)


def _play_many(mode: str, play_it: Play, arguments: argparse.Namespace, modes: int) -> int:
    began = time.perf_counter()
    played = messages = repeats = gaps = 0
    failures: list[Result] = []
    effects: Counter[str] = Counter()
    base = arguments.first if arguments.first is not None else random_seeds(1)[0]
    while played < arguments.schedules and time.perf_counter() - began < arguments.seconds / modes:
        result = play_it(base + played, False)
        played += 1
        messages += result.messages
        repeats += result.repeats
        effects += result.effects
        gaps += bool(result.gaps)
        if result.failure is not None or result.gaps:
            print(_verdict(result), flush=True)
        if result.failure is not None:
            failures.append(result)
            if not arguments.keep_going:
                break
    elapsed = time.perf_counter() - began
    print(
        f"{mode}: {played} schedules from seed {base} in {elapsed:.1f} s ({played / elapsed:.0f}/s),"
        f" {messages} messages begun, {repeats} of them again: {len(failures)} failures,"
        f" {gaps} with a gap in what came again"
    )
    print(", ".join(f"{name} {count}" for name, count in effects.most_common()))
    if failures:
        print(f"\nthe story: python -m tests.simulation --mode {mode} --seed {failures[0].seed}")
    return int(bool(failures))


def _verdict(result: Result) -> str:
    gaps = "".join(f"; a gap: {gap}" for gap in result.gaps)
    if result.failure is None:
        return f"seed {result.seed}: well after {result.seconds:.1f} s ({result.steps} steps){gaps}"
    return f"seed {result.seed}: {result.failure}{gaps}"


if __name__ == "__main__":
    sys.exit(main())
