"""The command line of every kind of run: exit status 0 only if every promise was kept for every message."""

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from verify.course import Outcome, Plan

Log = Callable[[str], None]
Run = Callable[[Plan, argparse.Namespace, Path, Log], Outcome]
"""By a plan and all options; logs and notes go into the folder."""


def parser(module: str, about: str, *, pause: float) -> argparse.ArgumentParser:
    """What can be said of every run; add what is special."""
    options = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    options.add_argument("--seconds", type=float, default=600.0, help="of disturbance (default: 600)")
    options.add_argument("--seed", type=int, help="the same faults again (their moments differ a little)")
    options.add_argument(
        "--pause",
        type=float,
        default=pause,
        help="seconds between two faults, on average (default: %(default)g)",
    )
    options.add_argument("--rate", type=float, default=250.0, help="messages a second (default: 250)")
    options.add_argument("--planned", action="store_true", help="scaling and orderly restarts only")
    options.add_argument(
        "--keep", type=Path, help="folder for logs and notes; else they stay only on failure"
    )
    return options


def main(command: argparse.ArgumentParser, run: Run, arguments: list[str]) -> int:
    """Does a run, and tells of it."""
    options = command.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    plan = Plan(options.seconds, seed, options.pause, options.rate, options.planned)
    folder: Path = options.keep or Path(tempfile.mkdtemp(prefix="partymq-verify-"))
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        command.error(f"{folder} is not empty: notes of an earlier run would be taken for this one's")
    began = time.monotonic()

    def log(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} ({time.monotonic():.3f}) {text}", flush=True)

    log(f"seed {seed}; logs and notes are in {folder}")
    outcome = run(plan, options, folder.absolute(), log)
    print(outcome)
    if not outcome.held:
        again = [argument for argument in arguments if not argument.startswith(("--seed=", "--keep="))]
        print(f"again: {' '.join([command.prog, f'--seed={seed}', *again])}; logs and notes are in {folder}")
        return 1
    if options.keep is None:
        shutil.rmtree(folder)
    return 0
