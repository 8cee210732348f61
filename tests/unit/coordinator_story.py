"""Drives a coordinator and writes down what happens, so that a test can be read like a story."""

from textwrap import dedent

from partymq.group import events as ev
from partymq.group.coordinator import Coordinator
from partymq.group.membership import Timing
from partymq.group.state import GroupState, SetAside
from partymq.group.wire import Bind, Heartbeat, MemberCall, Ready, Status, Unbind
from tests.saved_state import decode_state, encode_state

TIMING = Timing(expires_after=30.0, pending_expires_after=20.0)


class Story:
    """A group, its coordinator, and the story so far."""

    def __init__(self, partitions: int = 4, timing: Timing = TIMING) -> None:
        self.state = GroupState.new(partitions)
        self.now = 1000.0
        self.lines: list[str] = []
        self.saved = encode_state(self.state)
        self._timing = timing
        self._requests = 0
        self._begin()

    def _begin(self) -> None:
        self.coordinator = Coordinator(self.state, self._timing)
        self._effects(self.coordinator.start(self.now, 1e9 + self.now))

    def tells(self, story: str) -> None:
        """Assert that this, and nothing else, has happened since the last time."""
        told, expected = "\n".join(self.lines), dedent(story).strip("\n").rstrip()
        self.lines = []
        assert told == expected, f"the story was\n{told}"

    def hush(self) -> None:
        """Begin a new chapter: what was before is known from other stories."""
        self.lines = []

    # -- what happens ------------------------------------------------------------------------------------

    def happens(self, what: str, event: ev.Event) -> list[ev.Effect]:
        """An event, in words."""
        self.lines.append(what)
        effects = self.coordinator.handle(event, self.now)
        self._effects(effects)
        return effects

    def calls(self, what: str, call: MemberCall, request_id: str | None = None) -> Status:
        """A member calls."""
        self._requests += 1
        effects = self.happens(what, ev.Called(request_id or f"r{self._requests}", call))
        return next(effect.status for effect in effects if isinstance(effect, ev.Answer))

    def binds(self, hostname: str, request_id: str | None = None) -> Status:
        return self.calls(f"{hostname} binds", Bind(hostname), request_id)

    def ready(self, hostname: str, queue: str | None = None, request_id: str | None = None) -> Status:
        words = f" with {queue}" if queue else ""
        return self.calls(f"{hostname} is ready{words}", Ready(hostname, queue), request_id)

    def joins(self, hostname: str, queue: str | None = None) -> None:
        self.binds(hostname)
        self.ready(hostname, queue or f"q-{hostname}")

    def leaves(self, hostname: str) -> Status:
        return self.calls(f"{hostname} unbinds", Unbind(hostname))

    def beats(self, *hostnames: str) -> None:
        for hostname in hostnames:
            self._requests += 1
            self.coordinator.handle(ev.Called(f"r{self._requests}", Heartbeat(hostname)), self.now)

    def waits(self, seconds: float, *alive: str) -> None:
        """Time passes; these go on sending heartbeats."""
        self.lines.append(f"{seconds:g} s pass")
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            self.beats(*alive)
            self._effects(self.coordinator.handle(ev.Tick(), self.now))

    def drained(self, handover: int) -> None:
        self.happens(f"hand-over {handover} is released", ev.Released(handover))

    def left(self, handover: int, queue: str) -> None:
        self.happens(f"hand-over {handover} is released, {queue} is left", ev.Released(handover, queue))

    def put_off(self, handover: int) -> None:
        self.happens(f"hand-over {handover} is put off", ev.PutOff(handover))

    def moved(self, leftover: int) -> None:
        self.happens(f"leftover {leftover} is moved", ev.Moved(leftover))

    def fetched(self, leftover: int) -> None:
        self.happens(f"leftover {leftover} is fetched", ev.Fetched(leftover))

    def comes_back(self, hostname: str, reason: SetAside = SetAside.RETURNED) -> None:
        self.happens(f"a message for {hostname} comes back", ev.Unroutable(hostname, reason))

    def exhausted(self, *hostnames: str) -> None:
        self.happens(f"no more can be held for {', '.join(hostnames)}", ev.HoldExhausted(hostnames))

    def sees(
        self, hostname: str, *, exists: bool = True, consumers: int | None = 1, bound: bool | None = True
    ) -> None:
        """What the broker says of a member's queue."""
        member = self.state.members[hostname]
        words = "is gone" if not exists else f"has {consumers} consumers" if bound else "is not bound"
        seen = ev.Observed(hostname, member.incarnation, exists, consumers, bound)
        self.happens(f"{hostname}'s queue {words}", seen)

    def learns(self, hostname: str, queue: str) -> None:
        """The queue bound with a member's key becomes known."""
        member = self.state.members[hostname]
        self.happens(f"{hostname}'s queue is {queue}", ev.Learned(hostname, member.incarnation, queue))

    def fails_over(self) -> None:
        """Another instance takes up what was saved last."""
        self.lines.append("another instance coordinates")
        self.state = decode_state(self.saved)
        self._begin()

    # -- what follows ------------------------------------------------------------------------------------

    def _effects(self, effects: list[ev.Effect]) -> None:
        self.lines += [f"    {_words(effect)}" for effect in effects]
        if any(isinstance(effect, ev.Save) for effect in effects):
            assert isinstance(effects[0], ev.Save), "nothing may come before the state is saved"
            assert sum(isinstance(effect, ev.Save) for effect in effects) == 1
        if any(isinstance(effect, ev.Save) for effect in effects):
            self.saved = encode_state(self.state)

    def owners(self) -> dict[str | None, list[int]]:
        """Partitions by owner."""
        owned: dict[str | None, list[int]] = {}
        for number, partition in enumerate(self.state.partitions):
            owned.setdefault(partition.owner, []).append(number)
        return owned


