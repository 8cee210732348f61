"""Virtual time, chance, and what happens in order: everything in a schedule follows from its seed."""

import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Any

Call = Callable[..., None]


class World:
    """The clock, the dice and the story of one schedule.

    Args:
        seed: the same seed plays the same schedule.
        telling: whether to write the story down.
    """

    def __init__(self, seed: int, *, telling: bool = False) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.story: list[str] = []
        self.steps = 0
        self.telling = telling
        self._queue: list[tuple[float, int, Call, tuple[Any, ...]]] = []
        self._number = 0

    def at(self, when: float, call: Call, *args: Any) -> None:
        """Call at a time (seconds)."""
        self._number += 1
        heapq.heappush(self._queue, (when, self._number, call, args))

    def after(self, delay: float, call: Call, *args: Any) -> None:
        """Call after so many seconds."""
        self.at(self.now + delay, call, *args)

    def step(self) -> bool:
        """Let the next thing happen; False where nothing is left."""
        if not self._queue:
            return False
        self.now, _, call, args = heapq.heappop(self._queue)
        self.steps += 1
        call(*args)
        return True

    def lag(self) -> float:
        """How long something takes on the network: mostly little, sometimes long."""
        chance = self.rng.random()
        return 0.0005 + 0.006 * chance if chance < 0.93 else 0.15 * self.rng.random()

    def tell(self, who: str, what: str, *args: object) -> None:
        """Add a line to the story."""
        if self.telling:
            self.story.append(f"{self.now:9.4f}  {who:<14} {what % args if args else what}")


class Process:
    """Something that can be stopped, continued and killed."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.frozen = False
        self.life = 0
        """Grows when it dies: what an earlier life had planned does not happen."""
        self._waiting: list[tuple[int, Call, tuple[Any, ...]]] = []

    def timer(self, delay: float, call: Call, *args: Any) -> None:
        """Call after so many seconds, or when the process is continued after that."""
        self.world.after(delay, self.run, self.life, call, args)

    def run(self, life: int, call: Call, args: tuple[Any, ...]) -> None:
        """Call now, or when it is continued, if it is still the same life."""
        if life != self.life:
            return
        if self.frozen:
            self._waiting.append((life, call, args))
        else:
            call(*args)

    def freeze(self) -> None:
        """SIGSTOP."""
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        self.frozen = False
        waiting, self._waiting = self._waiting, []
        for life, call, args in waiting:
            self.run(life, call, args)

    def end_life(self) -> None:
        """SIGKILL."""
        self.life += 1
        self.frozen = False
        self._waiting.clear()


class Pipe:
    """One direction of a channel: what is sent arrives later, in order."""

    __slots__ = ("_calls", "_last", "_owner", "_world", "open")

    def __init__(self, world: World, owner: Process | None = None) -> None:
        self._world = world
        self._owner = owner  # who has to be awake to get it
        self._calls: deque[tuple[Call, tuple[Any, ...]]] = deque()
        self._last = 0.0
        self.open = True

    def send(self, call: Call, *args: Any) -> None:
        """Let the call arrive."""
        if self.open:
            self._last = max(self._last, self._world.now + self._world.lag())
            self._calls.append((call, args))
            self._world.at(self._last, self._arrive)

    def _arrive(self) -> None:
        if not self._calls:
            return
        if self._owner is not None and self._owner.frozen:
            self._owner.run(self._owner.life, self._arrive, ())
            return
        call, args = self._calls.popleft()
        call(*args)

    def stall(self, until: float) -> None:
        """What is sent from now on arrives then, or later."""
        self._last = max(self._last, until)

    def flush(self) -> None:
        """All of it arrives now."""
        while self._calls:
            call, args = self._calls.popleft()
            call(*args)

    def linger(self, delay: float) -> None:
        """What is under way arrives so much later, whatever becomes of the pipe."""
        for call, args in self._calls:
            self._world.after(delay, call, *args)
        self._calls.clear()

    def cut(self, some: bool) -> None:
        """Close; what is under way is lost, except (with `some`) a first part of it."""
        count = self._world.rng.randint(0, len(self._calls)) if some and self._calls else 0
        for _ in range(count):
            call, args = self._calls.popleft()
            call(*args)
        self._calls.clear()
        self.open = False
