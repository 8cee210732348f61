"""A group's numbers in this process, over all terms."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from partymq.group.coordinator import Coordinator
from partymq.group.names import layout_and_number
from partymq.router.statistics import LATENCY_BOUNDS
from partymq.router.statistics import Statistics as RouterStatistics

_REBALANCE_BOUNDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(slots=True)
class Durations:
    """How long something took, counted into buckets."""

    bounds: Sequence[float]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        place = sum(bound < seconds for bound in self.bounds)
        self.counts[place] += 1
        self.total += seconds


class GroupStatistics:
    """Plain counters; read on the event loop at any time. What is only known to the coordinator is zero or
    empty while another instance has that office."""

    def __init__(self) -> None:
        self.router = RouterStatistics()
        self.rebalances = Durations(_REBALANCE_BOUNDS)
        self.reconnects = 0
        self.epoch = 0
        self.generation = 0
        self.coordinates = False
        self.members: Mapping[str, int] = {}
        self.held_by_partition: Callable[[], Mapping[int, int]] | None = None
        self.ready: Mapping[int, int] = {}
        """Of a pull group: messages ready in the queues of its partitions, by the partitions' ids."""

    def rebalanced(self, durations: list[float]) -> None:
        """Count rebalances and clear the list."""
        for seconds in durations:
            self.rebalances.observe(seconds)
        durations.clear()

    def term(self, epoch: int, coordinator: Coordinator | None) -> None:
        """The state of the present term, None where this process does not coordinate."""
        self.coordinates = coordinator is not None
        self.epoch = max(self.epoch, epoch)
        if coordinator is None:
            self.members = {}
            self.held_by_partition = None
            self.ready = {}
            return
        self.generation = coordinator.state.generation
        self.members = Counter(member.state.value for member in coordinator.state.members.values())

    @property
    def lag(self) -> Mapping[int, int]:
        """Messages of each partition that wait, in the router or, of a pull group, in its queue (in a resize,
        and in that of the same number before); what members have is not known by partition."""
        if self.held_by_partition is not None:
            return self.held_by_partition()
        lag: Counter[int] = Counter()
        for identity, messages in self.ready.items():
            lag[layout_and_number(identity)[1]] += messages
        return lag

    @property
    def routed_messages(self) -> int:
        """Messages published to members."""
        return self.router.messages

    @property
    def routed_bytes(self) -> int:
        """Bytes written for them, framing included."""
        return self.router.bytes

    @property
    def confirm_latency(self) -> "Latency":
        """From a write to the confirm of its last message."""
        return Latency(self.router)

    @property
    def held_messages(self) -> int:
        """Messages held now."""
        return self.router.held_messages

    @property
    def held_bytes(self) -> int:
        """Bytes held now."""
        return self.router.held_bytes

    @property
    def holds(self) -> int:
        """Messages that had to be held."""
        return self.router.holds

    @property
    def hold_exhaustions(self) -> int:
        """How often the hold budget was used up."""
        return self.router.exhausted

    @property
    def returns(self) -> int:
        """Returns by the broker."""
        return self.router.returns

    @property
    def rejects(self) -> Mapping[str, int]:
        """Messages dead-lettered, by reason."""
        return self.router.rejects


@dataclass(frozen=True, slots=True)
class Latency:
    """The router's histogram in the form of `Durations`."""

    router: RouterStatistics

    @property
    def bounds(self) -> Sequence[float]:
        """Upper bounds in seconds."""
        return LATENCY_BOUNDS

    @property
    def counts(self) -> Sequence[int]:
        """Observations by bucket."""
        return self.router.confirm_latency.counts

    @property
    def total(self) -> float:
        """Sum in seconds."""
        return self.router.confirm_latency.total
