"""What the kernel says of processes and of the machine."""

import os
from pathlib import Path

from partymq.broker.probe import cpu_seconds

__all__ = ["cpu_seconds", "machine_busy_seconds", "peak_rss", "rss"]


def rss(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    return _status(pid, "VmRSS")


def peak_rss(pid: int) -> int:
    """The most resident memory that a process has had, in bytes."""
    return _status(pid, "VmHWM")


def machine_busy_seconds() -> float:
    """CPU seconds that anybody has used on this machine (or that its host has taken away) since its start."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = (
        int(ticks) for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{pid}/status has no {name}")
