"""What runs: a broker, two servers behind a proxy each, members, a publisher."""

import json
import os
import random
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pika
import pika.exceptions

from partymq.broker import PrivateNode
from partymq.broker.ports import free_ports
from partymq.demo.children import Child
from tests.broker.tcp_proxy import TcpProxy
from verify.notes import Reader
from verify.promises import Work, work_of

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
        return bool(text) and 'partymq_coordinator{group="default"} 1.0' in text


class Pod:
    """A member's process."""

    def __init__(self, name: str, command: list[str], folder: Path, number: int) -> None:
        self.name = name
        self.options = command
        queues = [option.partition("=")[2] for option in command if option.startswith("--queue=")]
        self.queue = queues[-1] if queues else f"chaos.{name}"
        self.notes = folder / f"notes-{name}-{number}"
        self.reader = Reader(self.notes)
        self.read: list[Any] = []
        self.stops: list[tuple[float, float]] = []
        self.stopped_at: float | None = None
        self.died = float("inf")
        self.leaving = False
        self.process = Child(name, [*command, f"--notes={self.notes}"], folder / f"{name}.log")

    @property
    def runs(self) -> bool:
        return self.process.status is None

    @property
    def is_well(self) -> bool:
        return self.runs and not self.leaving and self.stopped_at is None

    def kill(self) -> None:
        self.go_on_at_death()
        _, after = self.process.kill()
        self.died = after / 1e9

    def go_on_at_death(self) -> None:
        if self.stopped_at is not None:
            self.stops.append((self.stopped_at, time.monotonic()))
            self.stopped_at = None

    def leave(self) -> None:
        self.process.terminate()
        self.leaving = True

    def stop(self) -> None:
        self.stopped_at = time.monotonic()
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        if self.stopped_at is not None and self.runs:
            os.kill(self.process.pid, signal.SIGCONT)
        self.go_on_at_death()

    def hangs(self) -> bool:
        """Whether it was told to hang (SIGUSR2) and does now."""
        self.look()
        return bool(self.read) and self.read[-1].kind == "H"

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def look(self) -> None:
        self.read += self.reader.more()

    def work(self) -> list[Work]:
        self.look()
        return work_of(f"{self.name}({self.process.pid})", self.read, stops=self.stops, died=self.died)


def member_command(name: str, amqp_url: str, urls: Iterable[str], *options: str) -> list[str]:
    """How a member's process is started. `urls`: of the servers."""
    apis = [f"--api={url}" for url in urls]
    return [sys.executable, str(_HERE / "member.py"), f"--name={name}", f"--amqp={amqp_url}", *apis, *options]


class World:
    """All of it. Use it as a context manager; nothing outlives it."""

    def __init__(self, folder: Path, chooser: random.Random, log: Callable[[str], None]) -> None:
        self.folder = folder
        self.random = chooser
        self.log = log
        self.node = PrivateNode()
        self.servers: list[Server] = []
        self.pods: list[Pod] = []
        self.publisher: Child | None = None
        self.broker_up = False

    def __enter__(self) -> "World":
        self.node.start()
        self.broker_up = True
        self.management = TcpProxy("127.0.0.1", self.node.management_port).start()
        self.members = TcpProxy("127.0.0.1", self.node.port).start()
        with self._connected() as connection:
            connection.channel().queue_declare(SOURCE, durable=True)
        self.node.sync_metadata()
        return self

    def _connected(self) -> Any:
        return pika.BlockingConnection(pika.URLParameters(self.node.amqp_url + "%2f"))

    def __exit__(self, *_: object) -> None:
        for pod in self.pods:
            if pod.runs:
                pod.kill()
        if self.publisher is not None:
            self.publisher.kill()
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

    def counts(self) -> list[int]:
        """End publishing; how many messages there were of each key."""
        assert self.publisher is not None
        self.publisher.stop(30.0)
        return list(json.loads((self.folder / "counts").read_text()))

    def done(self) -> int:
        """Different messages that have been finished."""
        finished: set[tuple[int, int]] = set()
        for pod in self.pods:
            pod.look()
            finished.update((note.key, note.seq) for note in pod.read if note.kind == "E")
        return len(finished)

    def ask_broker(self, ask: Callable[[Any], None]) -> None:
        """Do something on a channel; a broker that refuses has its reasons."""
        with suppress(pika.exceptions.AMQPError, OSError), self._connected() as connection:
            ask(connection.channel())

    def group(self) -> Any:
        """What a server says of the group."""
        for server in self.servers:
            if server.runs and not server.stopped and (said := server.get("/groups/default")):
                return said
        return None

    def kill_broker(self) -> None:
        """As a crash does it.

        First the broker writes down what was declared: killed within two seconds it may forget a queue.
        """
        try:
            self.node.ctl("eval", 'mnesia:sync_log(), os:cmd("kill -9 " ++ os:getpid()).')
        except Exception as gone:  # the call ends with the node
            self.log(f"  {type(gone).__name__}")
        self.node.kill()
        self.broker_up = False

    def start_broker(self) -> None:
        self.node.start()
        self.broker_up = True
