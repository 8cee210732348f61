"""A stream of messages: in by a consume channel, out by a publish channel of the same number."""

from partymq.group.key import KeyFinder
from partymq.router.contents import Fitter
from partymq.router.ledger import Ledger


class Stream:
    """One stream of a session: the source's, or that of a leftover being fetched.

    Attributes:
        ledger: what of it is on its way.
        finder: finds the keys.
        fitter: makes content fit to be published.
        reject_frame: the Publish frame for rejected messages.
        held, bytes: messages in our hands, not published yet, and their size.
        dropped: nothing more of it is routed; what is left goes back to its queue.
        seen: the number of the first publish that has not been taken to be written.
    """

    __slots__ = ("bytes", "dropped", "finder", "fitter", "held", "ledger", "reject_frame", "seen")

    def __init__(self, ledger: Ledger, finder: KeyFinder, fitter: Fitter, reject_frame: bytes) -> None:
        self.ledger = ledger
        self.finder = finder
        self.fitter = fitter
        self.reject_frame = reject_frame
        self.held = 0
        self.bytes = 0
        self.dropped = False
        self.seen = ledger.next_seq

    @property
    def is_settled(self) -> bool:
        """Whether everything that came in has gone out and is confirmed."""
        return not self.held and not self.ledger.outstanding

    def acks(self) -> bytes:
        """Acks for what is confirmed, as frames."""
        return self.ledger.acks(self.held > 0 or self.dropped)
