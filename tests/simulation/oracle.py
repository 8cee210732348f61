"""The promises, checked at every step.

For one key, with its messages numbered as they entered the source:

* Order (promise 2): what begins for the first time begins when all before it has been finished.
* Replay (promise 4): if n was the last message that a member began, the next one begun is n+1 or an older
  one, so what comes again comes with all that follows it. Where faults meet in one moment, a push group may
  leave out some that has been finished (docs/promises.md): that is no failure, but counted, in `gaps`.
* n+1 begins only when n has been finished.
* One at a time (promise 3): nobody begins while another member works on the same partition.
* Without a fault nothing is begun twice (promise 4); at the end everything was finished (promise 1).

Exempt is a member that the broker holds for dead: what it still does is not seen here. What is in a queue
when its own client deletes it is the client's to lose.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from partymq.group.state import GroupState
from tests.simulation.broker import Broker
from tests.simulation.message import Message
from tests.simulation.world import World


class PromiseBroken(AssertionError):
    """A promise was broken."""


@dataclass(slots=True)
class Key:
    """What was seen of a key."""

    published: int = 0
    last: int = -1
    """The message begun last."""
    finished: bool = True
    done: set[int] = field(default_factory=set)
    begun: set[int] = field(default_factory=set)
    excused: set[int] = field(default_factory=set)
    """Lost with a queue that its client deleted."""


class Oracle:
    """Watches a schedule.

    Attributes:
        gaps: where what came again left something out.

    Args:
        faults: whether there are faults, so that messages may come again.
    """

    def __init__(self, world: World, partitions: int, *, faults: bool) -> None:
        self.world = world
        self.keys = [Key() for _ in range(partitions)]
        self.faults = faults
        self.working: list[dict[str, Message]] = [{} for _ in range(partitions)]
        self.repeats = 0
        self.begun = 0
        self.gaps: list[str] = []
        self._tokens = [0] * partitions
        self._owners: list[str | None] = [None] * partitions
        self._confirmed: dict[Message, int] = {}

    def fail(self, what: str, *args: object) -> None:
        """Raises PromiseBroken."""
        self.world.tell("ORACLE", what, *args)
        raise PromiseBroken(what % args)

    def published(self, message: Message) -> None:
        """A message enters the source."""
        self.keys[message.key].published = message.number + 1

    def begins(self, who: str, message: Message) -> None:
        """A member that the broker holds for alive begins to process."""
        key = self.keys[message.key]
        number = message.number
        for other, works_on in self.working[message.key].items():
            if other != who:
                self.fail("%s begins %s while %s works on %s", who, message, other, works_on)
        expected = key.last + 1
        while expected in key.excused and expected < number:
            expected += 1
        if number > expected:
            self._leaves_out(who, message, range(expected, number))
        if number == expected and number and not self._is_over(key, number - 1):
            self.fail("%s begins %s, but %d has not been finished", who, message, number - 1)
        if number in key.begun:
            self.repeats += 1
            if not self.faults:
                self.fail("%s begins %s a second time, without any fault", who, message)
        self.begun += 1
        key.begun.add(number)
        key.last, key.finished = number, False
        self.working[message.key][who] = message

    def _leaves_out(self, who: str, message: Message, missing: range) -> None:
        """What it begins does not follow what was begun last: others would be between them."""
        key = self.keys[message.key]
        what = f"{who} begins {message}, but the last one begun was {key.last}"
        if not all(self._is_over(key, number) for number in missing):
            self.fail("%s", what)
        self.gaps.append(what)
        self.world.tell("oracle", "a gap: %s", what)

    @staticmethod
    def _is_over(key: Key, number: int) -> bool:
        return number in key.done or number in key.excused

    def finishes(self, who: str, message: Message) -> None:
        """It has processed the message; its ack is on its way."""
        key = self.keys[message.key]
        self.working[message.key].pop(who, None)
        key.done.add(message.number)
        if key.last == message.number:
            key.finished = True

    def gone(self, who: str) -> None:
        """From now on the broker holds the member for dead: what it works on, nobody sees finished."""
        for working in self.working:
            working.pop(who, None)

    def lost(self, body: object, queue: str) -> None:
        """A queue ceased to be with a message in it."""
        if isinstance(body, Message):
            if queue.startswith("partymq."):
                self.fail("%s is lost with our own queue %s", body, queue)
            key = self.keys[body.key]
            key.excused.add(body.number)
            if key.last == body.number:
                key.finished = True
            self.world.tell("oracle", "%s is lost with queue %s", body, queue)

    def left_the_source(self, message: Message, broker: Broker) -> None:
        """The router acked it: by then a member's queue has it safely, or its member has finished with it."""
        key = self.keys[message.key]
        if self._is_over(key, message.number):
            return
        for queue in broker.queues.values():
            entries = [*queue.ready, *(entry for entry, _ in queue.unacked.values())]
            if queue.name != "source" and any(e.safe and e.body == message for e in entries):
                return
        self.fail("%s left the source and is nowhere else for certain", message)

    def assigned(self, state: GroupState, owners: Mapping[int, str]) -> None:
        """Partitions are routed to these owners."""
        for partition, owner in owners.items():
            token = state.partitions[partition].fencing_token
            before = self._tokens[partition]
            if token < before or (owner != self._owners[partition] and token == before):
                self.fail("partition %d goes to %s with token %d after %d", partition, owner, token, before)
            self._tokens[partition] = token
            self._owners[partition] = owner

    def holds(self, messages: int, most: int) -> None:
        """The router has so many in its hands."""
        if messages > most:
            self.fail("the router holds %d messages, %d are allowed", messages, most)

    def state_is_sound(self, state: GroupState) -> None:
        """What always holds of a state."""
        for partition, entry in enumerate(state.partitions):
            if entry.owner is not None and entry.owner not in state.members:
                self.fail("partition %d belongs to %s, who is no member", partition, entry.owner)

    def unfinished(self) -> list[Message]:
        """Messages that nobody has finished, and that were not lost by their queue's own client."""
        return [
            Message(partition, number)
            for partition, key in enumerate(self.keys)
            for number in range(key.published)
            if not self._is_over(key, number)
        ]
