"""A pull group as a model: the real term and the real duties of members, over a broker of a few lines.

The broker here does what the real one does: control queues go with their connection, what is sent to one that
is gone comes back, commands that a dead coordinator had taken are lost, the first consumer of a partition is
the active one, and a process that has stopped loses its connection after a while.
"""

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any, cast

from partymq.amqp.content import Returned
from partymq.coordinator.pull import PullSettings, PullTerm
from partymq.group import events as ev
from partymq.group.duties import Duties, GiveUp, Take
from partymq.group.state import GroupState, decode_state, encode_state
from partymq.group.wire import (
    Assignment,
    Bind,
    Call,
    Command,
    Heartbeat,
    Ready,
    Released,
    Reply,
    Standing,
    Status,
    Unbind,
)

STEP = 0.1
_BEAT = 1.0
_PATIENCE = 2.0


class ModelTerm(PullTerm):
    """The real one, but that it sends into the model."""

    def __init__(self, world: "World", state: GroupState, epoch: int) -> None:
        lease: Any = type("Lease", (), {"epoch": epoch})()
        super().__init__(world.settings, lease, state, cast("Any", None), lambda: world.now)
        self._world = world

    def send(self, queue: str, assignment: Assignment) -> None:
        self._world.sent(self, queue, assignment)


@dataclass
class ModelMember:
    """One process of a member; a name may have several, one after the other."""

    name: str
    queue: str
    duties: Duties = field(default_factory=Duties)
    inbox: deque[Assignment] = field(default_factory=deque)
    said: type[Call] | None = None  # type: ignore[valid-type]
    said_at: float = -1e9
    status: Status | None = None
    joined: bool = False
    leaving: bool = False
    unbound: bool = False
    beat_at: float = -1e9
    frozen_until: float = -1.0
    cut: bool = False


