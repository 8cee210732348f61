"""What runs: a broker, two servers behind a proxy each, members, a publisher."""

import json
import os
import random
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from partymq.broker import PrivateNode
from partymq.broker.ports import free_ports
from partymq.demo.children import Child
from tests.broker.tcp_proxy import TcpProxy
from verify.stage import Pod, Stage

SOURCE = "partymq.q.source"
EXCHANGE = "partymq.ex.write"
COMMANDS = "partymq.default.q.coordinator"
_HERE = Path(__file__).parent


class Server:
    """A `partymq serve` whose connections to the broker go through a proxy."""

    def __init__(
        self,
        number: int,
        node: PrivateNode,
        management: TcpProxy,
        folder: Path,
        settings: dict[str, str],
    ) -> None:
        self.name = f"server-{number}"
        self.proxy = TcpProxy("127.0.0.1", node.port).start()
        port = free_ports(1, random.Random())[0]
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / f"{self.name}.log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PARTYMQ_")}
        self._environment = kept | {
            "PARTYMQ_RABBIT_CS": self.proxy.url(node.amqp_url) + "%2f?heartbeat=2",
            "PARTYMQ_MANAGEMENT_URL": management.url(node.management_url),
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
        return text is not None and 'partymq_coordinator{group="default"} 1.0' in text


def member_command(name: str, amqp_url: str, urls: Iterable[str], *options: str) -> list[str]:
    """How a member's process is started. `urls`: of the servers."""
    apis = [f"--api={url}" for url in urls]
    return [sys.executable, str(_HERE / "member.py"), f"--name={name}", f"--amqp={amqp_url}", *apis, *options]


class World(Stage):
    """All of a push group. Use it as a context manager; nothing outlives it."""

    def __init__(self, folder: Path, chooser: random.Random, log: Callable[[str], None]) -> None:
        super().__init__(folder, chooser, log)
        self.servers: list[Server] = []

    def __enter__(self) -> Self:
        super().__enter__()
        self.management = TcpProxy("127.0.0.1", self.node.management_port).start()
        self.members = TcpProxy("127.0.0.1", self.node.port).start()
        with self._connected() as connection:
            connection.channel().queue_declare(SOURCE, durable=True)
        self.node.sync_metadata()
        return self

    def __exit__(self, *_: object) -> None:
        self.end_processes()
        for server in self.servers:
            server.go_on()
            server.kill()
            server.proxy.close()
        self.management.close()
        self.members.close()
        self.node.close()

    def serve(self, settings: dict[str, str]) -> Server:
        server = Server(len(self.servers), self.node, self.management, self.folder, settings)
        self.servers.append(server)
        server.start()
        return server

    def join(self, name: str, *options: str) -> Pod:
        """A new process of a member."""
        urls = [server.url for server in self.servers]
        command = member_command(
            name, self.members.url(self.node.amqp_url) + "%2f?heartbeat=2", urls, *options
        )
        pod = Pod(name, command, self.folder, len(self.pods))
        self.pods.append(pod)
        return pod

    def publish(self, *options: str) -> None:
        command = [sys.executable, str(_HERE / "publisher.py"), f"--amqp={self.node.amqp_url}%2f"]
        command += [f"--counts={self.folder / 'counts'}", *options]
        self.publisher = Child("publisher", command, self.folder / "publisher.log")

    def group(self) -> Any:
        """What a server says of the group."""
        for server in self.servers:
            if server.runs and not server.stopped and (said := server.get("/groups/default")):
                return said
        return None
