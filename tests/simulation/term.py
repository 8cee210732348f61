"""A term, as `partymq.coordinator.term` has it: events wait together, one save for them, effects in order."""

from collections import deque
from collections.abc import Callable
from functools import partial

from partymq.group import events as ev
from partymq.group.coordinator import Coordinator
from partymq.group.names import DEFAULT_GROUP, leftover_queue, member_key
from partymq.group.state import GroupState, Member, MemberState
from partymq.group.wire import MemberCall, Ready, Status
from tests.saved_state import encode_state
from tests.simulation.broker import Broker
from tests.simulation.instance import Instance
from tests.simulation.management import Management
from tests.simulation.mover import Mover
from tests.simulation.oracle import Oracle
from tests.simulation.proofs import Proofs
from tests.simulation.router_core import CoreRouter
from tests.simulation.router_model import RouterModel

TICK = 0.4
LOOK = 0.35


AnswerTo = Callable[[Status], None]


class Term:
    """One term as the coordinator.

    Args:
        make_coordinator: from the state it takes up.
        make_router: the router for this term, given where its events go.
        performed: hears of every effect that is carried out.
    """

    def __init__(
        self,
        instance: Instance,
        broker: Broker,
        oracle: Oracle,
        management: Management,
        make_coordinator: Callable[[GroupState], Coordinator],
        make_router: Callable[[Instance, Callable[[ev.Event], None]], RouterModel | CoreRouter],
        state: GroupState,
        performed: Callable[[ev.Effect], None],
    ) -> None:
        self.instance = instance
        self.world = instance.world
        self.broker = broker
        self.oracle = oracle
        self.management = management
        self._performed = performed
        self.coordinator = make_coordinator(state)
        self.router = make_router(instance, self.happened)
        self._events: deque[ev.Event] = deque()
        self._answers: dict[str, AnswerTo] = {}
        self._calls: dict[str, deque[tuple[str, MemberCall, AnswerTo]]] = {}
        self._proofs = Proofs(self)
        self._told: dict[str, tuple[int, MemberState, bool, bool, bool]] = {}
        """What was last said of a member's queue; only news is told, but all to one that waits for it."""
        self._moves: dict[int, ev.Move] = {}
        self.movers: list[Mover] = []
        self._busy = False
        self.over = False
        self._retiring = False

    def begin(self) -> None:
        """Take up the state."""
        self.coordinator.sighted = self.management.sighted
        effects = self.coordinator.start(self.world.now, 1e9 + self.world.now)
        self._save_and_perform([ev.Save(), *effects])
        self._tick()
        self._look()

    def end(self) -> None:
        """The lease is lost."""
        self.over = True
        self.router.over = True

    def retire(self) -> None:
        """Take no more events, and let the router finish."""
        self._retiring = True
        self._events.clear()
        for mover in self.movers:
            mover.end()
        self.router.finish()

    @property
    def quiet(self) -> bool:
        """Whether all is confirmed and acked, after `retire`."""
        return self.router.quiet and all(mover.over for mover in self.movers)

    def submit(self, request_id: str, call: MemberCall, answer: AnswerTo) -> None:
        """A command."""
        waiting = self._calls.setdefault(call.hostname, deque())
        waiting.append((request_id, call, answer))
        if len(waiting) == 1:
            self._next_call(call.hostname)

    def _next_call(self, hostname: str) -> None:
        """Calls of one hostname do not overtake each other."""
        waiting = self._calls[hostname]
        while waiting:
            request_id, call, answer = waiting[0]
            if isinstance(call, Ready) and call.queue is None and self.management.sighted:
                delay = self.world.lag() + self.management.slow
                self.instance.timer(delay, self._ready_with_unknown_queue, request_id, call, answer)
                return
            waiting.popleft()
            self._submitted(request_id, call, answer)

    def _ready_with_unknown_queue(self, request_id: str, call: Ready, answer: AnswerTo) -> None:
        self._submitted(request_id, Ready(call.hostname, self.queue_of(call.hostname)), answer)
        self._calls[call.hostname].popleft()
        self._next_call(call.hostname)

    def _submitted(self, request_id: str, call: MemberCall, answer: AnswerTo) -> None:
        if not self._retiring:
            self._answers[request_id] = answer
            self.happened(ev.Called(request_id, call))

    def happened(self, event: ev.Event) -> None:
        """Something happened."""
        if not self.over and not self._retiring:
            self._events.append(event)
            self.instance.timer(0.0, self._take)

    def _tick(self) -> None:
        if not self.over:
            # Of the source, and of a leftover.
            self.oracle.holds(self.router.held_messages, 2 * self.router.prefetch)
            self.happened(ev.Tick())
            self.instance.timer(TICK, self._tick)

    # -- decisions -------------------------------------------------------------------------------------

    def _take(self) -> None:
        if self._busy or self.over or self._retiring or not self._events:
            return
        count = 1 if self.world.rng.random() < 0.5 else len(self._events)
        effects: list[ev.Effect] = []
        self.coordinator.sighted = self.management.sighted
        for _ in range(count):
            event = self._events.popleft()
            if self.world.telling and not isinstance(event, (ev.Tick, ev.Observed)):
                self.world.tell(self.instance.name, "< %s", event)
            effects += self.coordinator.handle(event, self.world.now)
        self.oracle.state_is_sound(self.coordinator.state)
        self._save_and_perform(effects)

    def _save_and_perform(self, effects: list[ev.Effect]) -> None:
        # As the effects say, first of all; a coordinator that is broken on purpose has it elsewhere.
        saves = [at for at, effect in enumerate(effects) if isinstance(effect, ev.Save)]
        late = effects[: saves[0]] if saves else effects
        for effect in late:
            if not self._perform(effect):
                return
        if not saves:
            self._done()
            return
        self._busy = True
        rest = effects[saves[0] + 1 :]
        channel = self.instance.state_channel
        assert channel is not None
        if not self._survives("saves"):
            return
        payload = encode_state(self.coordinator.state)
        self.instance.election.save(channel, payload, lambda: self._saved(rest))

    def _saved(self, rest: list[ev.Effect]) -> None:
        if self.over:
            return
        for effect in rest:
            if not isinstance(effect, ev.Save) and not self._perform(effect):
                return
        self._done()

    def _done(self) -> None:
        self._busy = False
        if self._events:
            self.instance.timer(0.0, self._take)

    def _survives(self, what: str) -> bool:
        instance = self.instance
        if instance.crash_in is not None:
            if instance.crash_in <= 0:
                self.world.tell(instance.name, "dies before: %s", what)
                instance.crash_in = None
                instance.kill()
                return False
            instance.crash_in -= 1
        return True

    def _perform(self, effect: ev.Effect) -> bool:
        """Carry an effect out; False when the process died before."""
        if not self._survives(str(effect)):
            return False
        if self.world.telling and not isinstance(effect, ev.Answer):
            self.world.tell(self.instance.name, "  > %s", effect)
        self._performed(effect)
        router = self.router
        match effect:
            case ev.Answer(request_id, status):
                answer = self._answers.pop(request_id, None)
                if answer is not None:
                    answer(status)
            case ev.Pause(hostname):
                router.pause(hostname)
            case ev.Resume(hostname):
                router.resume(hostname)
            case ev.GiveWay(hostname):
                router.give_way(hostname)
            case ev.Assign(owners, locked):
                if self.instance.holds_lease:
                    self.oracle.assigned(self.coordinator.state, owners)
                router.assign(owners, locked)
            case ev.Unlock(partitions):
                router.unlock(partitions)
            case ev.Drain():
                self._proofs.drain(effect)
            case ev.Reclaim(_, hostname, queue, _, unbind):
                self._unbind(hostname, queue or "", unbind, partial(self._proofs.reclaim, effect))
            case ev.Cancel(number):
                self._proofs.cancel(number)
            case ev.Move(number, queue, hostname, unbind):
                self._moves[number] = effect
                self._unbind(hostname, queue, unbind, partial(self._move, effect))
            case ev.Fetch(number):
                router.fetch(number, leftover_queue(DEFAULT_GROUP, number))
            case ev.CancelFetch(number):
                self._moves.pop(number, None)
                for mover in self._movers_of(number):
                    mover.end()
                router.cancel_fetch(number)
            case ev.Discard(number):
                self.instance.timer(
                    self.world.lag(), self.broker.delete, leftover_queue(DEFAULT_GROUP, number)
                )
            case ev.Forget(hostname):
                router.forget(hostname)
                self._told.pop(hostname, None)
            case ev.Start():
                router.start()
            case ev.Stop():
                router.stop()
        return True

    def _movers_of(self, number: int) -> list[Mover]:
        target = leftover_queue(DEFAULT_GROUP, number)
        return [mover for mover in self.movers if mover.target == target and not mover.over]

    def _move(self, move: ev.Move) -> None:
        """Begin, when an earlier try has ended."""
        number = move.leftover
        connection = self.instance.coordinator
        if self._moves.get(number) is not move or self.over or connection is None:
            return
        if self._movers_of(number):
            self.instance.timer(0.05, self._move, move)
            return
        target = leftover_queue(DEFAULT_GROUP, number)
        moved = partial(self._has_moved, move)
        self.movers.append(
            Mover(self.world, self.broker, self.instance, connection, move.queue, target, moved)
        )

    def _has_moved(self, move: ev.Move) -> None:
        if self._moves.get(move.leftover) is move:
            del self._moves[move.leftover]
            self.happened(ev.Moved(move.leftover))

    def _unbind(self, hostname: str, queue: str, unbind: bool, then: Callable[[], None]) -> None:
        """Remove a binding first, where it has to be; never the only one that is of use."""

        def unbound() -> None:
            if self.over:
                return
            if not self.instance.holds_lease or not self.management.sighted:
                self.instance.timer(0.1, unbound)
            elif self._may_unbind(hostname, queue):
                self.broker.unbind(queue, member_key(hostname))
                self.instance.timer(self.world.lag(), then)
            else:
                self.instance.timer(0.1, unbound)

        if unbind:
            self.instance.timer(self.world.lag(), unbound)
        else:
            then()

    def _may_unbind(self, hostname: str, queue: str) -> bool:
        member = self.coordinator.state.members.get(hostname)
        if member is None or member.queue is None or not self.broker.look(queue).consumers:
            return True
        bound = member.queue in self.broker.bindings.get(member_key(hostname), [])
        return bound and self.broker.look(member.queue).consumers > 0

    def _discard(self, queue: str) -> None:
        if self.broker.look(queue).ready:
            self.oracle.fail("%s is discarded with messages in it", queue)
        self.broker.delete(queue)

    # -- looking -----------------------------------------------------------------------------------------

    def _look(self) -> None:
        if self.over:
            return
        if self.management.sighted:
            for member in list(self.coordinator.state.members.values()):
                self.instance.timer(self.world.lag(), self._look_at, member, member.incarnation)
        self.instance.timer(LOOK, self._look)

    def _look_at(self, member: Member, incarnation: int) -> None:
        hostname = member.hostname
        if member.queue is None:
            queue = self.queue_of(hostname)
            if queue is not None:
                self.later(ev.Learned(hostname, incarnation, queue))
            return
        seen = self.broker.look(member.queue)
        ours = sum(mover.queue == member.queue and mover.consumer is not None for mover in self.movers)
        consumers = max(0, seen.consumers - ours)
        bound = member.queue in self.broker.bindings.get(member_key(hostname), [])
        news = (incarnation, member.state, seen.exists, consumers > 0, bound)
        if member.state is MemberState.SET_ASIDE or self._told.get(hostname) != news:
            self._told[hostname] = news
            self.later(ev.Observed(hostname, incarnation, seen.exists, consumers, bound))
        other = self.queue_of(hostname, besides=member.queue)
        if other is not None and (not bound or (not consumers and self.broker.look(other).consumers)):
            self.later(ev.Learned(hostname, incarnation, other))
        elif not ours:
            self.router.observe(hostname, seen)

    def queue_of(self, hostname: str, besides: str | None = None) -> str | None:
        """The queue bound with a member's key; of several the one that is consumed, if it is the only one."""
        if not self.management.sighted:
            return None
        bound = [name for name in self.broker.bindings.get(member_key(hostname), []) if name != besides]
        if len(bound) > 1:
            bound = [name for name in bound if self.broker.look(name).consumers]
        return bound[0] if len(bound) == 1 else None

    def successor_of(self, hostname: str) -> str | None:
        """What is bound with the key of a member whose queue is gone."""
        return self.queue_of(hostname)

    def later(self, event: ev.Event) -> None:
        """What was seen a moment ago."""
        self.instance.timer(self.world.lag() + self.management.slow, self.happened, event)
