"""The router of one group, as its coordinator sees it: commands in, events out, one `run` a term."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from partymq.amqp.connection import Connection
from partymq.amqp.url import BrokerUrl
from partymq.router.events import Depth, RouterEvent
from partymq.router.settings import RouterSettings
from partymq.router.statistics import Statistics

Prepare = Callable[[], Awaitable[None]]


class Router:
    """Takes messages from the source to the queues of the members, in order, losing none.

    All commands are synchronous, may be given at any time (with a session, without, before `run`), take
    effect at once, and are idempotent. A router is for one `run`: another term needs another router.

    Args:
        settings: of the group.
        source_url: the broker; the router makes a connection of its own for consuming.
        on_event: gets every event, see `events`.
        prepare: awaited before each session; makes sure that the exchange and the source stand. What it
            raises (BrokerError) counts as a session that could not be begun.
        statistics: to go on counting in.
    """

    def __init__(
        self,
        settings: RouterSettings,
        source_url: BrokerUrl,
        on_event: Callable[[RouterEvent], None],
        *,
        prepare: Prepare | None = None,
        statistics: Statistics | None = None,
    ) -> None: ...

    async def run(self, connection: Connection) -> None:
        """Route until `finish`, publishing on `connection`, whose loss is the end.

        Sessions begin after `start`, and again (with backoff) whenever one fails. Cancelled, it ends in good
        order too, within `settle_timeout`.

        Raises ConnectionLost when `connection` is lost.
        """

    # Commands ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Consume the source from now on."""

    def stop(self) -> None:
        """Consume nothing any more, in good order: what is routed is confirmed and acked, all else goes back.

        Gives up a fetch too.
        """

    def finish(self) -> None:
        """`stop`, after which `run` returns (when all is acked, at most `settle_timeout` later)."""

    def pause(self, hostname: str) -> None:
        """Send the member nothing more; hold what is meant for it."""

    def resume(self, hostname: str) -> None:
        """Send the member what is held for it, and go on."""

    def give_way(self, hostname: str) -> None:
        """Send a paused member what is held for it now; it stays paused. Locked partitions stay held."""

    def assign(self, owners: Mapping[int, str], locked: bool = False) -> None:
        """Route partitions to these owners from now on, with what is held for them.

        `locked`: hold them until `unlock` or until they are assigned without. Otherwise they are unlocked.
        """

    def lock(self, partitions: Iterable[int]) -> None:
        """Hold what comes for these partitions until they are assigned or unlocked."""

    def unlock(self, partitions: Iterable[int]) -> None:
        """What is held for these partitions may go on to their owners."""

    def forget(self, hostname: str) -> None:
        """The member is no more. Without effect while it owns a partition."""

    def fetch(self, number: int, queue: str, hostname: str) -> None:
        """Fetch a leftover back, in order, to the owners of its partitions, ahead of what is held for them.

        Ends with the event `Fetched`. One under way with another number is given up first (what of it is
        not acked goes back to its queue, in order); with the same number nothing changes. Survives sessions.
        """

    def cancel_fetch(self, number: int) -> None:
        """Give the fetch up, if it is under way."""

    def observe(self, hostname: str, depth: Depth, now: float) -> None:
        """What the broker said of the member's queue at `now` (monotonic seconds): sets its window.

        The more often it is told, the better the window fits: four times a second is good.
        """

    # Questions ---------------------------------------------------------------------------------------

    @property
    def session(self) -> int:
        """Number of the present session, 0 = none. Another number means: begun anew in between."""
        return 0

    def settled(self, hostname: str) -> bool:
        """Whether there is a session, and every publish of it to the member is confirmed.

        While the member is paused nothing more is sent to it, so that this stays true.
        """

    def published(self, hostname: str) -> int:
        """Messages sent to the member in this session, leftovers included."""

    def idle_since(self, partition: int) -> float:
        """Monotonic seconds at which a partition's last message was sent; if none, the router was made."""

    def unready(self) -> str | None:
        """Why nothing is routed now, in words; None where all is well."""

    @property
    def statistics(self) -> Statistics:
        """The counters."""

    def partition_counts(self) -> list[int]:
        """Messages sent, by partition."""

    def add_to(self, described: dict[str, Any]) -> None:
        """Add what the router knows to the coordinator's description of the group.

        To each of `members`: held, outstanding (sent, not confirmed), window (messages; None = no limit),
        rate (messages a second that it gets through, as estimated). To each of `partitions`: held, messages.
        At the top: `router` with session, unready, held_messages, held_bytes, fetching.
        """
