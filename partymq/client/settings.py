"""Settings of a consumer's data path."""

import os
from dataclasses import dataclass, field

from partymq.client.failure import OnFailure, RetryPolicy, check_on_failure
from partymq.errors import ConfigError
from partymq.group.allowed import check_number


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """How a consumer handles messages.

    Attributes:
        concurrency: messages handled at the same time at most by async handlers; those of one key never are.
        threads: the same for plain functions, which run in that many threads.
        retry: how often and when a message is handled again after its handler failed.
        on_failure: what happens to a message then: `dead-letter`, `park` (with all later ones of its key) or
            `stop` (the consumer stops, the message stays in its queue).
        ack_interval: seconds for which acknowledgements are put together at most; up to eight times as long
            while some thousand messages a second are handled.
        stop_timeout: seconds that handlers get when the consumer stops; then they are cancelled, and their
            messages go back when they have ended. For that they get 10 s, those in threads too, which can
            only look at `message.lost`.

    Raises:
        ConfigError: one of them is not possible.
    """

    concurrency: int = 64
    threads: int = field(default_factory=lambda: min(32, (os.cpu_count() or 1) + 4))
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    on_failure: OnFailure = "dead-letter"
    ack_interval: float = 0.005
    stop_timeout: float = 30.0

    def __post_init__(self) -> None:
        for name, value, highest in (
            ("concurrency", self.concurrency, 1_000_000),
            ("threads", self.threads, 10_000),
        ):
            check_number(name, value, 1, highest, whole=True)
        check_number("ack_interval", self.ack_interval, 0, 1, unit="s")
        check_number("stop_timeout", self.stop_timeout, 0, 86_400, unit="s")
        if not isinstance(self.retry, RetryPolicy):
            raise ConfigError(
                f"retry = {self.retry!r}: allowed is a RetryPolicy, say RetryPolicy(max_attempts=3)"
            )
        check_on_failure(self.on_failure)
