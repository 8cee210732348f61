"""A publisher: the real outbox and the real routes, over the model of the broker."""

from partymq.amqp.content import Returned
from partymq.client.outbox import Item, Outbox
from partymq.client.routes import Routes
from tests.simulation.broker import Channel, Connection
from tests.simulation.message import Message
from tests.simulation.pull_scene import GROUP, Scene
from tests.simulation.world import Process

_CHANNEL = 1
_FRAME_MAX = 1 << 17
_EXCHANGE_AT = 13
"""Where a Publish frame has the length of the exchange's name."""


class _Put(Item):
    """A message that nobody waits for."""

    __slots__ = ("message",)

    def __init__(self, message: Message, key: bytes, at: float) -> None:
        super().__init__(str(message).encode(), key, at, None, None)
        self.message = message


def _routing_key(frame: bytes) -> str:
    at = _EXCHANGE_AT + 1 + frame[_EXCHANGE_AT]
    return frame[at + 1 : at + 1 + frame[at]].decode()


class PullPublisher(Process):
    """Publishes until everything is confirmed, in order, over lost connections too.

    Attributes:
        connection: None while there is none.
    """

    def __init__(self, scene: Scene, name: str, keys: list[bytes]) -> None:
        super().__init__(scene.world, name)
        self._scene = scene
        self._keys = keys
        self._outbox = Outbox(scene.world.rng.choice((1, 4, 100)), 1 << 20)
        self._routes: Routes | None = None
        self._channel: Channel | None = None
        self.connection: Connection | None = None

    def connect(self) -> None:
        """Connect, again and again until it works."""
        connection = self.connection = self._scene.broker.connect(self, self._lost)
        if connection is None:
            self.timer(0.2, self.connect)
            return
        channel = self._channel = connection.channel()
        channel.on_confirm = self._confirmed
        channel.on_return = self._came_back
        self._routes = Routes(_CHANNEL, GROUP, self._scene.layout)
        self._flush()

    def put(self, message: Message) -> None:
        """Publish, whenever that is possible."""
        self._outbox.put(_Put(message, self._keys[message.key], self.world.now))
        self._flush()

    def _flush(self) -> None:
        if self._channel is None or self._routes is None:
            return
        for item in self._outbox.take():
            assert isinstance(item, _Put)
            frame = self._routes.frames((item,))
            self._channel.publish(_routing_key(frame), None, item.message, item.seq)

    def _confirmed(self, seq: int) -> None:
        self._outbox.confirms([(seq, False, True)])
        self._flush()

    def _came_back(self, seq: int) -> None:
        content = self._outbox.flight[seq].content
        self._outbox.came_back(Returned(312, "NO_ROUTE", "", "", content), _FRAME_MAX)

    def _lost(self) -> None:
        self._channel = self._routes = self.connection = None
        self._outbox.rewind()
        self.timer(0.1, self.connect)
