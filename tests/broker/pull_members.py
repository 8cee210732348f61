"""Members of a pull group that note what they are given, and consume it."""

import asyncio
from collections.abc import Callable, Collection
from time import monotonic

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection
from partymq.client.membership import Membership, MembershipSettings
from partymq.client.ownership import Ended, Gain
from partymq.errors import BrokerError

GROUP = "g"
PARTITIONS = 6
WISH = {"partitions": PARTITIONS, "queue_type": "classic"}


class Member:
    """A membership that runs, and its owner."""

    def __init__(self, url: str, journal: "Journal", name: str, **settings: object) -> None:
        self.name = name
        self.journal = journal
        self.tokens: dict[int, int] = {}
        self.hold_revoke: asyncio.Event | None = None
        self.revoking = asyncio.Event()
        self._channels: dict[int, Channel] = {}
        made = MembershipSettings(name=name, **settings)  # type: ignore[arg-type]
        self.membership = Membership(url, GROUP, made, wish=WISH)
        self.connection: Connection | None = None
        self.running = asyncio.create_task(self.membership.run(self))

    def __repr__(self) -> str:
        return f"<Member {self.name} {sorted(self.tokens)} {self.membership!r}>"

    async def gained(self, gain: Gain) -> None:
        self.connection = gain.connection
        for owned in gain.partitions:
            channel = await gain.connection.open_channel()
            await channel.consume(owned.queue, lambda _buf, _spans: None)
            self._channels[owned.number] = channel
            self.tokens[owned.number] = owned.token
            self.journal.note("+", self.name, owned.number)

    def idle(self, partitions: Collection[int]) -> list[int]:
        return list(partitions)

    async def revoke(self, partitions: Collection[int], ended: Ended | None = None) -> None:
        self.revoking.set()
        if self.hold_revoke is not None:
            await self.hold_revoke.wait()
        for number in partitions:
            await self._channels.pop(number).close()
            del self.tokens[number]
            self.journal.note("-", self.name, number)

    def heed(self) -> None: ...

    def lost(self, error: BrokerError) -> None:
        self._channels.clear()
        for number in self.tokens:
            self.journal.note("x", self.name, number)
        self.tokens.clear()

    async def leave(self) -> None:
        self.membership.leave()
        await self.running

    def kill(self) -> None:
        """As kill -9 does to its connections."""
        self.running.cancel()


class Journal:
    """What happened to the partitions, in order: (what, member, partition, when)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, int, float]] = []
        self.strict = True

    def note(self, what: str, name: str, partition: int) -> None:
        if what == "+" and self.strict:
            self.check_nobody_has(partition)
        self.lines.append((what, name, partition, monotonic()))

    def check_nobody_has(self, partition: int) -> None:
        last = next((line for line in reversed(self.lines) if line[2] == partition), None)
        assert last is None or last[0] != "+", f"{partition} is still {last[1]}'s"

    def gains(self) -> list[tuple[str, int]]:
        return [(name, partition) for what, name, partition, _ in self.lines if what == "+"]


async def until(holds: Callable[[], bool], *members: Member, seconds: float = 60.0) -> float:
    """Wait for a condition; how long it took."""
    began = monotonic()
    while not holds():
        assert monotonic() - began < seconds, f"not within {seconds} s: {members}"
        for member in members:
            if member.running.done() and not member.running.cancelled():
                member.running.result()
        await asyncio.sleep(0.005)
    return monotonic() - began


def shared(*members: Member) -> bool:
    """Whether these members have all partitions, each once, evenly."""
    counts = [len(member.tokens) for member in members]
    numbers = sorted(number for member in members for number in member.tokens)
    return numbers == list(range(PARTITIONS)) and max(counts) - min(counts) <= 1
