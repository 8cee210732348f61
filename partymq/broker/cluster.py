"""`PrivateCluster`: several nodes of one's own that are one broker."""

import contextlib
import os
import random
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from partymq.broker import guard
from partymq.broker.aside import Startable
from partymq.broker.install import find_installation
from partymq.broker.node import PrivateNode
from partymq.broker.place import Place
from partymq.broker.ports import free_ports
from partymq.broker.settings import new_name
from partymq.errors import NodeError

_EPMD_SECONDS: Final = 60.0
_START_SECONDS: Final = 180.0
_SIGHT_SECONDS: Final = 30.0


class PrivateCluster(Startable):
    """A RabbitMQ cluster that is ours alone, on the loopback address, with `pause_minority`.

    Its nodes are those of `PrivateNode`; they are started together, and each may be killed, frozen and
    restarted by itself. `close()` removes all their data.

    Attributes:
        nodes: each with its own `amqp_url`; there before the start, too.
    """

    def __init__(
        self,
        size: int = 3,
        *,
        plugins: tuple[str, ...] = (),
        config: Mapping[str, str] | None = None,
        net_ticktime: int | None = None,
        start_timeout: float = _START_SECONDS,
    ) -> None:
        """Nothing is started or written yet.

        Args:
            plugins, config: of each node.
            net_ticktime: seconds after which a silent node is gone for the others, give or take a quarter;
                None: Erlang's 60.
            start_timeout: seconds that the start of a node may take.
        """
        self._epmd_port = free_ports(1, random.Random())[0]
        self._epmd: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        names = tuple(new_name() for _ in range(size))
        cookie = secrets.token_hex(16)
        self.nodes = [
            PrivateNode(
                plugins=plugins,
                config=config,
                start_timeout=start_timeout,
                place=Place(name, names, self._epmd_port, cookie, net_ticktime),
            )
            for name in names
        ]

    def __repr__(self) -> str:
        return f"<PrivateCluster of {self.nodes!r}>"

    @property
    def amqp_url(self) -> str:
        """With the addresses of all nodes, the default user and the default vhost."""
        return f"amqp://guest:guest@{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}/"

    def start(self) -> None:
        """Start all nodes, and wait until they answer and are one cluster.

        Raises:
            BrokerNotInstalled, NodeError: as a node's start does. Nothing is left running then.
        """
        try:
            self._start_epmd()
            with ThreadPoolExecutor(len(self.nodes)) as threads:
                for started in [threads.submit(node.start) for node in self.nodes]:
                    started.result()
            deadline = time.monotonic() + _SIGHT_SECONDS
            while (running := self._in_sight()) != len(self.nodes):
                if time.monotonic() > deadline:
                    raise NodeError(f"{self!r}: only {running} of them form a cluster")
                time.sleep(0.2)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all nodes for good; their data goes with them."""
        with ThreadPoolExecutor(len(self.nodes)) as threads:
            for closed in [threads.submit(node.close) for node in self.nodes]:
                closed.result()
        if self._epmd is not None:
            guard.end(self._epmd)
            self._epmd = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def give_up(self) -> None:
        """Have a start that is under way in another thread fail soon."""
        for node in self.nodes:
            node.give_up()

    def _in_sight(self) -> int:
        """How many nodes run, as the first one sees it: it may see one that answers a moment later."""
        return int(self.nodes[0].ctl("eval", "length(rabbit_nodes:all_running())."))

    def _start_epmd(self) -> None:
        if self._epmd is not None:
            raise NodeError(f"{self!r} runs already")
        self._folder = Path(tempfile.mkdtemp(prefix="partymq-cluster-"))
        command = find_installation().epmd_command(self._epmd_port)
        with (self._folder / "epmd.log").open("wb") as said:
            self._epmd = guard.start([command], dict(os.environ), said.fileno(), str(self._folder))
        if guard.pid_of(self._epmd, _EPMD_SECONDS) is None:
            words = ""
            with contextlib.suppress(OSError):
                words = (self._folder / "epmd.log").read_text(errors="replace").strip()
            raise NodeError(f"Erlang's port mapper could not be started: {words}")
