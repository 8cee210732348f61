"""A process that publishes: the real publisher, over the model of the broker."""

from typing import Any

from partymq.client.publisher import Publisher
from partymq.errors import ConnectionLost
from tests.simulation.message import Message
from tests.simulation.pull_loop import Loop
from tests.simulation.pull_scene import GROUP, Scene
from tests.simulation.pull_wire import Wire
from tests.simulation.world import Process

_PATIENCE = 3600.0


class PullPublisher(Process):
    """Publishes until everything is confirmed, over lost connections and other numbers of partitions.

    Attributes:
        loop: what its coroutines run in.
        wire: its connection; None before the first.
    """

    def __init__(self, scene: Scene, name: str, keys: list[bytes]) -> None:
        super().__init__(scene.world, name)
        self.loop = Loop(self)
        self.wire: Wire | None = None
        self._scene = scene
        self._keys = keys
        self._early: list[Message] = []
        self._publisher: Publisher | None = None

    def start(self) -> None:
        """Start the process, which tries to connect until that works."""
        self.loop.begin(self._open(), None, lambda error: self.timer(0.2, self.start))

    async def _open(self) -> None:
        most = self.world.rng.choice((1, 4, 100))
        publisher = Publisher("amqp://simulated", group=GROUP, timeout=_PATIENCE, max_in_flight=most)
        publisher._sender = self._scene.parts.sender(self._dial, GROUP, {}, publisher._outbox)
        await publisher.open()
        self._publisher = publisher
        early, self._early = self._early, []
        for message in early:
            self.put(message)

    async def _dial(self) -> Any:
        connection = self._scene.broker.connect(self, lambda: wire.lost())
        if connection is None:
            raise ConnectionLost("the broker is down")
        wire = self.wire = Wire(self.loop, connection)
        return wire

    def put(self, message: Message) -> None:
        """Publish, whenever that is possible."""
        if self._publisher is None:
            self._early.append(message)
            return
        body = f"{message.key}:{message.number}".encode()
        self.loop.begin(
            self._publisher.publish(body, self._keys[message.key]),
            None,
            lambda error: self._given_up(message, error),
        )

    def _given_up(self, message: Message, error: Exception) -> None:
        self._scene.oracle.fail("%s gives %s up: %s", self.name, message, error)

    def cut(self, notice: float) -> None:
        """The broker closes its connection."""
        if self.wire is not None:
            self.wire.connection.cut(notice)

    def end(self) -> None:
        """The schedule is over."""
        if self.wire is not None:
            self.wire.lost()
        self.loop.end()
