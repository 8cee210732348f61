"""Moves a leftover from a member's queue to one of our own, as `partymq.coordinator.leftovers` does."""

from collections.abc import Callable

from tests.simulation.broker import Broker, Channel, Connection, Consumer, Entry, Refused
from tests.simulation.world import Process, World


class Mover:
    """One move.

    Args:
        process: who moves.
        connection: to consume and to publish on.
        moved: called when nothing is left in the queue.
    """

    def __init__(
        self,
        world: World,
        broker: Broker,
        process: Process,
        connection: Connection,
        queue: str,
        target: str,
        moved: Callable[[], None],
    ) -> None:
        self.world = world
        self.broker = broker
        self.process = process
        self.connection = connection
        self.queue = queue
        self.target = target
        self._moved = moved
        self.ending = False
        self.over = False
        self.consumer: Consumer | None = None
        self._publish: Channel | None = None
        self._lines: dict[int, Entry] = {}
        self._confirms: set[int] = set()
        self._next_seq = 1
        broker.declare(target)
        self._work()

    def end(self) -> None:
        """Give it up: what is on its way is confirmed and acked, the rest stays."""
        self.ending = True

    def _work(self) -> None:
        if self.over or not self.connection.open:
            return
        if self.ending and not self._lines:
            self._close()
            return
        seen = self.broker.look(self.queue)
        if self.consumer is None:
            if seen.ready + seen.unacked == 0:
                self._close()
                self._moved()
                return
            # A consumer that was cancelled may still be at work on what it has.
            if seen.consumers == 0 and seen.unacked == 0:
                self._consume()
        elif seen.ready + seen.unacked == 0:
            self._close()
            self._moved()
            return
        self.process.timer(0.03, self._work)

    def _consume(self) -> None:
        channel = self.connection.channel()
        publish = self._publish = self.connection.channel()
        publish.on_confirm = self._confirmed
        try:
            self.consumer = self.broker.consume(
                channel, self.queue, 10, self._delivered, self._deleted, exclusive=True
            )
        except Refused:
            channel.close()
            publish.close()
            return
        self.world.tell(self.process.name, "has %s for itself", self.queue)

    def _delivered(self, entry: Entry) -> None:
        if not self.ending and self._publish is not None:
            self._lines[self._next_seq] = entry
            self._publish.publish(None, self.target, entry.body, self._next_seq)
            self._next_seq += 1

    def _confirmed(self, seq: int) -> None:
        self._confirms.add(seq)
        while (first := next(iter(self._lines), None)) in self._confirms and first is not None:
            entry = self._lines.pop(first)
            if self.consumer is not None:
                self.consumer.channel.ack(self.consumer, entry.position)

    def _deleted(self) -> None:
        """The queue is gone with what was in it: begin anew, and find that."""
        self._close_channels()
        self._lines.clear()

    def _close(self) -> None:
        self.over = True
        self._close_channels()

    def _close_channels(self) -> None:
        if self._publish is not None:
            self._publish.close()
        if self.consumer is not None:
            self.consumer.channel.close()
            self.consumer = None
