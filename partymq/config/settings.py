"""Every setting once: its name, type, default, environment variable, kind and meaning.

The classes are what the rooms below are handed: immutable, values checked, times in seconds, sizes in bytes.
Reading them is done by `load`, showing them by `show`, and `docs/settings.md` is made from them.
"""

# ruff: noqa: RUF009 - `setting` and `section` are `dataclasses.field` with our metadata

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import get_args

from partymq.amqp.url import BrokerUrl
from partymq.config.entry import DERIVED, section, setting
from partymq.config.group import MODE, MODE_ENV, CommonSettings, Mode, QueueType
from partymq.config.kinds import (
    Broker,
    Choice,
    Duration,
    Management,
    ManagementUrl,
    Name,
    Number,
    Size,
)
from partymq.config.pull import PullGroupSettings
from partymq.group.key import KeyRule, Missing, Source
from partymq.group.names import DEFAULT_GROUP, write_exchange

_MIB = 2**20
_BUDGET = "allowed are sizes from 64KiB to 64GiB such as 65536, 512KiB, 64MiB"
_BODY = "allowed are sizes from 1KiB to 64MiB such as 65536, 64KiB, 1MiB"


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Where the broker is and what is known of it."""

    url: BrokerUrl = setting(
        BrokerUrl.parse("amqp://guest:guest@localhost:5672"),
        "PARTYMQ_RABBIT_CS",
        Broker(),
        "The broker.",
    )
    management_url: ManagementUrl | None = setting(
        DERIVED,
        "PARTYMQ_MANAGEMENT_URL",
        Management(),
        "The broker's management API, which tells what is ready and unacked in the members' queues and what "
        "they are called. `off`: do without; partitions then move only once they have been idle.",
        derived="from the broker's URL: same hosts and credentials, http on port 15672; "
        "for amqps https on 15671",
    )
    consumer_timeout: float = setting(
        1800.0,
        "PARTYMQ_BROKER_CONSUMER_TIMEOUT",
        Duration(least=1.0),
        "The broker's `consumer_timeout`. Nothing is held unacked longer than two thirds of it.",
    )

    def __post_init__(self) -> None:
        if self.management_url is DERIVED:
            object.__setattr__(self, "management_url", derived_management_url(self.url))
        elif self.management_url is not None and not self.management_url.username:
            with_credentials = replace(
                self.management_url, username=self.url.username, password=self.url.password
            )
            object.__setattr__(self, "management_url", with_credentials)

    @property
    def max_hold(self) -> float:
        """Seconds that a message may be held unacked at most."""
        return self.consumer_timeout * 2 / 3


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """The HTTP API."""

    host: str = setting(
        "0.0.0.0", "PARTYMQ_HTTP_HOST", Name("a host name or address"), "Address to listen on."
    )
    port: int = setting(8085, "PARTYMQ_HTTP_PORT", Number(0, 65535), "Port to listen on. 0: any free one.")
    body_limit: int = setting(
        64 * 1024,
        "PARTYMQ_HTTP_BODY_LIMIT",
        Size(1024, 64 * _MIB, _BODY),
        "Largest body of a request; a larger one is answered 413.",
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The log, written to standard error."""

    format: str = setting(
        "json",
        "PARTYMQ_LOG_FORMAT",
        Choice(("json", "console")),
        "One JSON object a line, or for a terminal.",
    )
    level: str = setting(
        "info",
        "PARTYMQ_LOG_LEVEL",
        Choice(("debug", "info", "warning", "error")),
        "Least severity that is logged.",
    )


@dataclass(frozen=True, slots=True)
class KeySettings:
    """Where the key of a message is."""

    source: Source = setting(
        "header",
        "PARTYMQ_KEY_CONFIG_SOURCE",
        Choice(get_args(Source)),
        "Where the key is: a header, a value in the JSON body, the routing key, a message property.",
    )
    name: str = setting(
        "partitionKey",
        "PARTYMQ_KEY_CONFIG_KEY",
        Name("a name"),
        "The header's name, the path in the body (`customer.id`, `items.0.sku`), or the property's name.",
    )
    missing: Missing = setting(
        "spread",
        "PARTYMQ_KEY_CONFIG_MISSING",
        Choice(get_args(Missing)),
        "What happens to a message without a usable key: `spread` over all partitions (no order), all to "
        "one partition (`fixed`), or `reject` to the queue `partymq.<group>.q.dead-letter`.",
    )


@dataclass(frozen=True, slots=True)
class HeartbeatSettings:
    """When a member counts as lost."""

    check_interval: float = setting(
        30.0,
        "PARTYMQ_HEART_BEAT_CONFIG_CHECK_INTERVAL",
        Duration(),
        "The longest pause between two looks for members whose heartbeat has expired. PartyMQ looks five "
        "times a second anyway; only a shorter one changes anything.",
    )
    expires_after: float = setting(
        120.0,
        "PARTYMQ_HEART_BEAT_CONFIG_EXPIRES_AFTER",
        Duration(),
        "A member without a heartbeat for so long is lost; its partitions go to others.",
    )
    pending_expires_after: float = setting(
        DERIVED,
        "PARTYMQ_HEART_BEAT_CONFIG_PENDING_EXPIRES_AFTER",
        Duration(),
        "A client that was bound and does not say `ready` for so long is forgotten.",
        derived="as heartbeat.expires_after",
    )

    def __post_init__(self) -> None:
        if self.pending_expires_after is DERIVED:
            object.__setattr__(self, "pending_expires_after", self.expires_after)


