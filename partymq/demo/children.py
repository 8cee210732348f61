"""Processes that the demo starts: each with a log file, and none outlives the demo."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LOG_LINES = 20
_LIBC = ctypes.CDLL(None, use_errno=True)


class Child:
    """A process in a session of its own, so that Ctrl-C in a terminal reaches only the demo, which ends it.

    The kernel kills it should the demo itself be killed. Start it from the main thread, and only while that
    is the only one: the death signal hangs on the thread, and code runs between fork and exec.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Starts it.

        Raises:
            OSError: it can't be started.
        """
        self.name = name
        self.log = log
        parent = os.getpid()

        def tie_to_parent() -> None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

        with log.open("ab") as output:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
                preexec_fn=tie_to_parent,
            )

    def __repr__(self) -> str:
        return f"<Child {self.name} pid={self._process.pid} status={self.status}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status; negative: the signal that ended it; None: it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> tuple[int, int]:
        """SIGKILL; returns CLOCK_MONOTONIC (ns) before the signal and after the end was seen."""
        before = time.monotonic_ns()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        return before, time.monotonic_ns()

    def stop(self, timeout: float) -> None:
        """Ask it to end, kill it after `timeout` seconds."""
        self.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def last_words(self) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            return "\n".join(lines)
        return ""
