"""What is about to be written to the broker, and what is counted of it."""

from typing import Final

from partymq.router.lane import Held, Lane
from partymq.router.ledger import Ledger
from partymq.router.statistics import Statistics
from partymq.router.stream import Stream

BURST: Final = 4 * 2**20
"""Bytes of held messages that are let go between two calls of `take`."""
LARGE: Final = 512 * 2**10
"""Bytes from which on things are not copied together for one write."""


class Outlet:
    """The way out, shared by all who publish.

    Attributes:
        source, leftover: the streams of the session; None = not there.
        frames: Publish frames and contents in turn, in the order in which they are to be written.
        counts, last: by partition, messages published and when the last one was (monotonic seconds).
        now: monotonic seconds of the latest event.
        large: some of `frames` is large.
        burst: bytes of held messages that may still be let go before `take`.
        more: held messages could go on, but enough was let go at once.
        choked: no held messages are let go; to be set while the write buffer is full.
    """

    __slots__ = (
        "_sample",
        "burst",
        "choked",
        "counts",
        "frames",
        "large",
        "last",
        "leftover",
        "more",
        "now",
        "source",
        "statistics",
    )

    def __init__(self, partitions: int, statistics: Statistics, now: float) -> None:
        self.source: Stream | None = None
        self.leftover: Stream | None = None
        self.counts = [0] * partitions
        self.last = [now] * partitions
        self.now = now
        self.statistics = statistics
        self.reset()

    def reset(self) -> None:
        """Nothing is to be written any more."""
        self.frames: list[bytes] = []
        self.large = False
        self.burst = BURST
        self.more = False
        self.choked = False
        self._sample: tuple[Ledger, int, float] | None = None

    @property
    def streams(self) -> list[Stream]:
        """Those that are there."""
        return [stream for stream in (self.source, self.leftover) if stream is not None]

    def publish(self, stream: Stream, lane: Lane, message: Held) -> None:
        """Publish a message to a member. The caller keeps the lane's accounts."""
        frame = lane.publish if stream is self.source else lane.publish_leftover
        self.frames += (frame, message.content)
        stream.ledger.tags.append(message.tag)
        stream.ledger.lanes.append(lane)
        self.counts[message.partition] += 1
        self.last[message.partition] = self.now
        size = len(message.content)
        self.burst -= size
        if size > LARGE:
            self.large = True

    def take(self, now: float) -> list[bytes]:
        """What is to be written, in few pieces."""
        frames = self.frames
        if not frames:
            return frames
        statistics = self.statistics
        for stream in self.streams:
            published = stream.ledger.next_seq - stream.seen
            if published:
                stream.seen += published
                statistics.messages += published
                if stream is self.leftover:
                    statistics.fetched += published
                if self._sample is None:
                    self._sample = stream.ledger, stream.seen - 1, now
        self.frames = []
        if self.large:
            self.large = False
            statistics.bytes += sum(map(len, frames))
        else:
            frames = [b"".join(frames)]
            statistics.bytes += len(frames[0])
        self.burst = BURST
        return frames

    def confirmed(self, ledger: Ledger, now: float) -> None:
        """Confirms have been entered in a ledger: that may be the end of a sample of their latency."""
        if self._sample is not None:
            sampled, seq, written = self._sample
            if sampled is ledger and ledger.is_settled(seq):
                self.statistics.confirm_latency.observe(now - written)
                self._sample = None

    def count_held(self) -> None:
        """Bring the statistics of what is held in line with the streams."""
        streams = self.streams
        self.statistics.held_messages = sum(stream.held for stream in streams)
        self.statistics.held_bytes = sum(stream.bytes for stream in streams)
