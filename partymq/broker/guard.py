"""The process between us and a private node: it sees to it that nothing of the node outlives its parent.

Run as a program of its own (standard library only): `guard.py PLAN`, where PLAN is JSON:
`{"commands": [[...], ...], "remove": path | null}`. It starts the commands in turn; the last one is the node,
the ones before it (epmd) only serve it; what they print goes to the guard's standard error. It prints
`{"pid": ...}` of the node and then waits for

* the node's end: the rest is killed, the guard's exit status tells how the node ended;
* the end of its standard input, which is the parent's end of a pipe: the parent is done with the node, or is
  dead. All is killed, and the folder `remove` goes too if the parent died.

The guard is the reaper of all its descendants, so that also what the node's own children started is found.
Should the guard itself be killed, the kernel kills the commands (parent death signal).
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

_GOODBYE = b"bye"
_CLEANUP_SECONDS = 30.0

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_OPEN_FILES = 65_536


def start(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str], console: int, remove: str | None
) -> "subprocess.Popen[bytes]":
    """A guard as our child, with its plan; what the commands print goes to the descriptor `console`."""
    plan = {"commands": commands, "remove": remove}
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, json.dumps(plan)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=console,
        start_new_session=True,
    )


def pid_of(process: "subprocess.Popen[bytes]", seconds: float) -> int | None:
    """Process id of the node that a guard has started; None where it could not, or not in time."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    line = process.stdout.readline() if ready else b""
    return int(json.loads(line)["pid"]) if line else None


def end(process: "subprocess.Popen[bytes]") -> None:
    """Have a guard end with all that it has started; returns when that is gone."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.write(_GOODBYE)
        process.stdin.flush()
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(_CLEANUP_SECONDS + 5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def main(plan: Mapping[str, object]) -> int:
    """Run the plan to its end; returns the exit status for the guard (128 + number for a signal)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    parent = os.getppid()
    wake = _wake_on_signals()
    commands = plan["commands"]
    assert isinstance(commands, list)
    status: int | None = None
    orphaned = False
    try:
        # Popen objects must live on, or their destructors would reap what `_reap` is to see.
        processes = [_start(command, libc) for command in commands]
        node = processes[-1].pid
        print(json.dumps({"pid": node}), flush=True)
        status, orphaned = _wait(node, parent, wake)
    finally:
        killed = _kill_descendants()
    remove = plan.get("remove")
    if orphaned and isinstance(remove, str):
        shutil.rmtree(remove, ignore_errors=True)
    if status is None:
        status = killed.get(node, 0)
    return status if status >= 0 else 128 - status


def _wake_on_signals() -> int:
    """A descriptor that becomes readable with SIGCHLD and SIGTERM."""
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for noticed in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(noticed, lambda _number, _frame: None)
    return wake_read


def _start(command: Sequence[str], libc: ctypes.CDLL) -> subprocess.Popen[bytes]:
    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # Erlang sizes tables after this limit: neither the 1,024 of a login shell nor a container's billion.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        files = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)

    # The guard has one thread: preexec_fn is safe, and the thread that the death signal is tied to lasts.
    return subprocess.Popen(
        list(command), stdin=subprocess.DEVNULL, stdout=2, start_new_session=True, preexec_fn=in_child
    )


def _wait(node: int, parent: int, wake: int) -> tuple[int | None, bool]:
    """Wait for the node's end or the parent's word; (how the node ended, whether the parent died)."""
    said = b""
    while True:
        ended = _reap()
        if node in ended:
            return ended[node], False
        ready, _, _ = select.select([0, wake], [], [], 1.0)
        if wake in ready and signal.SIGTERM in os.read(wake, 512):
            return None, False
        if 0 in ready:
            got = os.read(0, 512)
            said += got
            if not got:
                return None, said != _GOODBYE
        # A forked child of the parent may keep the pipe open after the parent's death.
        if os.getppid() != parent:
            return None, True


def _reap() -> dict[int, int]:
    """Process ids and exit codes (negative: signal) of the descendants that have ended by now."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended


def _kill_descendants() -> dict[int, int]:
    """Kill all, also those that become ours when their parents end; bounded in time."""
    ended: dict[int, int] = {}
    deadline = time.monotonic() + _CLEANUP_SECONDS
    while time.monotonic() < deadline:
        children = _children(os.getpid())
        if not children:
            break
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        ended.update(_reap())
        time.sleep(0.005)
    return ended


def _children(parent: int) -> list[int]:
    children = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as stat:
                # pid (comm) state ppid ...; comm may hold blanks and brackets.
                if int(stat.read().rpartition(")")[2].split()[1]) == parent:
                    children.append(int(entry))
    return children


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
