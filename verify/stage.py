"""What every run has: a broker, the processes of members, a publisher."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import pika
import pika.exceptions

from partymq.broker import PrivateCluster, PrivateNode
from partymq.demo.children import Child
from verify.notes import Reader
from verify.promises import Work, work_of

NET_TICKTIME: Final = 8
"""Seconds after which the nodes of a cluster take a silent one for dead, give or take a quarter."""


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
        # What it had in hand ends when the signal is sent: others may have it before its end is seen here.
        before, _ = self.process.kill()
        self.died = before / 1e9

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


class Stage:
    """A private broker and what runs on it. Use it as a context manager; nothing outlives it.

    Args:
        size: nodes of the broker.

    Attributes:
        nodes: the broker's.
        node: the first of them; where the broker is a cluster, it stands for all of it.
        frozen: the node that was told to stand still.
    """

    def __init__(
        self, folder: Path, chooser: random.Random, log: Callable[[str], None], size: int = 1
    ) -> None:
        self.folder = folder
        self.random = chooser
        self.log = log
        self._broker: PrivateNode | PrivateCluster
        if size > 1:
            self._broker = PrivateCluster(size, net_ticktime=NET_TICKTIME)
            self.nodes = self._broker.nodes
        else:
            self._broker = PrivateNode()
            self.nodes = [self._broker]
        self.node = self.nodes[0]
        self.frozen: PrivateNode | None = None
        self.pods: list[Pod] = []
        self.publisher: Child | None = None
        self.broker_up = False
        self.counts: list[int] = []

    def __enter__(self) -> Self:
        self._broker.start()
        self.broker_up = True
        return self

    def __exit__(self, *_: object) -> None:
        self.end_processes()
        self._broker.close()

    @property
    def well_node(self) -> PrivateNode:
        """One that answers."""
        return next((node for node in self.nodes if node.running and node is not self.frozen), self.node)

    def end_processes(self) -> None:
        """Kill members and publisher."""
        for pod in self.pods:
            if pod.runs:
                pod.kill()
        if self.publisher is not None:
            self.publisher.kill()

    def end_publishing(self) -> None:
        """Have the publisher end; `counts` then says how many messages there were of each key."""
        assert self.publisher is not None
        self.publisher.stop(60.0)
        self.counts = json.loads((self.folder / "counts").read_text())

    def left(self) -> int:
        """Messages that are not finished yet."""
        return sum(self.counts) - len(self.through("E"))

    def through(self, kinds: str) -> set[tuple[int, int]]:
        """Messages, by key and number, of which a member has noted one of these."""
        found: set[tuple[int, int]] = set()
        for pod in self.pods:
            pod.look()
            found.update((note.key, note.seq) for note in pod.read if note.kind in kinds)
        return found

    def ask_broker(self, ask: Callable[[Any], None]) -> None:
        """Do something on a channel; a broker that refuses has its reasons."""
        with suppress(pika.exceptions.AMQPError, OSError), self._connected() as connection:
            ask(connection.channel())

    def group(self) -> Any:
        """What the group looks like, for people."""
        return None

    def _connected(self) -> Any:
        return pika.BlockingConnection(pika.URLParameters(self.well_node.amqp_url + "%2f"))

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
