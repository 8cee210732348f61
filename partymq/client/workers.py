"""Consumers that a command runs: found by name, in one or several processes, started anew as files change."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Final

from partymq.client.consumer import LOADING, Consumer
from partymq.errors import ConfigError
from partymq.log import get_logger

_TICK: Final = 0.1
_LOOK: Final = 0.5
"""Seconds between two looks at the files."""
_RESTART_AFTER: Final = 1.0
_PR_SET_PDEATHSIG: Final = 1
_IGNORED: Final = frozenset({"__pycache__", "node_modules", "site-packages"})
_LIBC: Final = ctypes.CDLL(None, use_errno=True)

_log = get_logger(__name__)


def load_consumer(target: str) -> Consumer:
    """The consumer `module:name`; `name` is `consumer` where it is left out. The working directory is
    searched first, as with `python -m`.

    Raises ConfigError where there is none, or the module runs it itself; what the module raises goes through.
    """
    module_name, _, name = target.partition(":")
    name = name or "consumer"
    _check_module(target, module_name)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    loading = LOADING.set(target)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(f"{target}: there is no module {error.name} (searched in {here} first)") from error
    finally:
        LOADING.reset(loading)
    consumer = getattr(module, name, None)
    if not isinstance(consumer, Consumer):
        found = "nothing" if consumer is None else type(consumer).__name__
        others = [other for other, value in vars(module).items() if isinstance(value, Consumer)]
        known = f"; there are {', '.join(f'{module_name}:{other}' for other in others)}" if others else ""
        raise ConfigError(f"{target}: {name} has to be a partymq.Consumer, there is {found}{known}")
    return consumer


def _check_module(target: str, module_name: str) -> None:
    if "/" in module_name or module_name.endswith(".py"):
        path = Path(module_name).with_suffix("")
        below_here = not path.is_absolute() and ".." not in path.parts
        meant = (".".join(path.parts) if below_here else path.name) + target.removeprefix(module_name)
        raise ConfigError(f"{target} is a file: name the module, {meant}")
    if not module_name or module_name.startswith("."):
        raise ConfigError(f"{target!r}: allowed are MODULE and MODULE:NAME")


class Workers:
    """Runs commands, each in a process, until it is told to stop; then has them stop, and waits for them.

    One that was killed is started again. One that ends by itself ends the others too; while files are
    watched, it is started again at the next change.

    Args:
        commands: one for each process, which has it again when it is started again; SIGTERM stops it in good
            order.
        watched: the folder whose Python files are watched; None: nothing is.
    """

    def __init__(self, commands: Sequence[Sequence[str]], watched: Path | None = None) -> None:
        self._commands = commands
        self._watched = watched
        self._running: list[subprocess.Popen[bytes] | None] = [None] * len(commands)
        self._again_at = [0.0] * len(commands)
        self._stopping = False
        self._status = 0

    def run(self) -> int:
        """Blocks. Returns 0 when it was told to stop and all ended well, otherwise the exit status of one
        that did not. Call it in the main thread."""
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(number, self._told) for number in numbers]
        try:
            self._watch_over()
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)
        return self._status

    def _told(self, _number: int, _frame: FrameType | None) -> None:
        # A second signal goes through too: a consumer then cancels its handlers.
        self._stopping = True
        self._terminate()

    def _terminate(self) -> None:
        for process in self._running:
            if process is not None and process.poll() is None:
                process.terminate()

    def _watch_over(self) -> None:
        seen = self._files()
        looked = time.monotonic()
        while True:
            now = time.monotonic()
            if not self._stopping:
                self._start_missing(now)
            time.sleep(_TICK)
            self._reap()
            if self._stopping and not any(self._running):
                return
            if self._watched is not None and not self._stopping and now >= looked + _LOOK:
                looked, files = now, self._files()
                if files != seen:
                    seen = files
                    _log.info("files have changed; starting anew")
                    self._restart()

    def _start_missing(self, now: float) -> None:
        for number, process in enumerate(self._running):
            if process is None and now >= self._again_at[number] and not self._stopping:
                started = self._running[number] = self._start(self._commands[number])
                if self._stopping:  # The signal came while it was started.
                    started.terminate()

    @staticmethod
    def _start(command: Sequence[str]) -> "subprocess.Popen[bytes]":
        parent = os.getpid()

        def tie_to_parent() -> None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

        # A session of its own: Ctrl-C reaches it through us, once.
        return subprocess.Popen(command, start_new_session=True, preexec_fn=tie_to_parent)

    def _reap(self) -> None:
        for number, process in enumerate(self._running):
            status = None if process is None else process.poll()
            if process is None or status is None:
                continue
            self._running[number] = None
            if self._stopping:
                self._status = self._status or _as_exit_status(status)
            elif status < 0:
                _log.warning("a worker was killed; starting it again", pid=process.pid, signal=-status)
                self._again_at[number] = time.monotonic() + _RESTART_AFTER
            elif self._watched is not None:
                _log.warning("a worker ended; it starts again when a file changes", status=status)
                self._again_at[number] = float("inf")
            else:
                _log.warning("a worker ended by itself; ending the others", pid=process.pid, status=status)
                self._status = status
                self._stopping = True
                self._terminate()

    def _restart(self) -> None:
        self._terminate()
        for process in self._running:
            if process is not None:
                process.wait()
        self._running = [None] * len(self._running)
        self._again_at = [0.0] * len(self._running)

    def _files(self) -> dict[str, int]:
        """The Python files watched, and when they were changed (ns)."""
        found: dict[str, int] = {}
        for folder, names, files in os.walk(self._watched) if self._watched is not None else ():
            names[:] = [name for name in names if name not in _IGNORED and not name.startswith(".")]
            for file in files:
                if file.endswith(".py"):
                    path = os.path.join(folder, file)
                    try:
                        found[path] = os.stat(path).st_mtime_ns
                    except OSError:
                        continue
        return found


def _as_exit_status(status: int) -> int:
    return 128 - status if status < 0 else status
