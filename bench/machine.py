"""The facts without which figures mean nothing: machine, versions, commit, how busy it was."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_PACKAGES = ("partymq", "uvloop", "pamqp", "msgspec", "aio-pika", "aiormq", "pika")


def facts(overview: dict[str, Any]) -> dict[str, str]:
    """Facts by name. `overview`: what the broker's management API answers to /api/overview."""
    found = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "processor": f"{os.cpu_count()} × {_processor()}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "load before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "RabbitMQ": f"{overview['rabbitmq_version']} on Erlang {overview['erlang_version']}, `+sbwt none`",
        "Python": sys.version.split()[0],
    }
    return found | {name: version(name) for name in _PACKAGES}


def commit() -> str:
    """The commit that this tree is at, with `+changes` where the tree has some; `unknown` outside of git."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "partymq", "bench")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
