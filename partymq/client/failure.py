"""What happens to a message whose handler fails: how often and when it is tried again, and what is written on
it when it is given up. Pure."""

import traceback
from dataclasses import dataclass
from typing import Final, Literal, get_args

from partymq.client.message import Message
from partymq.errors import ConfigError
from partymq.group.allowed import check_number
from partymq.router.contents import (
    EXCHANGE_HEADER,
    GROUP_HEADER,
    PARTITION_HEADER,
    REASON_HEADER,
    ROUTING_KEY_HEADER,
)

OnFailure = Literal["dead-letter", "park", "stop"]

KEY_HEADER: Final = "x-partymq-key"
ATTEMPTS_HEADER: Final = "x-partymq-attempts"
ERROR_HEADER: Final = "x-partymq-error"
TRACEBACK_HEADER: Final = "x-partymq-traceback"

_LONGEST_ERROR: Final = 1_000
_LONGEST_TRACEBACK: Final = 4_000
_FRAMES: Final = 8


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a message is handled, and how long after a failure it is again.

    While it waits, it holds back the messages of its key, and no others. After the n-th failure it waits
    `first_delay * factor ** (n - 1)` seconds, at most `max_delay`, up to `jitter` of it more or less.

    Attributes:
        max_attempts: times it is handled by one member at most; 1 = never again.
        first_delay: seconds after the first failure.
        factor: by which each pause is longer than the one before.
        max_delay: seconds at most.
        jitter: share of a pause that is left to chance, 0 to 1.

    Raises:
        ConfigError: one of them is not possible.
    """

    max_attempts: int = 5
    first_delay: float = 0.1
    factor: float = 2.0
    max_delay: float = 30.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        check_number("max_attempts", self.max_attempts, 1, whole=True)
        for name in ("first_delay", "max_delay"):
            check_number(name, getattr(self, name), 0, 86_400, unit="s")
        if self.max_delay < self.first_delay:
            raise ConfigError(
                f"first_delay = {self.first_delay:g}, max_delay = {self.max_delay:g}: allowed are 0 and more"
                " seconds, the second not below the first"
            )
        check_number("factor", self.factor, 1, 1_000)
        check_number("jitter", self.jitter, 0, 1)

    def delay(self, attempt: int, chance: float) -> float | None:
        """Seconds until the next attempt after the failure of this one; None: it is given up.

        `chance`: a random number from 0 to 1.
        """
        if attempt >= self.max_attempts:
            return None
        # The exponent is bounded, as a float overflows at some 1,000 doublings.
        seconds = min(self.first_delay * self.factor ** min(attempt - 1, 64), self.max_delay)
        return seconds * (1 + self.jitter * (2 * chance - 1))


def check_on_failure(value: str) -> None:
    """Raises ConfigError where it is none of `OnFailure`."""
    if value not in get_args(OnFailure):
        raise ConfigError(f"on_failure = {value!r}: allowed are {', '.join(get_args(OnFailure))}")


def failure_headers(message: Message, group: str, reason: str, error: BaseException | None) -> dict[str, str]:
    """What is written on a message that is given up: where it came from, and why."""
    headers = {
        REASON_HEADER: reason,
        GROUP_HEADER: group,
        EXCHANGE_HEADER: message.exchange,
        ROUTING_KEY_HEADER: message.routing_key,
        PARTITION_HEADER: str(message.partition),
        ATTEMPTS_HEADER: str(message.attempt),
    }
    if message.key is not None:
        headers[KEY_HEADER] = message.key
    if error is not None:
        headers[ERROR_HEADER] = describe(error)[:_LONGEST_ERROR]
        headers[TRACEBACK_HEADER] = summary(error)
    return headers


def describe(error: BaseException) -> str:
    """Type and text, in one line."""
    try:
        text = " ".join(_plain(str(error)).split())
    except Exception:
        text = "(what it says can't be shown)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def summary(error: BaseException) -> str:
    """The last frames of its traceback, and of those that caused it; bounded."""
    lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-_FRAMES)
    return _plain("".join(lines)[-_LONGEST_TRACEBACK:])


def _plain(text: str) -> str:
    """Without halves of surrogate pairs, which can't be sent."""
    return text.encode(errors="backslashreplace").decode()