class World:
    """Time, the broker, whoever coordinates, and the members. `random` decides the order of things."""

    def __init__(self, seed: int, partitions: int, grace: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.now = 100.0
        self.settings = PullSettings("g", partitions, session_timeout=3.0, rejoin_grace=grace)
        self.saved = encode_state(GroupState.new(partitions))
        self.epoch = 0
        self.term: ModelTerm | None = None
        self.term_at = self.now
        self.ghosts: list[ModelTerm] = []
        """Coordinators that have not noticed that they are none any more."""
        self.commands: deque[tuple[Command, ModelMember]] = deque()
        self.queues: dict[str, ModelMember] = {}
        self.consumers: dict[int, list[tuple[ModelMember, int]]] = {n: [] for n in range(partitions)}
        self.active: dict[int, tuple[str, int]] = {}
        self.returns: deque[tuple[ModelTerm, str]] = deque()
        self.members: dict[str, ModelMember] = {}
        self.moves = 0
        self.strict = True
        self._number = 0

    # -- faults and wishes ---------------------------------------------------------------------------------

    def join(self, name: str) -> None:
        self._number += 1
        member = ModelMember(name, f"control-{self._number}")
        self.members[name] = self.queues[member.queue] = member

    def leave(self, name: str) -> None:
        self.members[name].leaving = True
        self.members[name].duties.leave()

    def kill(self, name: str) -> None:
        self._disconnect(self.members.pop(name))

    def freeze(self, name: str, seconds: float) -> None:
        """As SIGSTOP does. Two may consume the same partition then: the broker keeps the second waiting."""
        self.strict = False
        self.members[name].frozen_until = self.now + seconds

    def kill_coordinator(self) -> None:
        """What it had taken from its queue is lost with it; somebody else follows a little later."""
        if self.term is not None and self.random.random() < 0.5:
            self.ghosts.append(self.term)
        self.term = None
        self.term_at = self.now + self.random.choice([0.1, 0.5, 2.0])
        for _ in range(self.random.randint(0, len(self.commands))):
            self.commands.popleft()

    # -- the broker ----------------------------------------------------------------------------------------

    def sent(self, term: ModelTerm, queue: str, assignment: Assignment) -> None:
        if queue in self.queues:
            self.queues[queue].inbox.append(assignment)
        else:
            self.returns.append((term, queue))

    def _disconnect(self, member: ModelMember) -> None:
        member.cut = True
        self.queues.pop(member.queue, None)
        for number in self.consumers:
            self._remove(number, member)

    def _remove(self, number: int, member: ModelMember) -> None:
        self.consumers[number] = [one for one in self.consumers[number] if one[0] is not member]
        self._activate(number)

    def _activate(self, number: int) -> None:
        """The first in line is delivered messages, with its token; an older token must never follow."""
        if not self.consumers[number]:
            return
        member, token = self.consumers[number][0]
        owner, newest = self.active.get(number, ("", 0))
        if self.strict:
            assert token > newest or (token, member.name) == (newest, owner), (number, token, newest, owner)
        self.active[number] = (member.name, token)

    # -- a step --------------------------------------------------------------------------------------------

    def step(self) -> None:
        self.now += STEP
        todo = [self._coordinate, *(lambda m=m: self._act(m) for m in self.members.values())]
        self.random.shuffle(todo)
        for do in todo:
            do()

    def _coordinate(self) -> None:
        for ghost in self.ghosts:
            ghost.look()
        if self.random.random() < 0.1:
            self.ghosts.clear()
        if self.term is None:
            if self.now < self.term_at:
                return
            self.epoch += 1
            self.term = ModelTerm(self, decode_state(self.saved), self.epoch)
            effects = self.term.begin()
            if any(isinstance(effect, ev.Save) for effect in effects):
                self.saved = encode_state(self.term.coordinator.state)
            self.term.perform(effects)
        term = self.term
        while self.returns:
            whose, queue = self.returns.popleft()
            if whose is term:
                term.returned(Returned(312, "NO_ROUTE", "", queue, b""))
        for _ in range(self.random.randint(0, len(self.commands))):
            command, member = self.commands.popleft()
            term.submit(command, lambda reply, member=member: self._answered(member, reply))
        term.happened(ev.Tick())
        if self.random.random() < 0.5:
            term.look()
        while batch := term.waiting():
            effects = term.decide(batch)
            if any(isinstance(effect, ev.Save) for effect in effects):
                if self.random.random() < 0.02:
                    self.kill_coordinator()
                    return
                self.saved = encode_state(term.coordinator.state)
                if self.random.random() < 0.02:
                    self.kill_coordinator()
                    return
            term.decided(batch)
            term.perform(effects)

    @staticmethod
    def _answered(member: ModelMember, reply: Reply) -> None:
        if member.said is not None and reply.request_id == f"{member.queue}-{member.said.__name__}":
            member.status = reply.status

    def _say(self, member: ModelMember, call: Call) -> None:
        """A call with an answer, sent again when there is none."""
        kind = type(call)
        if member.said is not kind:
            member.said, member.status, member.said_at = kind, None, -1e9
        if member.status is None and self.now - member.said_at >= _PATIENCE:
            member.said_at = self.now
            self.commands.append((Command(f"{member.queue}-{kind.__name__}", call), member))

    def _act(self, member: ModelMember) -> None:
        if member.frozen_until > self.now:
            if member.frozen_until - self.now < 3.0 and not member.cut and self.random.random() < 0.1:
                self._disconnect(member)
            return
        if member.cut:
            self._rejoin(member)
        elif not member.joined:
            self._join(member)
        else:
            self._work(member)

    def _rejoin(self, member: ModelMember) -> None:
        self._disconnect(member)
        del self.members[member.name]
        if not member.leaving:
            self.join(member.name)

    def _join(self, member: ModelMember) -> None:
        if member.leaving:
            self.kill(member.name)
        elif member.said is None or member.said is Bind:
            self._say(member, Bind(member.name))
            if member.status is not None:
                self._say(member, Ready(member.name, member.queue))
        else:
            self._say(member, Ready(member.name, member.queue))
            if member.status is Status.OK:
                member.joined = True
            elif member.status is not None or self.now - member.said_at > 1.0:
                self._say(member, Bind(member.name))

    def _work(self, member: ModelMember) -> None:
        duties = member.duties
        for _ in range(self.random.randint(0, len(member.inbox))):
            duties.take(member.inbox.popleft())
        if duties.standing is not Standing.MEMBER and not member.leaving:
            self._rejoin(member)
            return
        if self.now - member.beat_at >= _BEAT:
            member.beat_at = self.now
            beat = Heartbeat(member.name, duties.epoch, duties.generation, member.queue)
            self.commands.append((Command("", beat), member))
        match duties.next():
            case Take(partitions):
                for number, token in partitions.items():
                    if self.strict:
                        assert not self.consumers[number], (number, self.consumers[number], member.name)
                    self.moves += 1
                    self.consumers[number].append((member, token))
                    self._activate(number)
                duties.held(partitions)
            case GiveUp(partitions) if self.random.random() < 0.4:  # handlers take their time
                for number in partitions:
                    self._remove(number, member)
                duties.gave_up(partitions)
        for handover, released in duties.released():
            word = Released(member.name, member.queue, handover, released, duties.epoch)
            self.commands.append((Command("", word), member))
        if member.leaving:
            self._say(member, Unbind(member.name))
            if not duties.partitions and member.status is not None:
                self.commands.append((Command("", Released(member.name, member.queue, 0, ())), member))
                self.kill(member.name)

    # -- what must come true -------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Every partition has one consumer, and the members the same number of them."""
        if any(member.leaving for member in self.members.values()):
            return False
        counts = dict.fromkeys(self.members, 0)
        for consumers in self.consumers.values():
            if len(consumers) != (1 if self.members else 0):
                return False
            for member, _ in consumers:
                counts[member.name] += 1
        return not counts or max(counts.values()) - min(counts.values()) <= 1

    def run_until_settled(self, seconds: float = 40.0) -> float:
        """Nothing happens any more from outside; how long it took to settle."""
        began = self.now
        while not self.settled:
            assert self.now - began < seconds, self.term and self.term.describe()
            self.step()
        return self.now - began
