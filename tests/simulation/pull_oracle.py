"""The promises for pull groups: those of push groups, and what only members that own partitions can break.

A member is known here by the connection that it consumes on. When the broker closes that, what it still does
is not counted any more: it is a zombie, and its fencing token has to be lower than that of the next owner.
"""

from collections import defaultdict

from tests.simulation.message import Message
from tests.simulation.oracle import Oracle
from tests.simulation.world import World


class PullOracle(Oracle):
    """Watches a schedule. See `Oracle`; keys and partitions are numbered apart here."""

    def __init__(self, world: World, keys: int, *, faults: bool, slow: bool) -> None:
        super().__init__(world, keys, faults=faults)
        self._newest: dict[int, tuple[int, str]] = defaultdict(lambda: (0, ""))
        """Token and who had it, of a partition by its id."""
        self._token_of = [0] * keys
        self.slow = slow
        """Whether the broker may hold a message up for longer than a resize waits for it."""
        self.hung: set[str] = set()
        """Processes that have, and may stand in line with a token from before: they go on with what they were
        told, but begin to handle nothing of it."""
        self.hung_too_long: set[str] = set()
        """Members that the broker gave up while they hung."""
        self.namesakes: set[str] = set()
        """Processes of one name at the same time, of which the later to join replaces the other. While that
        one does not know it, the broker may have it next in line: one at a time, in order, but with a token
        from before."""

    def consumes(self, who: str, partition: int, token: int, others: int) -> None:
        """The broker gets a consumer of a partition, behind so many others.

        It keeps that one waiting, so nothing is handled twice; but without a fault nobody should be there.
        """
        newest, holder = self._newest[partition]
        if token < newest and not self._may_be_behind(who) and _process(who) not in self.hung:
            self.fail("%s consumes %d with token %d; %s has %d", who, partition, token, holder, newest)
        if others and not self.faults:
            self.fail("%s consumes %d before %s has given it up", who, partition, holder)

    def handles(self, who: str, message: Message, partition: int, token: int) -> None:
        """A member that the broker holds for alive begins to handle a message."""
        newest, holder = self._newest[partition]
        if token < newest and self._may_be_behind(who):
            pass
        elif token < newest or (token == newest and who != holder):
            self.fail(
                "%s handles %s of partition %d with token %d, but %s had %d",
                who,
                message,
                partition,
                token,
                holder,
                newest,
            )
        else:
            self._newest[partition] = token, who
            if token < self._token_of[message.key]:
                self.fail("%s handles %s with token %d: of another partition", who, message, token)
            self._token_of[message.key] = token
        key = self.keys[message.key]
        # What a publisher has sent twice may lie between a message and its repetition.
        if message.number == key.last + 1 and not key.finished and message.number not in key.begun:
            self.fail("%s begins %s, but nobody has finished %d", who, message, key.last)
        self.begins(who, message)

    def _leaves_out(self, who: str, message: Message, missing: range) -> None:
        """Whatever happened to it before."""
        self.fail("%s begins %s, but the last one begun was %d", who, message, self.keys[message.key].last)

    def _may_be_behind(self, who: str) -> bool:
        return _process(who) in self.namesakes

    def zombie_handles(self, who: str, message: Message, partition: int, token: int) -> None:
        """A member that the broker holds for dead does not know it yet."""
        newest, holder = self._newest[partition]
        if who in self.hung_too_long:
            self.fail("%s begins %s, when it has hung and does not know what it has missed", who, message)
        if token == newest and who != holder:
            self.fail("the zombie %s handles %s with the token of %s, %d", who, message, holder, token)
        if token > newest:
            self._newest[partition] = token, who

    def gives_back(self, who: str, message: Message) -> None:
        """Its handler failed, and before it is tried again the partition goes to somebody else."""
        key = self.keys[message.key]
        self.working[message.key].pop(who, None)
        key.begun.discard(message.number)

    def buried(self, message: Message) -> None:
        """It became a dead letter: it came too late to a partition of the layout before."""
        if not self.slow:
            self.fail("%s is a dead letter", message)
        self.world.tell("oracle", "%s is a dead letter", message)
        self.keys[message.key].excused.add(message.number)

    def refused(self, partitions: int, why: str) -> None:
        """A resize is refused: only because there is another one under way."""
        if "is being resized from" not in why:
            self.fail("a resize to %d is refused: %s", partitions, why)

    def acked(self, body: object) -> None:
        """The broker removes a message from a partition's queue."""
        if not isinstance(body, Message):
            return
        key = self.keys[body.key]
        if body.number not in key.done and body.number not in key.excused:
            self.fail("%s is acknowledged, and nobody has handled it", body)


def _process(who: str) -> str:
    return who.rpartition(".")[0]
