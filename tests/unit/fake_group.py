"""A group for tests of the server: in memory, with the rules that a member's calls have."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from partymq.group.wire import Bind, Heartbeat, MemberCall, Ready, Status
from partymq.router.statistics import Statistics as RouterStatistics


@dataclass
class FakeDurations:
    bounds: tuple[float, ...] = (0.001, 0.01)
    counts: tuple[int, ...] = (1, 2, 3)
    total: float = 1.5


@dataclass
class FakeStatistics:
    router: RouterStatistics = field(default_factory=lambda: RouterStatistics(sessions=11, spread=13))
    routed_messages: int = 12
    routed_bytes: int = 3400
    confirm_latency: FakeDurations = field(default_factory=FakeDurations)
    held_messages: int = 5
    held_bytes: int = 500
    holds: int = 7
    hold_exhaustions: int = 1
    returns: int = 2
    rejects: dict[str, int] = field(default_factory=lambda: {"absent": 4})
    reconnects: int = 3
    rebalances: FakeDurations = field(default_factory=FakeDurations)
    members: dict[str, int] = field(default_factory=lambda: {"ready": 2})
    lag: dict[int, int] = field(default_factory=lambda: {0: 9})
    coordinates: bool = True
    epoch: int = 6
    generation: int = 8


class FakeGroup:
    """Members by hostname: `pending` or `ready`. `failing` is raised by every call; `delay` is in seconds."""

    def __init__(self, name: str = "default") -> None:
        self.name = name
        self.members: dict[str, str] = {}
        self.queues: dict[str, str | None] = {}
        self.calls: list[MemberCall] = []
        self.reason: str | None = None
        self.failing: Exception | None = None
        self.delay = 0.0
        self.run_ends: Exception | None = None
        self.stop_takes = 0.0
        self.running = asyncio.Event()
        self.stopped = False
        self.numbers = FakeStatistics()

    async def submit(self, call: MemberCall) -> Status:
        self.calls.append(call)
        await asyncio.sleep(self.delay)
        if self.failing is not None:
            raise self.failing
        state = self.members.get(call.hostname)
        match call:
            case Bind(hostname):
                if state == "pending":
                    return Status.ALREADY_PENDING
                self.members[hostname] = "pending"
            case Ready(hostname, queue):
                if state is None:
                    return Status.NOT_BOUND
                if state == "ready":
                    return Status.ALREADY_READY
                self.members[hostname] = "ready"
                self.queues[hostname] = queue
            case Heartbeat():
                if state is None:
                    return Status.UNKNOWN_MEMBER
            case _:
                if self.members.pop(call.hostname, None) is None:
                    return Status.UNKNOWN_MEMBER
        return Status.OK

    async def describe(self) -> dict[str, Any]:
        await asyncio.sleep(self.delay)
        if self.failing is not None:
            raise self.failing
        return {"epoch": 1, "generation": 2, "members": [{"hostname": name} for name in self.members]}

    def unready(self) -> str | None:
        return self.reason

    def statistics(self) -> FakeStatistics:
        return self.numbers

    async def run(self) -> None:
        self.running.set()
        try:
            if self.run_ends is not None:
                raise self.run_ends
            await asyncio.Event().wait()
        finally:
            if self.stop_takes:
                await asyncio.sleep(self.stop_takes)
            self.stopped = True
