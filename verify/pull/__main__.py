"""`python -m verify.pull`: exit status 0 only if every promise was kept for every message."""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from verify.pull.run import PullPlan, pull_summary, run_pull


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m verify.pull", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of disturbance (default: 600)")
    parser.add_argument("--seed", type=int, help="the same faults again (their moments differ a little)")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two faults, on average")
    parser.add_argument("--rate", type=float, default=250.0, help="messages a second")
    parser.add_argument("--planned", action="store_true", help="scaling and orderly restarts only")
    parser.add_argument("--queue-type", choices=("quorum", "classic"), help="else the seed decides")
    parser.add_argument("--keep", type=Path, help="folder for logs and notes; else they stay only on failure")
    options = parser.parse_args(arguments)

    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    plan = PullPlan(options.seconds, seed, options.pause, options.rate, options.planned, options.queue_type)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="partymq-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        parser.error(f"{folder} is not empty: notes of an earlier run would be taken for this one's")
    began = time.monotonic()

    def log(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} ({time.monotonic():.3f}) {text}", flush=True)

    log(f"seed {seed}; logs, notes and histories are in {folder}")
    outcome = run_pull(plan, folder.absolute(), log)
    print(pull_summary(plan, outcome))
    if not outcome.held:
        print(f"again: {_again(arguments, seed)}; logs, notes and histories are in {folder}")
        return 1
    if options.keep is None:
        shutil.rmtree(folder)
    return 0


def _again(arguments: list[str], seed: int) -> str:
    others = [argument for argument in arguments if not argument.startswith("--seed=")]
    return " ".join(["python -m verify.pull", f"--seed={seed}", *others])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