def pair() -> Story:
    """Members a and b, two partitions each."""
    story = Story()
    story.joins("a")
    story.joins("b")
    story.drained(1)
    story.hush()
    assert story.owners() == {"a": [0, 1], "b": [2, 3]}
    return story


def with_leftover() -> tuple[Story, int]:
    """b has died; a is to get what it left."""
    story = pair()
    story.leaves("b")
    story.left(2, "q-b")
    story.hush()
    return story, story.state.leftovers[0].number


def _words(effect: ev.Effect) -> str:
    match effect:
        case ev.Save():
            return "save"
        case ev.Answer(_, status):
            return f"answer {status.value}"
        case ev.Pause(hostname):
            return f"pause {hostname}"
        case ev.Resume(hostname):
            return f"resume {hostname}"
        case ev.GiveWay(hostname):
            return f"let {hostname} have what is held"
        case ev.Assign(owners, locked):
            lists: dict[str, list[int]] = {}
            for number, owner in owners.items():
                lists.setdefault(owner, []).append(number)
            to = ", ".join(f"{_numbers(numbers)} to {owner}" for owner, numbers in lists.items())
            return f"assign {to}{', locked' if locked else ''}"
        case ev.Unlock(partitions):
            return f"unlock {_numbers(partitions)}"
        case ev.Drain(number, hostname, queue, partitions):
            return f"drain {hostname} ({number}): {queue} for {_numbers(partitions)}"
        case ev.Reclaim(number, hostname, queue, partitions, unbind):
            words = ", unbound" if unbind else ""
            return f"reclaim from {hostname} ({number}): {queue}{words}, {_numbers(partitions)}"
        case ev.Cancel(number):
            return f"cancel hand-over {number}"
        case ev.Move(number, queue, hostname, unbind):
            return f"move leftover {number} of {hostname} out of {queue}{', unbound' if unbind else ''}"
        case ev.Fetch(number):
            return f"fetch leftover {number}"
        case ev.CancelFetch(number):
            return f"give up leftover {number}"
        case ev.Discard(number):
            return f"discard the queue of leftover {number}"
        case ev.Forget(hostname):
            return f"forget {hostname}"
        case ev.Start():
            return "start"
        case ev.Stop():
            return "stop"


def _numbers(partitions: list[int]) -> str:
    return "/".join(map(str, partitions)) or "nothing"