@dataclass(frozen=True, slots=True)
class GroupSettings(CommonSettings):
    """One push group. `name` is the table's name in the file."""

    mode: Mode = setting(
        "push",
        MODE_ENV,
        MODE,
        "`push`: PartyMQ puts messages into members' own queues. `pull`: members, which use the library, own "
        "the queues of partitions; such a group has the settings of the next table.",
    )
    partitions: int = setting(
        64,
        "PARTYMQ_PARTITIONS",
        Number(1, 4096),
        "Number of partitions, so also the largest useful number of members. Fixed once the group is used.",
    )
    exchange: str = setting(
        DERIVED,
        "PARTYMQ_EXCHANGE",
        Name("an exchange name"),
        "The exchange that members bind their queues to.",
        derived="`partymq.ex.write` for group `default`, `partymq.<group>.ex.write` for others",
    )
    prefetch: int = setting(
        2000,
        "PARTYMQ_PREFETCH",
        Number(2, 65535),
        "Messages taken from the source and not yet settled, at most.",
    )
    hold_messages: int = setting(
        DERIVED,
        "PARTYMQ_HOLD_MESSAGES",
        Number(1, 65534),
        "Messages held for partitions on the move, at most. Has to be below `prefetch`.",
        derived="half of `prefetch`",
    )
    hold_bytes: int = setting(
        64 * _MIB,
        "PARTYMQ_HOLD_BYTES",
        Size(64 * 1024, 64 * 1024 * _MIB, _BUDGET),
        "Bytes held for partitions on the move, at most.",
    )
    window: float = setting(
        0.5,
        "PARTYMQ_WINDOW",
        Duration(zero="no limit"),
        "How much work may lie in a member's queue, in time that the member needs for it. The rest waits in "
        "the source, where new members can still get it.",
    )
    drain_timeout: float = setting(
        10.0,
        "PARTYMQ_DRAIN_TIMEOUT",
        Duration(),
        "How long a member may take to finish what it has before a partition moves; then it stays.",
    )
    idle_handover: float = setting(
        30.0,
        "PARTYMQ_IDLE_HANDOVER",
        Duration(),
        "A partition of a member whose queue cannot be seen moves once it has had no message for so long.",
    )
    consumer_grace: float = setting(
        1.0,
        "PARTYMQ_CONSUMER_GRACE",
        Duration(zero="none"),
        "A member whose queue has had no consumer for so long gets nothing more until it has one.",
    )
    state_queue_type: QueueType = setting(
        "quorum",
        "PARTYMQ_STATE_QUEUE_TYPE",
        Choice(get_args(QueueType)),
        "Type of the queue that holds the group's state, when PartyMQ declares it.",
    )
    key: KeySettings = section(KeySettings)
    heartbeat: HeartbeatSettings = section(HeartbeatSettings)

    def __post_init__(self) -> None:
        CommonSettings.__post_init__(self)
        if self.exchange is DERIVED:
            object.__setattr__(self, "exchange", write_exchange(self.name))
        if self.hold_messages is DERIVED:
            object.__setattr__(self, "hold_messages", self.prefetch // 2)

    @property
    def key_rule(self) -> KeyRule:
        """The key rule. Raises ValueError where source and name do not fit, which `load` has excluded."""
        return KeyRule(self.key.source, self.key.name, self.key.missing)


AnyGroup = GroupSettings | PullGroupSettings


def _only_the_default_group() -> Mapping[str, AnyGroup]:
    return MappingProxyType({DEFAULT_GROUP: GroupSettings()})


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one server process."""

    shutdown_timeout: float = setting(
        20.0,
        "PARTYMQ_SHUTDOWN_TIMEOUT",
        Duration(),
        "How long a graceful shutdown may take: confirms are awaited, what is done is acked.",
    )
    call_timeout: float = setting(
        5.0,
        "PARTYMQ_CALL_TIMEOUT",
        Duration(),
        "How long an HTTP call waits for the coordinator before it is answered 503.",
    )
    broker: BrokerSettings = section(BrokerSettings)
    http: HttpSettings = section(HttpSettings)
    log: LogSettings = section(LogSettings)
    groups: Mapping[str, AnyGroup] = field(default_factory=_only_the_default_group)
    """By name, in the order of the file."""


def derived_management_url(url: BrokerUrl) -> ManagementUrl:
    """The management API that a broker has by default, at all its nodes."""
    scheme, port = ("https", 15671) if url.tls else ("http", 15672)
    hosts = dict.fromkeys(f"[{node.host}]" if ":" in node.host else node.host for node in url.nodes())
    at = ",".join(f"{host}:{port}" for host in hosts)
    return ManagementUrl(f"{scheme}://{at}", url.username, url.password)
