"""Every setting once: its name, type, default, environment variable, kind and meaning.

The classes are what the rooms below are handed: immutable, values checked, times in seconds, sizes in bytes.
Reading them is done by `load`, showing them by `show`, and `docs/settings.md` is made from them.
"""

# ruff: noqa: RUF009 - `_setting` and `_section` are `dataclasses.field` with our metadata

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

from partymq.amqp.url import BrokerUrl
from partymq.config.kinds import (
    Broker,
    Choice,
    Duration,
    Flag,
    Kind,
    Management,
    ManagementUrl,
    Name,
    Number,
    RoutingKeys,
    Size,
)
from partymq.group.key import KeyRule, Missing, Source
from partymq.group.names import DEFAULT_GROUP, source_queue, write_exchange

DEFAULT_SOURCE_QUEUE = "partymq.q.source"
_DERIVED: Any = object()
"""Stands for a default that depends on other settings; `__post_init__` puts it in."""

QueueType = Literal["classic", "quorum"]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one setting besides its name, type and default."""

    env: str
    kind: Kind
    meaning: str
    derived: str = ""
    """How the default follows from other settings, where it does."""


def _setting(default: Any, env: str, kind: Kind, meaning: str, derived: str = "") -> Any:
    return field(default=default, metadata={"setting": Setting(env, kind, meaning, derived)})


def _section(of: type) -> Any:
    return field(default_factory=of, metadata={"section": of})


_MIB = 2**20
_BUDGET = "allowed are sizes from 64KiB to 64GiB such as 65536, 512KiB, 64MiB"
_BODY = "allowed are sizes from 1KiB to 64MiB such as 65536, 64KiB, 1MiB"


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Where the broker is and what is known of it."""

    url: BrokerUrl = _setting(
        BrokerUrl.parse("amqp://guest:guest@localhost:5672"),
        "PARTYMQ_RABBIT_CS",
        Broker(),
        "The broker.",
    )
    management_url: ManagementUrl | None = _setting(
        _DERIVED,
        "PARTYMQ_MANAGEMENT_URL",
        Management(),
        "The broker's management API, which tells what is ready and unacked in the members' queues and what "
        "they are called. `off`: do without; partitions then move only once they have been idle.",
        derived="from the broker's URL: same host and credentials, http on port 15672; "
        "for amqps https on 15671",
    )
    consumer_timeout: float = _setting(
        1800.0,
        "PARTYMQ_BROKER_CONSUMER_TIMEOUT",
        Duration(least=1.0),
        "The broker's `consumer_timeout`. Nothing is held unacked longer than two thirds of it.",
    )

    def __post_init__(self) -> None:
        if self.management_url is _DERIVED:
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

    host: str = _setting(
        "0.0.0.0", "PARTYMQ_HTTP_HOST", Name("a host name or address"), "Address to listen on."
    )
    port: int = _setting(8085, "PARTYMQ_HTTP_PORT", Number(0, 65535), "Port to listen on. 0: any free one.")
    body_limit: int = _setting(
        64 * 1024,
        "PARTYMQ_HTTP_BODY_LIMIT",
        Size(1024, 64 * _MIB, _BODY),
        "Largest body of a request; a larger one is answered 413.",
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The log, written to standard error."""

    format: str = _setting(
        "json",
        "PARTYMQ_LOG_FORMAT",
        Choice(("json", "console")),
        "One JSON object a line, or for a terminal.",
    )
    level: str = _setting(
        "info",
        "PARTYMQ_LOG_LEVEL",
        Choice(("debug", "info", "warning", "error")),
        "Least severity that is logged.",
    )


@dataclass(frozen=True, slots=True)
class KeySettings:
    """Where the key of a message is."""

    source: Source = _setting(
        "header",
        "PARTYMQ_KEY_CONFIG_SOURCE",
        Choice(get_args(Source)),
        "Where the key is: a header, a value in the JSON body, the routing key, a message property.",
    )
    name: str = _setting(
        "partitionKey",
        "PARTYMQ_KEY_CONFIG_KEY",
        Name("a name"),
        "The header's name, the path in the body (`customer.id`, `items.0.sku`), or the property's name.",
    )
    missing: Missing = _setting(
        "spread",
        "PARTYMQ_KEY_CONFIG_MISSING",
        Choice(get_args(Missing)),
        "What happens to a message without a usable key: `spread` over all partitions (no order), all to "
        "one partition (`fixed`), or `reject` to the queue `partymq.<group>.q.dead-letter`.",
    )


@dataclass(frozen=True, slots=True)
class HeartbeatSettings:
    """When a member counts as lost."""

    check_interval: float = _setting(
        30.0,
        "PARTYMQ_HEART_BEAT_CONFIG_CHECK_INTERVAL",
        Duration(),
        "The longest pause between two looks for members whose heartbeat has expired. PartyMQ looks five "
        "times a second anyway; only a shorter one changes anything.",
    )
    expires_after: float = _setting(
        120.0,
        "PARTYMQ_HEART_BEAT_CONFIG_EXPIRES_AFTER",
        Duration(),
        "A member without a heartbeat for so long is lost; its partitions go to others.",
    )
    pending_expires_after: float = _setting(
        _DERIVED,
        "PARTYMQ_HEART_BEAT_CONFIG_PENDING_EXPIRES_AFTER",
        Duration(),
        "A client that was bound and does not say `ready` for so long is forgotten.",
        derived="as heartbeat.expires_after",
    )

    def __post_init__(self) -> None:
        if self.pending_expires_after is _DERIVED:
            object.__setattr__(self, "pending_expires_after", self.expires_after)


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """One consumer group. `name` is the table's name in the file."""

    name: str = DEFAULT_GROUP
    partitions: int = _setting(
        64,
        "PARTYMQ_PARTITIONS",
        Number(1, 4096),
        "Number of partitions, so also the largest useful number of members. Fixed once the group is used.",
    )
    source_queue: str = _setting(
        _DERIVED,
        "PARTYMQ_SOURCE_QUEUE",
        Name("a queue name"),
        "The queue that messages are taken from. It has to be there, unless `source_declare` or "
        "`source_exchange` is set.",
        derived="`partymq.q.source` for group `default`, `partymq.<group>.q.source` with `source_exchange`; "
        "otherwise it has to be set",
    )
    source_declare: bool = _setting(
        False, "PARTYMQ_SOURCE_DECLARE", Flag(), "PartyMQ declares the source queue (durable)."
    )
    source_queue_type: QueueType = _setting(
        "classic",
        "PARTYMQ_SOURCE_QUEUE_TYPE",
        Choice(get_args(QueueType)),
        "Type of the source queue where PartyMQ declares it.",
    )
    source_exchange: str | None = _setting(
        None,
        "PARTYMQ_SOURCE_EXCHANGE",
        Name("an exchange name"),
        "An existing exchange. PartyMQ declares the source queue (durable) and binds it to this exchange.",
    )
    source_binding_keys: tuple[str, ...] = _setting(
        (),
        "PARTYMQ_SOURCE_BINDING_KEYS",
        RoutingKeys(),
        "Routing keys with which the source queue is bound to `source_exchange`.",
        derived="`#` with `source_exchange`",
    )
    exchange: str = _setting(
        _DERIVED,
        "PARTYMQ_EXCHANGE",
        Name("an exchange name"),
        "The exchange that members bind their queues to.",
        derived="`partymq.ex.write` for group `default`, `partymq.<group>.ex.write` for others",
    )
    prefetch: int = _setting(
        2000,
        "PARTYMQ_PREFETCH",
        Number(2, 65535),
        "Messages taken from the source and not yet settled, at most.",
    )
    hold_messages: int = _setting(
        _DERIVED,
        "PARTYMQ_HOLD_MESSAGES",
        Number(1, 65534),
        "Messages held for partitions on the move, at most. Has to be below `prefetch`.",
        derived="half of `prefetch`",
    )
    hold_bytes: int = _setting(
        64 * _MIB,
        "PARTYMQ_HOLD_BYTES",
        Size(64 * 1024, 64 * 1024 * _MIB, _BUDGET),
        "Bytes held for partitions on the move, at most.",
    )
    window: float = _setting(
        0.5,
        "PARTYMQ_WINDOW",
        Duration(zero="no limit"),
        "How much work may lie in a member's queue, in time that the member needs for it. The rest waits in "
        "the source, where new members can still get it.",
    )
    drain_timeout: float = _setting(
        10.0,
        "PARTYMQ_DRAIN_TIMEOUT",
        Duration(),
        "How long a member may take to finish what it has before a partition moves; then it stays.",
    )
    idle_handover: float = _setting(
        30.0,
        "PARTYMQ_IDLE_HANDOVER",
        Duration(),
        "A partition of a member whose queue cannot be seen moves once it has had no message for so long.",
    )
    consumer_grace: float = _setting(
        1.0,
        "PARTYMQ_CONSUMER_GRACE",
        Duration(zero="none"),
        "A member whose queue has had no consumer for so long gets nothing more until it has one.",
    )
    state_queue_type: QueueType = _setting(
        "quorum",
        "PARTYMQ_STATE_QUEUE_TYPE",
        Choice(get_args(QueueType)),
        "Type of the queue that holds the group's state, when PartyMQ declares it.",
    )
    key: KeySettings = _section(KeySettings)
    heartbeat: HeartbeatSettings = _section(HeartbeatSettings)

    def __post_init__(self) -> None:
        if self.source_queue is _DERIVED:
            default = DEFAULT_SOURCE_QUEUE if self.name == DEFAULT_GROUP else source_queue(self.name)
            object.__setattr__(self, "source_queue", default)
        if self.source_exchange is not None and not self.source_binding_keys:
            object.__setattr__(self, "source_binding_keys", ("#",))
        if self.exchange is _DERIVED:
            object.__setattr__(self, "exchange", write_exchange(self.name))
        if self.hold_messages is _DERIVED:
            object.__setattr__(self, "hold_messages", self.prefetch // 2)

    @property
    def key_rule(self) -> KeyRule:
        """The key rule. Raises ValueError where source and name do not fit, which `load` has excluded."""
        return KeyRule(self.key.source, self.key.name, self.key.missing)

    @property
    def declares_source(self) -> bool:
        """Whether the source queue is declared by PartyMQ."""
        return self.source_declare or self.source_exchange is not None


def _only_the_default_group() -> Mapping[str, GroupSettings]:
    return MappingProxyType({DEFAULT_GROUP: GroupSettings()})


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one server process."""

    shutdown_timeout: float = _setting(
        20.0,
        "PARTYMQ_SHUTDOWN_TIMEOUT",
        Duration(),
        "How long a graceful shutdown may take: confirms are awaited, what is done is acked.",
    )
    call_timeout: float = _setting(
        5.0,
        "PARTYMQ_CALL_TIMEOUT",
        Duration(),
        "How long an HTTP call waits for the coordinator before it is answered 503.",
    )
    broker: BrokerSettings = _section(BrokerSettings)
    http: HttpSettings = _section(HttpSettings)
    log: LogSettings = _section(LogSettings)
    groups: Mapping[str, GroupSettings] = field(default_factory=_only_the_default_group)
    """By name, in the order of the file."""


def derived_management_url(url: BrokerUrl) -> ManagementUrl:
    """The management API that a broker has by default."""
    scheme, port = ("https", 15671) if url.tls else ("http", 15672)
    host = f"[{url.host}]" if ":" in url.host else url.host
    return ManagementUrl(f"{scheme}://{host}:{port}", url.username, url.password)
