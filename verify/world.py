"""What runs: a broker, two servers behind a proxy each, members, a publisher."""

import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from partymq.demo.children import Child
from tests.broker.tcp_proxy import TcpProxy
from verify.servers import Server
from verify.stage import Pod, Stage

SOURCE = "partymq.q.source"
EXCHANGE = "partymq.ex.write"
COMMANDS = "partymq.default.q.coordinator"
_HERE = Path(__file__).parent


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
            server.close()
        self.management.close()
        self.members.close()
        self.node.close()

    def serve(self, settings: dict[str, str]) -> Server:
        url = self.management.url(self.node.management_url)
        server = Server(len(self.servers), self.nodes, url, self.folder, settings)
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
