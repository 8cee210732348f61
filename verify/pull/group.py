"""What runs: a broker, and a pull group of members and a publisher, each behind a proxy of its own."""

import argparse
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pika.exceptions

from partymq.demo.children import Child
from partymq.group.names import dead_letter_queue
from verify.notes import Note, Notebook, Reader
from verify.plug import Plug
from verify.promises import Work, work_of
from verify.pull.published import Published
from verify.servers import Server
from verify.stage import Pod, Stage

GROUP = "soak"
SOURCE: Final = f"partymq.{GROUP}.q.source"
_SERVERS: Final = 2
_QUEUES: Final = (
    f"partymq.{GROUP}.q.partition-",
    f"partymq.{GROUP}.q.v",
    f"partymq.{GROUP}.q.parked",
    SOURCE,
)
_EMPTY_AGAIN: Final = 1.0
"""Seconds between two looks at whether the queues are empty."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How the group is set up. Seconds."""

    queue_type: str
    partitions: int
    session_timeout: float
    rejoin_grace: float
    on_failure: str
    coordinator: str = "embedded"
    ingress: str = "publisher"
    nodes: int = 1

    @staticmethod
    def add_options(command: argparse.ArgumentParser) -> None:
        """For `chosen`."""
        command.add_argument("--queue-type", choices=("quorum", "classic"), help="else the seed decides")
        command.add_argument("--on-failure", choices=("dead-letter", "park"), help="else the seed decides")
        command.add_argument("--rejoin-grace", type=float, help="seconds; else the seed decides")
        command.add_argument(
            "--coordinator",
            choices=("embedded", "server"),
            default="embedded",
            help="server: two processes of partymq serve coordinate, and have their faults, too",
        )
        command.add_argument(
            "--ingress",
            choices=("publisher", "router"),
            default="publisher",
            help="router: a plain client publishes to a queue, from which the two processes fill the group",
        )
        command.add_argument(
            "--nodes",
            type=int,
            choices=(1, 3, 5),
            default=1,
            help="of the broker; several are a cluster, of which one node at a time has faults, too",
        )

    @property
    def routed(self) -> bool:
        """Whether a router fills the group."""
        return self.ingress == "router"

    @classmethod
    def chosen(cls, chooser: random.Random, options: argparse.Namespace) -> "Setting":
        """One of many, but for what the options say."""
        queue_type = chooser.choice(("quorum", "classic"))
        if options.nodes > 1:
            queue_type = "quorum"
        partitions = chooser.choice((8, 24))
        rejoin_grace = chooser.choice((0.0, 0.0, 3.0))
        on_failure = chooser.choice(("dead-letter", "park"))
        return cls(
            options.queue_type or queue_type,
            partitions,
            4.0,
            rejoin_grace if options.rejoin_grace is None else options.rejoin_grace,
            options.on_failure or on_failure,
            options.coordinator,
            options.ingress,
            options.nodes,
        )

    @property
    def patience(self) -> float:
        """Seconds after which the broker may give up a connection on which it hears nothing."""
        return self.session_timeout / 4


class Connected(Pod):
    """A member's process behind a proxy of its own."""

    def __init__(self, name: str, command: list[str], folder: Path, number: int, proxy: Plug) -> None:
        self.proxy = proxy
        self.number = number
        super().__init__(name, command, folder, number)

    @property
    def label(self) -> str:
        """Tells it from others of its name."""
        return f"{self.name}({self.process.pid})"

    def unplugged(self, since: float) -> None:
        """It was cut off from then until now."""
        self.stops.append((since, time.monotonic()))


