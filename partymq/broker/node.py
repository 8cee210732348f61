"""`PrivateNode`: start, kill, restart, ask and end a RabbitMQ node of one's own."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from partymq.broker import guard, probe
from partymq.broker.aside import Startable, aside
from partymq.broker.install import Installation, find_installation
from partymq.broker.place import Place
from partymq.broker.ports import free_ports, is_free
from partymq.broker.settings import NodeFiles, node_environment
from partymq.errors import NodeError

DEFAULT_PLUGINS = ("rabbitmq_management",)

_START_SECONDS = 120.0
_STOP_SECONDS = 20.0
_PORT_TAKEN = ("eaddrinuse", "dist_port_already_used")
_PORT_TRIES = 3


class PrivateNode(Startable):
    """A RabbitMQ node that is ours alone: own data, ports, cookie and epmd, on the loopback address only.

    Between `start()` and `close()` it is a child of this process and ends with it, even if this process is
    killed. Use it as a context manager, sync or async; one thread at a time may call the methods that start
    and end it.

    Attributes:
        data_dir: everything of the node: database, logs, configuration, cookie.
        port, management_port, dist_port, epmd_port: kept over restarts. `management_port` is there, but
            closed, when the plugin is not enabled.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        plugins: tuple[str, ...] = DEFAULT_PLUGINS,
        config: Mapping[str, str] | None = None,
        port: int | None = None,
        management_port: int | None = None,
        start_timeout: float = _START_SECONDS,
        place: Place | None = None,
    ) -> None:
        """Nothing is started or written yet.

        Args:
            data_dir: kept after `close()`, and may come from an earlier node. None: a temporary folder that
                `close()` removes.
            plugins: names of the plugins to enable (those they need are enabled too).
            config: more lines of rabbitmq.conf, as key and value; they win over ours.
            port, management_port: None: free ones.
            start_timeout: seconds that a start may take before it is given up.
            place: in a cluster; see `PrivateCluster`.
        """
        self._keep_data = data_dir is not None
        self._given_dir = None if data_dir is None else Path(data_dir).absolute()
        self._files: NodeFiles | None = None
        self._plugins = tuple(plugins)
        self._config = dict(config or {})
        self._given_ports = (port, management_port)
        self._ports: tuple[int, int, int, int] | None = None
        self._chooser = random.Random()
        self._start_timeout = start_timeout
        self._place = place
        self._installation: Installation | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._given_up = threading.Event()

    def __repr__(self) -> str:
        state = f"pid={self._pid} port={self.port}" if self.running else "not running"
        return f"<PrivateNode {state} data_dir={self._files.root if self._files else self._given_dir}>"

    @property
    def name(self) -> str:
        """Of the Erlang node; it belongs to the data."""
        return self._need_files().name()

    @property
    def data_dir(self) -> Path:
        return self._need_files().root

    @property
    def log_file(self) -> Path:
        """The broker's own log."""
        return self._need_files().log_file

    @property
    def port(self) -> int:
        return self._need_ports()[0]

    @property
    def management_port(self) -> int:
        return self._need_ports()[1]

    @property
    def dist_port(self) -> int:
        return self._need_ports()[2]

    @property
    def epmd_port(self) -> int:
        return self._need_ports()[3]

    @property
    def amqp_url(self) -> str:
        """With the default user and the default vhost."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def management_url(self) -> str:
        """With the default user's name and password, without a slash at the end."""
        return f"http://guest:guest@127.0.0.1:{self.management_port}"

    @property
    def running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    @property
    def pid(self) -> int:
        """Of the Erlang VM (`beam.smp`).

        Raises:
            NodeError: when the node is not running.
        """
        if not self.running:
            raise NodeError(f"{self!r} is not running")
        return self._pid

    def start(self) -> None:
        """Start the node and wait until it answers on its AMQP port (and the management port, when enabled).

        Raises:
            BrokerNotInstalled: with how to get it.
            NodeError: it ended or did not answer in time; the message has what its logs say. Nothing is left
                running.
        """
        if self.running:
            raise NodeError(f"{self!r} runs already")
        self._given_up.clear()
        self._installation = find_installation()
        tries = _PORT_TRIES if self._ports is None else 1
        for last in reversed(range(tries)):
            self._choose_ports()
            try:
                self._start_once()
            except NodeError:
                self.kill()
                if not last or not self._port_was_taken():
                    raise
                self._ports = None
            except BaseException:
                self.kill()
                raise
            else:
                return

    def stop(self, timeout: float = _STOP_SECONDS) -> None:
        """End the node in an orderly way; what has not ended in `timeout` seconds is killed. The data stays.

        Does nothing when it is not running.
        """
        if self._guard is None:
            return
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guard.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """End the node at once, as a crash would (SIGKILL); returns when it is gone. The data stays."""
        if self._guard is not None:
            if self.running and self._pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)
            guard.end(self._guard)
            self._guard = None
            self._pid = 0
        if self._files is not None:
            self._files.unlock()

    def freeze(self) -> None:
        """Have the node stand still (SIGSTOP) until `thaw()`, as a machine does that hangs."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Have the node go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """`stop()` (unless it is down already) and `start()` on the same data and ports."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End the node for good. Temporary data goes with it; a given folder is left in order (`stop()`)."""
        if self._keep_data:
            self.stop()
        else:
            self.kill()
            if self._files is not None:
                shutil.rmtree(self._files.root, ignore_errors=True)
                self._files = None

    def ctl(self, *arguments: str, timeout: float = 60.0) -> str:
        """What `rabbitmqctl ARGUMENTS` printed for this node.

        It starts an Erlang VM (0.5–2 s). Blocks.

        Raises:
            NodeError: it failed (with its words) or took more than `timeout` seconds.
        """
        installation = self._installation or find_installation()
        command = [str(installation.ctl), "--quiet", "--node", self.name, *arguments]
        said = f"rabbitmqctl {' '.join(arguments)}"
        try:
            done = subprocess.run(
                command,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise NodeError(f"{said}: no end after {timeout:g} s") from None
        if done.returncode:
            words = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise NodeError(f"{said}: exit status {done.returncode}: {words}")
        return done.stdout.decode(errors="replace")

    def sync_metadata(self) -> None:
        """Have the broker write to disk what has been declared so far; blocks for about a second.

        A broker (3.x, with Mnesia) killed within two seconds may have forgotten a durable queue that it had
        confirmed, with all in it: 1 of 10 kills soon after the first start. Call this before `kill()`.
        """
        self.ctl("eval", "mnesia:sync_log().")

    def cpu_seconds(self) -> float:
        """CPU time, user and system, that the running Erlang VM has used since its start, in seconds.

        Raises:
            NodeError: when the node is not running.
        """
        return probe.cpu_seconds(self.pid)

    def give_up(self) -> None:
        """Have a start that is under way in another thread fail soon."""
        self._given_up.set()

    async def stop_async(self, timeout: float = _STOP_SECONDS) -> None:
        await aside(lambda: self.stop(timeout))

    async def kill_async(self) -> None:
        await aside(self.kill)

    async def restart_async(self) -> None:
        await aside(self.restart, self.give_up)

    async def ctl_async(self, *arguments: str, timeout: float = 60.0) -> str:
        return await asyncio.to_thread(self.ctl, *arguments, timeout=timeout)

    def _start_once(self) -> None:
        assert self._installation is not None
        if self._files is None:
            self._files = NodeFiles(self._given_dir or Path(tempfile.mkdtemp(prefix="partymq-node-")))
            self._files.name(self._place.name if self._place else None)
        if not self._files.lock():
            raise NodeError(f"{self._files.root} is used by another node")
        place = self._place
        config = self._config if place is None else place.config() | self._config
        self._files.write(self._plugins, config, self.management_port, place.cookie if place else None)
        commands = [[str(self._installation.server)]]
        if place is None:
            commands.insert(0, self._installation.epmd_command(self.epmd_port))
        remove = None if self._keep_data else str(self._files.root)
        with self._files.console.open("wb") as console:
            self._guard = guard.start(commands, self._environment(), console.fileno(), remove)
        deadline = time.monotonic() + self._start_timeout
        self._pid = self._read_pid(deadline)
        self._wait_for("AMQP", deadline, lambda: probe.speaks_amqp(self.port))
        self._pid = self._files.written_pid() or self._pid
        if "rabbitmq_management" in self._plugins:
            self._wait_for("management", deadline, lambda: probe.management_answers(self.management_port))

    def _read_pid(self, deadline: float) -> int:
        assert self._guard is not None
        pid = guard.pid_of(self._guard, deadline - time.monotonic())
        if pid is None:
            raise NodeError(f"the node {self.name} could not be started{self._complaints()}")
        return pid

    def _wait_for(self, what: str, deadline: float, answers: Callable[[], bool]) -> None:
        assert self._guard is not None
        while not answers():
            if self._guard.poll() is not None:
                raise NodeError(
                    f"the node {self.name} ended while it started (exit status {self._guard.returncode})"
                    f"{self._complaints()}"
                )
            if time.monotonic() >= deadline:
                raise NodeError(
                    f"the node {self.name} did not answer on its {what} port within "
                    f"{self._start_timeout:g} s{self._complaints()}"
                )
            if self._given_up.wait(0.05):
                raise NodeError(f"the start of the node {self.name} was given up")

    def _choose_ports(self) -> None:
        if self._ports is not None:
            return
        port, management_port = self._given_ports
        for given in (port, management_port):
            if given is not None and not is_free(given):
                raise NodeError(f"port {given} is taken by another program")
        first, second, dist_port, epmd_port = free_ports(4, self._chooser)
        if self._place is not None:
            epmd_port = self._place.epmd_port
        self._ports = (port or first, management_port or second, dist_port, epmd_port)

    def _port_was_taken(self) -> bool:
        complaints = self._complaints()
        return any(words in complaints for words in _PORT_TAKEN)

    def _complaints(self) -> str:
        lines = self._files.complaints() if self._files is not None else []
        return "; its logs say:\n" + "\n".join(lines) if lines else ""

    def _environment(self) -> dict[str, str]:
        return node_environment(
            self._need_files(),
            self.name,
            port=self.port,
            dist_port=self.dist_port,
            epmd_port=self.epmd_port,
            erlang_arguments=self._place.erlang_arguments if self._place is not None else "",
        )

    def _need_files(self) -> NodeFiles:
        if self._files is None:
            raise NodeError("the node has not been started")
        return self._files

    def _need_ports(self) -> tuple[int, int, int, int]:
        if self._ports is None:
            raise NodeError("the node has not been started: it has no ports yet")
        return self._ports
