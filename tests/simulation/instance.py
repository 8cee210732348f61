"""A server process: it stands for election, and while it is elected it runs a term.

The lease is the state itself: whoever holds it saves by publishing, and what was published just before its
death may or may not count.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from partymq.group.state import GroupState
from tests.saved_state import decode_state, encode_state
from tests.simulation.broker import Broker, Channel, Connection
from tests.simulation.world import Process, World

if TYPE_CHECKING:
    from tests.simulation.term import Term


class Election:
    """The state queue: its message, and who has it."""

    def __init__(self, world: World, broker: Broker, state: GroupState) -> None:
        self.world = world
        self.broker = broker
        self.saved = encode_state(state)
        self.holder: Connection | None = None
        self._candidates: list[tuple[Connection, Callable[[bytes], None]]] = []
        self._granting = False

    def stand(self, connection: Connection, elected: Callable[[bytes], None]) -> None:
        """Wait to be elected."""
        self._candidates.append((connection, elected))
        self.grant_soon()

    def save(self, channel: Channel, payload: bytes, confirmed: Callable[[], None]) -> None:
        """Publish a state, and hear of it when it is safe."""
        channel.to_broker.send(self._save, channel, payload, confirmed)

    def _save(self, channel: Channel, payload: bytes, confirmed: Callable[[], None]) -> None:
        if channel.connection is self.holder:
            self.saved = payload
            channel.to_client.send(confirmed)

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""
        self._candidates = [candidate for candidate in self._candidates if candidate[0] is not connection]
        if connection is self.holder:
            self.holder = None
            self.grant_soon()

    def restarted(self) -> None:
        """All connections are gone."""
        self._candidates.clear()
        self.holder = None

    def grant_soon(self) -> None:
        """The next in line gets it, a little later."""
        if self.holder is None and self._candidates and not self._granting:
            self._granting = True
            self.world.after(0.1 + 0.3 * self.world.rng.random(), self._grant)

    def _grant(self) -> None:
        self._granting = False
        self._candidates = [candidate for candidate in self._candidates if candidate[0].open]
        if self.holder is None and self._candidates:
            connection, elected = self._candidates.pop(0)
            self.holder = connection
            life = connection.process.life
            self.world.after(self.world.lag(), connection.process.run, life, elected, (self.saved,))


@dataclass(frozen=True, slots=True)
class Crash:
    """The process dies here."""


class Instance(Process):
    """One `partymq serve`.

    Args:
        make_term: begins a term.
    """

    def __init__(
        self,
        world: World,
        broker: Broker,
        election: Election,
        name: str,
        make_term: "Callable[[Instance, GroupState], Term]",
    ) -> None:
        super().__init__(world, name)
        self.broker = broker
        self.election = election
        self._make_term = make_term
        self.alive = False
        self.coordinator: Connection | None = None
        self.source: Connection | None = None
        self.state_channel: Channel | None = None
        self.term: Term | None = None
        self.crash_in: int | None = None
        """Effects after which it dies."""

    @property
    def holds_lease(self) -> bool:
        """Whether it coordinates, as the broker sees it."""
        return (
            self.term is not None
            and self.coordinator is not None
            and self.coordinator.open
            and self.election.holder is self.coordinator
        )

    def boot(self) -> None:
        """Start the process."""
        if not self.alive:
            self.alive = True
            self.world.tell(self.name, "starts")
            self._connect()
            self._connect_source()

    def _connect(self) -> None:
        if self.coordinator is not None and self.coordinator.open:
            return
        self.coordinator = self.broker.connect(self, self._lost)
        if self.coordinator is None:
            self.timer(0.3, self._connect)
            return
        self.state_channel = self.coordinator.channel()
        self.election.stand(self.coordinator, self._elected)

    def _connect_source(self) -> None:
        if self.source is not None and self.source.open:
            return
        self.source = self.broker.connect(self, self._source_lost)
        if self.source is None:
            self.timer(0.3, self._connect_source)

    def _elected(self, payload: bytes) -> None:
        if (
            self.coordinator is None
            or not self.coordinator.open
            or self.election.holder is not self.coordinator
        ):
            return
        state = decode_state(payload)
        self.world.tell(self.name, "coordinates, from generation %d", state.generation)
        self.term = self._make_term(self, state)
        self.term.begin()

    def _lost(self) -> None:
        """The coordinator connection is gone, and with it the term."""
        self.world.tell(self.name, "has lost its connection")
        self._end_term()
        self._connect()

    def _source_lost(self) -> None:
        self.world.tell(self.name, "has lost its connection to the source")
        if self.term is not None:
            self.term.router.source_lost()
        self.timer(0.1, self._connect_source)

    def _end_term(self) -> None:
        if self.term is not None:
            self.term.end()
            self.term = None
        # What a term had on the source connection ends with it.
        if self.source is not None and self.source.open:
            for channel in list(self.source.channels):
                channel.close()

    def cut(self, notice: float) -> None:
        """The broker closes the coordinator connection."""
        if self.coordinator is not None and self.coordinator.open:
            self.coordinator.cut(notice)
            self.election.lost(self.coordinator)

    def kill(self) -> None:
        """kill -9."""
        if not self.alive:
            return
        self.world.tell(self.name, "is killed")
        self.alive = False
        self.crash_in = None
        self.end_life()
        if self.term is not None:
            self.term.end()
            self.term = None
        for connection in (self.coordinator, self.source):
            if connection is not None:
                connection.cut()
        if self.coordinator is not None:
            self.election.lost(self.coordinator)
        self.coordinator = self.source = None

    def stop(self) -> None:
        """SIGTERM: end in good order."""
        if not self.alive or self.term is None:
            return
        self.world.tell(self.name, "is asked to stop")
        self.term.retire()
        self._when_settled(self.world.now + 3.0)

    def _when_settled(self, deadline: float) -> None:
        if self.term is not None and not self.term.quiet and self.world.now < deadline:
            self.timer(0.05, self._when_settled, deadline)
            return
        self.alive = False
        if self.term is not None:
            self.term.end()
            self.term = None
        self.end_life()
        for connection in (self.coordinator, self.source):
            if connection is not None:
                connection.close()
        if self.coordinator is not None:
            self.election.lost(self.coordinator)
        self.coordinator = self.source = None
        self.world.tell(self.name, "has stopped")