class PullGroup(Stage):
    """All of it. Use it as a context manager; nothing outlives it."""

    def __init__(
        self, folder: Path, chooser: random.Random, log: Callable[[str], None], setting: Setting
    ) -> None:
        super().__init__(folder, chooser, log, setting.nodes)
        self.setting = setting
        self.members: list[Connected] = []
        self.servers: list[Server] = []
        self._releasing: Child | None = None
        self._resizing: Child | None = None
        self._publishing: list[str] = []
        self._notes_path = folder / "notes-publisher"
        self._notes = Reader(self._notes_path)
        self.notes: list[Note] = []
        """The publisher's, and of its kills."""
        self.published = Published()
        self._looked_at = 0.0
        self.failed: list[str] = []
        """Publishers that ended otherwise than told."""

    def __enter__(self) -> "PullGroup":
        super().__enter__()
        self.plug = Plug(self.nodes).start()
        self.url = f"amqp://guest:guest@{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}/"
        return self

    def __exit__(self, *_: object) -> None:
        for asking in (self._releasing, self._resizing):
            if asking is not None:
                asking.kill()
        self.end_processes()
        for server in self.servers:
            server.close()
        for proxy in (self.plug, *(pod.proxy for pod in self.members)):
            proxy.close()
        self._broker.close()

    def _python(self, module: str, *options: str) -> list[str]:
        return [sys.executable, "-m", module, f"--group={GROUP}", *options]

    def join(self, name: str, *options: str) -> Connected:
        """A new process of a member."""
        proxy = Plug(self.nodes).start()
        command = self._python(
            "verify.pull.member",
            f"--name={name}",
            f"--amqp={proxy.url}%2f",
            f"--session-timeout={self.setting.session_timeout}",
            f"--rejoin-grace={self.setting.rejoin_grace}",
            f"--on-failure={self.setting.on_failure}",
            f"--coordinator={self.setting.coordinator}",
            *options,
        )
        pod = Connected(name, command, self.folder, len(self.pods), proxy)
        self.pods.append(pod)
        self.members.append(pod)
        return pod

    def create(self) -> None:
        """Create the group, and start what serves it."""
        create = ["partymq", "group", "create", GROUP, f"--url={self.url}"]
        create += [f"--partitions={self.setting.partitions}", f"--queue-type={self.setting.queue_type}"]
        create.append(f"--ingress={self.setting.ingress}")
        subprocess.run([sys.executable, "-m", *create], check=True, capture_output=True, timeout=60)
        if self.setting.coordinator == "server" or self.setting.routed:
            for _ in range(_SERVERS):
                self._serve()

    def _serve(self) -> None:
        path = self.folder / "partymq.toml"
        lines = [f"[groups.{GROUP}]", 'mode = "pull"', f'coordinator = "{self.setting.coordinator}"']
        if self.setting.routed:
            lines += ['ingress = "router"', f'source_queue = "{SOURCE}"', "source_declare = true"]
            lines.append(f'source_queue_type = "{self.setting.queue_type}"')
        path.write_text("\n".join(lines) + "\n")
        url = self.node.management_url
        server = Server(len(self.servers), self.nodes, url, self.folder, {"PARTYMQ_CONFIG": str(path)}, GROUP)
        self.servers.append(server)
        server.start()

    def publish(self, seed: int, rate: float) -> None:
        """Begin to publish."""
        self._publishing = self._python(
            "verify.pull.publisher",
            f"--amqp={self.plug.url}%2f",
            f"--notes={self._notes_path}",
            f"--seed={seed}",
            f"--rate={rate}",
            *([f"--source={SOURCE}"] if self.setting.routed else []),
        )
        self.start_publisher()

    def start_publisher(self) -> None:
        """A process that goes on where the one before it has left off."""
        self._publisher_ended()
        self.publisher = Child("publisher", self._publishing, self.folder / "publisher.log")

    def kill_publisher(self) -> None:
        """What it had no confirm for may be missing."""
        if self.publisher is not None:
            self.publisher.kill()
            self.publisher = None
            Notebook(self._notes_path).write("K")

    @property
    def publishes(self) -> bool:
        """Whether the publisher runs. It may have been told to end."""
        return self.publisher is not None and self.publisher.status is None

    def end_publishing(self) -> None:
        """Have the publisher end in order; it has to be able to."""
        if self.publisher is not None:
            self.publisher.stop(180.0)
        self._publisher_ended()
        self.notes += self._notes.more()
        self.published = Published.of(self.notes)

    def _publisher_ended(self) -> None:
        """In order, or by the signal when it had hardly started."""
        if self.publisher is not None and self.publisher.status not in (0, -signal.SIGTERM):
            self.failed.append(f"publisher({self.publisher.pid}) ended with {self.publisher.status}")

    def left(self) -> int:
        """Messages that are not through: neither handled nor given up for good. When there is none, what is
        in the queues, as there may be messages of a killed publisher."""
        left = len(self.published.required() - self.through("EX"))
        if left or time.monotonic() - self._looked_at < _EMPTY_AGAIN:
            return left or 1
        queues = self.well_node.ctl("list_queues", "--no-table-headers", "name", "messages").splitlines()
        self._looked_at = time.monotonic()
        return sum(int(queue.split()[1]) for queue in queues if queue.startswith(_QUEUES))

    def works(self) -> list[Work]:
        """All work of all members."""
        works: list[Work] = []
        for pod in self.members:
            pod.look()
            works += work_of(
                pod.label, pod.read, stops=pod.stops, died=pod.died, patience=self.setting.patience
            )
        return works

    def release(self) -> None:
        """Have what is parked by now handled, as an operator does it."""
        if self._releasing is not None and self._releasing.status is None:
            return
        command = ["partymq", "parked", "release", GROUP, "--all", "--wait=0", f"--url={self.url}"]
        self._releasing = Child("release", [sys.executable, "-m", *command], self.folder / "release.log")

    def resize(self, partitions: int) -> bool:
        """Give the group another number of partitions; False while that was asked for just before."""
        if self._resizing is not None and self._resizing.status is None:
            return False
        command = ["partymq", "group", "resize", GROUP, f"--partitions={partitions}", "--no-wait"]
        command.append(f"--url={self.url}")
        self._resizing = Child("resize", [sys.executable, "-m", *command], self.folder / "resize.log")
        return True

    def dead_letters(self) -> set[tuple[int, int]]:
        """Key and number of what is in the dead-letter queue."""
        found: set[tuple[int, int]] = set()
        with self._connected() as connection:
            channel = connection.channel()
            try:
                for _, _, body in channel.consume(dead_letter_queue(GROUP), inactivity_timeout=1.0):
                    if body is None:
                        break
                    key, seq = body.split(b" ")[:2]
                    found.add((int(key), int(seq)))
            except pika.exceptions.ChannelClosedByBroker as refused:
                if refused.reply_code != 404:
                    raise
        return found

    def group(self) -> object:
        """What the group says of itself."""
        command = ["partymq", "group", "describe", GROUP, "--json", f"--url={self.url}"]
        told = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=30)
        return told.stdout or told.stderr or "nothing"
