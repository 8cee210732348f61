"""What the parts of a pull group's schedule share: the clock, the broker, the settings, and who watches."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from partymq.client.guard import Guard
from partymq.client.lanes import Lanes
from partymq.client.sending import Sender
from partymq.coordinator.pull import PullSettings
from partymq.coordinator.resize import Resize
from partymq.group.assignments import Assignments
from partymq.group.coordinator import Coordinator
from partymq.group.duties import Duties
from partymq.group.layout import GroupLayout
from partymq.group.membership import Timing
from partymq.group.names import (
    coordinator_queue,
    dead_letter_queue,
    layout_and_number,
    parked_queue,
    partition_queue,
    settings_queue,
)
from partymq.group.state import GroupState
from partymq.group.wire import Command
from tests.simulation.broker import Broker, Channel, Connection
from tests.simulation.instance import Election
from tests.simulation.pull_oracle import PullOracle
from tests.simulation.world import World

GROUP = "g"
COMMANDS = coordinator_queue(GROUP)
CALL_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class PullParts:
    """What a schedule is played with: the real parts, or parts broken on purpose.

    The flags are defects of a member, whose IO is a model here.
    """

    coordinator: Callable[[GroupState, Timing], Coordinator] = Coordinator
    assignments: Callable[[GroupState, int], Assignments] = Assignments
    duties: Callable[[], Duties] = Duties
    guard: Callable[[float, float], Guard] = Guard
    lanes: Callable[[int], Lanes] = Lanes
    sender: type[Sender] = Sender
    resize: type[Resize] = Resize
    releases_early: bool = False
    """Does not wait for the handlers that run."""
    acks_early: bool = False
    """Acknowledges what it is delivered."""
    forgets_loss: bool = False
    """Goes on with its handlers on another connection as if nothing had happened."""
    resizes: bool = True
    """Whether the group is resized: schedules without that are shorter."""
    hangs: bool = False
    """Whether hardly anything else happens than that processes hang, several at once, and others die."""
    acts_before_saving: bool = False
    """This is one of the coordinator: others hear of a state that may be lost."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A command on its way. `expires`: the time from which on nobody gets it."""

    command: Command
    reply_to: str
    expires: float


@dataclass(slots=True)
class Scene:
    """Attributes:
    layout: the group's when it was created.
    faults: whether anything may go wrong.
    who: the members on their data connections, as the broker knows them.
    epochs: numbers of terms.
    """

    world: World
    broker: Broker
    oracle: PullOracle
    election: Election
    settings: PullSettings
    layout: GroupLayout
    parts: PullParts
    performed: Callable[[object], None]
    faults: bool
    save_takes: Callable[[], float]
    """Seconds until a state that is to be saved is on its way."""
    who: dict[Connection, str] = field(default_factory=dict)
    epochs: "count[int]" = field(default_factory=lambda: count(1))
    requests: "count[int]" = field(default_factory=lambda: count(1))

    def create(self) -> None:
        """The group as it is when it was created."""
        broker = self.broker
        broker.declare(COMMANDS)
        for number in range(self.layout.partitions):
            queue = broker.declare(self.layout.queue(GROUP, number), single_active=True)
            broker.bind(queue.name, self.layout.routing_key(number))
        for name in (settings_queue(GROUP), dead_letter_queue(GROUP), parked_queue(GROUP)):
            broker.declare(name)
        broker.put(settings_queue(GROUP), self.layout.encode())

    @staticmethod
    def queue(identity: int) -> str:
        """The queue of a partition, by its id."""
        return partition_queue(GROUP, *layout_and_number(identity))

    def send(self, channel: Channel, queue: str, body: object) -> None:
        """Publish to a queue, without a confirm."""
        channel.publish(None, queue, body, 0)
