"""Processes of `partymq serve`, and their faults."""

import json
import os
import random
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from partymq.broker import PrivateNode
from partymq.broker.ports import free_ports
from partymq.demo.children import Child
from tests.broker.tcp_proxy import BOTH, DOWN, UP
from verify.plug import Plug
from verify.schedule import Schedule
from verify.stage import Stage

_SERVERS: Final = "servers"
"""Whose a fault is."""


class Server:
    """A `partymq serve` whose connections to the broker go through a proxy.

    Args:
        nodes: the broker's.
        management_url: of the broker.
        folder: for its log.
        settings: more environment for it.
        group: the group that it serves.
    """

    def __init__(
        self,
        number: int,
        nodes: Sequence[PrivateNode],
        management_url: str,
        folder: Path,
        settings: dict[str, str],
        group: str = "default",
    ) -> None:
        self.name = f"server-{number}"
        self.proxy = Plug(nodes).start()
        port = free_ports(1, random.Random())[0]
        self.url = f"http://127.0.0.1:{port}"
        self._group = group
        self.log = folder / f"{self.name}.log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PARTYMQ_")}
        self._environment = kept | {
            "PARTYMQ_RABBIT_CS": self.proxy.url + "%2f?heartbeat=2",
            "PARTYMQ_MANAGEMENT_URL": management_url,
            "PARTYMQ_HTTP_HOST": "127.0.0.1",
            "PARTYMQ_HTTP_PORT": str(port),
            **settings,
        }
        self.process: Child | None = None
        self.stopped = False

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.status is None

    def start(self) -> None:
        command = [sys.executable, "-m", "partymq", "serve"]
        self.process = Child(self.name, command, self.log, self._environment)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
        self.process, self.stopped = None, False

    def terminate(self) -> None:
        assert self.process is not None
        self.process.terminate()

    def stop(self) -> None:
        """As if the machine stood still."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        self.stopped = True

    def go_on(self) -> None:
        if self.process is not None and self.stopped:
            os.kill(self.process.pid, signal.SIGCONT)
        self.stopped = False

    def close(self) -> None:
        """Kill it, and end its proxy."""
        self.go_on()
        self.kill()
        self.proxy.close()

    def get(self, path: str) -> Any:
        """The decoded answer; None where there is none, or an error."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=3) as answer:
                text = answer.read().decode()
                return json.loads(text) if "json" in answer.headers.get_content_type() else text
        except (OSError, ValueError):
            return None

    def coordinates(self) -> bool:
        """Whether it is the one that routes now, as it says itself."""
        text = self.get("/metrics") if self.runs and not self.stopped else None
        return text is not None and f'partymq_coordinator{{group="{self._group}"}} 1.0' in text


def failed_servers(servers: list[Server]) -> list[str]:
    """Those that ended otherwise than told."""
    return [
        f"{server.name} ended with {server.process.status}"
        for server in servers
        if server.process is not None and server.process.status not in (None, 0)
    ]


class ServerFaults(Schedule):
    """The faults of servers, for those who have any.

    Args:
        servers: all of them; there may come more.
    """

    def __init__(self, stage: Stage, chooser: random.Random, servers: list[Server]) -> None:
        super().__init__(stage, chooser)
        self.servers = servers

    # Servers ----------------------------------------------------------------------------------------

    def _server(self) -> Server | None:
        """One of those that can be disturbed; the one that routes more often than not."""
        well = [s for s in self.servers if s.runs and not s.stopped and s not in self._busy]
        if not well:
            return None
        active = [server for server in well if server.coordinates()]
        return (
            self._random.choice(active or well) if self._random.random() < 0.7 else self._random.choice(well)
        )

    def _what(self, server: Server) -> str:
        return f"{server.name} ({'active' if server.coordinates() else 'stands by'})"

    def kill_server(self) -> bool:
        server = self._server()
        if server is None:
            return False
        what = self._what(server)
        self._disturbs(_SERVERS)
        server.kill()
        seconds = self._later(0.0, 6.0, server.start, server)
        return self._tell(f"{what} is killed, and started after {seconds:.1f} s")

    def kill_all_servers(self) -> bool:
        if any(not server.runs or server in self._busy for server in self.servers):
            return False
        self._disturbs(_SERVERS)
        for server in self.servers:
            server.kill()
            self._later(0.0, 6.0, server.start, server)
        return self._tell("all servers are killed, and started again")

    def restart_server(self) -> bool:
        server = self._server()
        if server is None:
            return False
        what = self._what(server)
        server.terminate()

        def again() -> None:
            if server.runs:
                self._later(0.2, 0.2, again, server)
            else:
                server.start()

        self._later(0.5, 3.0, again, server)
        return self._tell(f"{what} is restarted in order")

    def stop_server(self) -> bool:
        server = self._server()
        if server is None:
            return False
        what = self._what(server)
        self._disturbs(_SERVERS)
        server.stop()
        seconds = self._later(0.5, 9.0, server.go_on, server)
        return self._tell(f"{what} stands still for {seconds:.1f} s")

    # The network between servers and broker -----------------------------------------------------------

    def cut_server(self) -> bool:
        server = self._server()
        if server is None:
            return False
        self._disturbs(_SERVERS)
        return self._tell(f"{self._what(server)}: {server.proxy.cut()} connections are cut")

    def cut_one_of_server(self) -> bool:
        server = self._server()
        if server is None:
            return False
        number = self._random.randrange(3)
        self._disturbs(_SERVERS)
        server.proxy.cut_one(number)
        return self._tell(f"{self._what(server)}: connection {number} is cut")

    def half_open_server(self) -> bool:
        server = self._server()
        if server is None:
            return False
        direction = self._random.choice((UP, DOWN, BOTH))
        self._disturbs(_SERVERS)
        server.proxy.pause(direction)
        seconds = self._later(0.5, 9.0, server.proxy.resume, server)
        return self._tell(f"{self._what(server)}: nothing goes {direction} for {seconds:.1f} s")
