"""The settings that are keywords of `Consumer`, `Publisher` and `SyncPublisher`: for type checkers, editors.

What they mean and their defaults stand at the classes that check them: `ConsumerSettings`,
`MembershipSettings`, `GroupLayout`, `Publisher`.
"""

from typing import Literal, TypedDict

from partymq.client.failure import OnFailure, RetryPolicy
from partymq.group.key import KeyRule
from partymq.group.layout import Ingress, QueueType


class GroupOptions(TypedDict, total=False):
    """Those that the group must have; with them who comes first creates it. See `GroupLayout`."""

    partitions: int
    queue_type: QueueType
    ingress: Ingress
    key: str | KeyRule
    prefetch: int


class ConsumerOptions(GroupOptions, total=False):
    """Those of `Consumer`: of `ConsumerSettings`, `MembershipSettings`, and of the group."""

    concurrency: int
    threads: int
    retry: RetryPolicy
    on_failure: OnFailure
    ack_interval: float
    stop_timeout: float
    name: str | None
    session_timeout: float
    rejoin_grace: float
    coordinator: Literal["embedded", "server"]


class PublisherOptions(GroupOptions, total=False):
    """Those of `SyncPublisher`: of `Publisher`, and of the group."""

    timeout: float
    max_in_flight: int
    max_in_flight_bytes: int
