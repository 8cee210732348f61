"""What the settings of push and of pull groups have in common: the source, and how the two are told apart."""

# ruff: noqa: RUF009 - `setting` is `dataclasses.field` with our metadata

from dataclasses import dataclass
from typing import Final, Literal, get_args

from partymq.config.entry import DERIVED, setting
from partymq.config.kinds import Choice, Flag, Name, RoutingKeys
from partymq.group.names import DEFAULT_GROUP, source_queue

DEFAULT_SOURCE_QUEUE: Final = "partymq.q.source"

QueueType = Literal["classic", "quorum"]
Mode = Literal["push", "pull"]

MODE_ENV: Final = "PARTYMQ_MODE"
MODE: Final = Choice(get_args(Mode))


@dataclass(frozen=True, slots=True)
class CommonSettings:
    """A group's name, and where the router takes its messages from. The rest is said by push and pull."""

    name: str = DEFAULT_GROUP
    mode: Mode = "push"
    partitions: int | None = None
    source_queue: str = setting(
        DERIVED,
        "PARTYMQ_SOURCE_QUEUE",
        Name("a queue name"),
        "The queue that messages are taken from. It has to be there, unless `source_declare` or "
        "`source_exchange` is set.",
        derived="`partymq.q.source` for group `default`, `partymq.<group>.q.source` with `source_exchange`; "
        "otherwise it has to be set",
    )
    source_declare: bool = setting(
        False, "PARTYMQ_SOURCE_DECLARE", Flag(), "PartyMQ declares the source queue (durable)."
    )
    source_queue_type: QueueType = setting(
        "classic",
        "PARTYMQ_SOURCE_QUEUE_TYPE",
        Choice(get_args(QueueType)),
        "Type of the source queue where PartyMQ declares it.",
    )
    source_exchange: str | None = setting(
        None,
        "PARTYMQ_SOURCE_EXCHANGE",
        Name("an exchange name"),
        "An existing exchange. PartyMQ declares the source queue (durable) and binds it to this exchange.",
    )
    source_binding_keys: tuple[str, ...] = setting(
        (),
        "PARTYMQ_SOURCE_BINDING_KEYS",
        RoutingKeys(),
        "Routing keys with which the source queue is bound to `source_exchange`.",
        derived="`#` with `source_exchange`",
    )

    def __post_init__(self) -> None:
        if self.source_queue is DERIVED:
            default = DEFAULT_SOURCE_QUEUE if self.name == DEFAULT_GROUP else source_queue(self.name)
            object.__setattr__(self, "source_queue", default)
        if self.source_exchange is not None and not self.source_binding_keys:
            object.__setattr__(self, "source_binding_keys", ("#",))

    @property
    def declares_source(self) -> bool:
        """Whether the source queue is declared by PartyMQ."""
        return self.source_declare or self.source_exchange is not None
