"""What the server needs of a group. `partymq.coordinator` has the real ones (`instance` for push groups,
`pull_instance` for pull groups), tests a fake one."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from partymq.group.wire import MemberCall, Status
from partymq.router.statistics import Statistics as RouterStatistics


class Durations(Protocol):
    """How long something took, counted into buckets."""

    @property
    def bounds(self) -> Sequence[float]:
        """Upper bounds of the buckets in seconds, rising."""

    @property
    def counts(self) -> Sequence[int]:
        """How many fell into each bucket; one more than bounds, for all that took longer."""

    @property
    def total(self) -> float:
        """The sum of all, in seconds."""


class Statistics(Protocol):
    """A group's numbers, as this instance has them. Counters begin at 0 with the process.

    Read at scrape time on the event loop; whoever counts only adds to plain numbers.
    """

    @property
    def router(self) -> RouterStatistics:
        """What the router counts, in its own words."""

    @property
    def routed_messages(self) -> int:
        """Messages confirmed by the broker where they went."""

    @property
    def routed_bytes(self) -> int:
        """Bytes of these (as sent, frames included)."""

    @property
    def confirm_latency(self) -> Durations:
        """From publishing a message to its confirm."""

    @property
    def held_messages(self) -> int:
        """Messages held now."""

    @property
    def held_bytes(self) -> int:
        """Bytes held now."""

    @property
    def holds(self) -> int:
        """Messages that had to be held."""

    @property
    def hold_exhaustions(self) -> int:
        """How often the hold budget was used up, so that a partition's move or a window gave way."""

    @property
    def returns(self) -> int:
        """Messages that the broker returned because no queue is bound for the member."""

    @property
    def rejects(self) -> Mapping[str, int]:
        """Messages sent to the dead-letter queue, by reason."""

    @property
    def reconnects(self) -> int:
        """How often a connection to the broker was made again."""

    @property
    def rebalances(self) -> Durations:
        """Rebalances that ended, and how long they took."""

    @property
    def members(self) -> Mapping[str, int]:
        """Members by state; empty where another instance coordinates."""

    @property
    def lag(self) -> Mapping[int, int]:
        """Messages of a partition that are known not to be processed yet."""

    @property
    def coordinates(self) -> bool:
        """Whether this instance is the group's coordinator."""

    @property
    def epoch(self) -> int:
        """Number of the coordinator's term; 0 where it is not known."""

    @property
    def generation(self) -> int:
        """Number of the assignment; 0 where it is not known."""


class GroupFace(Protocol):
    """One group as the HTTP API sees it."""

    @property
    def name(self) -> str:
        """The group's name."""

    async def submit(self, call: MemberCall) -> Status:
        """Has a member's call answered by the coordinator, wherever that is.

        What the group's state does not allow may be told as a status or by raising the error of the same
        name.

        Raises:
            NoCoordinator: nobody answered in time; the call can be repeated.
            BrokerError: the broker is away.
        """

    async def describe(self) -> dict[str, Any]:
        """What `GET /groups/{group}` shows: members, partitions, generation, epoch, … as JSON-able values.

        Raises:
            NoCoordinator, BrokerError: as `submit`.
        """

    def unready(self) -> str | None:
        """Why the group cannot route now; None where it can."""

    def statistics(self) -> Statistics:
        """The group's numbers now. Does not block."""


class RunnableGroup(GroupFace, Protocol):
    """A group that lives as long as its task."""

    async def run(self) -> None:
        """Runs until it is cancelled, and then stops in good order: consumes no more, waits (bounded) for
        what is outstanding, acks what is done. A broker that is away does not end it.

        Raises:
            ConfigError: something in the broker contradicts the settings for good.
        """
