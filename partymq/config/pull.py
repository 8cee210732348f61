"""The settings that `partymq serve` has of a pull group.

Those that all who use the group have to agree on are in the broker; here they are wishes: what the file does
not say is taken as the group has it, or as a new group has it by default.
"""

# ruff: noqa: RUF009 - `setting` and `section` are `dataclasses.field` with our metadata

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from partymq.config.entry import section, setting
from partymq.config.group import MODE, MODE_ENV, CommonSettings, Mode, QueueType
from partymq.config.kinds import Choice, Name, Number
from partymq.group.key import KeyRule, Missing, Source
from partymq.group.layout import GroupLayout, Ingress
from partymq.group.names import MOST_PARTITIONS, write_exchange

Coordinator = Literal["server", "embedded"]

_NEW: Final = GroupLayout()

FOR_ROUTER: Final = (
    ("source_queue",),
    ("source_declare",),
    ("source_queue_type",),
    ("source_exchange",),
    ("source_binding_keys",),
    ("source_prefetch",),
    ("key", "missing"),
)
"""The settings, by their paths within the group, that mean something only with ingress `router`."""


def _as_it_is(new: object) -> str:
    """The default of a wish."""
    return f"as the group has it; a new one: `{new}`"


@dataclass(frozen=True, slots=True)
class PullKeySettings:
    """Where the key of a message is."""

    source: Source | None = setting(
        None,
        "PARTYMQ_KEY_CONFIG_SOURCE",
        Choice(get_args(Source)),
        "Where the key is. With ingress `publisher` a header, into which publishers write the key; with "
        "`hash-exchange` a header or the routing key; with `router` also a value in the JSON body or a "
        "message property.",
        derived=f"as the group has it; a new one, or with `key.name`: `{_NEW.key.source}`",
    )
    name: str | None = setting(
        None,
        "PARTYMQ_KEY_CONFIG_KEY",
        Name("a name"),
        "The header's name, the path in the body (`customer.id`, `items.0.sku`), or the property's name.",
        derived=f"as the group has it; a new one, or with `key.source`: `{_NEW.key.name}`",
    )
    missing: Missing = setting(
        "spread",
        "PARTYMQ_KEY_CONFIG_MISSING",
        Choice(get_args(Missing)),
        "With ingress `router`: what happens to a message without a usable key: `spread` over all partitions "
        "(no order), all to one partition (`fixed`), or `reject` to the queue "
        "`partymq.<group>.q.dead-letter`.",
    )


@dataclass(frozen=True, slots=True)
class PullGroupSettings(CommonSettings):
    """One pull group. `name` is the table's name in the file; None is what the file does not say."""

    mode: Mode = setting("pull", MODE_ENV, MODE, "`pull`, to be set.", derived="`push`")
    coordinator: Coordinator = setting(
        "server",
        "PARTYMQ_COORDINATOR",
        Choice(get_args(Coordinator)),
        "Who coordinates the group. `server`: this process stands by for it, with all others that do. "
        "`embedded`: members elect one of themselves; this process only shows the group, and fills it where "
        "the ingress is `router`.",
    )
    partitions: int | None = setting(
        None,
        "PARTYMQ_PARTITIONS",
        Number(1, MOST_PARTITIONS),
        "Number of partitions of a new group. `partymq group resize` changes it later.",
        derived=_as_it_is(_NEW.partitions),
    )
    queue_type: QueueType | None = setting(
        None,
        "PARTYMQ_QUEUE_TYPE",
        Choice(get_args(QueueType)),
        "Type of the group's queues.",
        derived=_as_it_is(_NEW.queue_type),
    )
    ingress: Ingress | None = setting(
        None,
        "PARTYMQ_INGRESS",
        Choice(get_args(Ingress)),
        "Who finds the partition of a message: those who publish (`publisher`), the broker's "
        "hashing exchange (`hash-exchange`), or this process (`router`), which takes messages from "
        "the source queue. The settings `source_…` and `key.missing` are only for `router`.",
        derived=_as_it_is(_NEW.ingress),
    )
    prefetch: int | None = setting(
        None,
        "PARTYMQ_PREFETCH",
        Number(1, 10_000_000),
        "Messages that a member has been delivered and has not acknowledged, at most, in a new group; split "
        "evenly among its partitions, at least 8 each. `partymq group resize` changes it later.",
        derived="as the group has it; a new one: `4000`, 250 a partition at most",
    )
    source_prefetch: int = setting(
        2000,
        "PARTYMQ_SOURCE_PREFETCH",
        Number(2, 65535),
        "Messages taken from the source and not yet settled, at most.",
    )
    key: PullKeySettings = section(PullKeySettings)

    @property
    def routes(self) -> bool:
        """Whether this process is to fill the group from a source."""
        return self.ingress == "router"

    @property
    def exchange(self) -> str:
        """The exchange before the partitions."""
        return write_exchange(self.name)

    @property
    def wish(self) -> dict[str, Any]:
        """The settings that the group must have, for `agree`. Raises ValueError where key source and name do
        not fit, which `load` has excluded."""
        wished = {
            "partitions": self.partitions,
            "queue_type": self.queue_type,
            "ingress": self.ingress,
            "key": self._key,
            "prefetch": self.prefetch,
        }
        return {name: value for name, value in wished.items() if value is not None}

    @property
    def _key(self) -> KeyRule | None:
        if self.key.source is None and self.key.name is None:
            return None
        return KeyRule(self.key.source or _NEW.key.source, self.key.name or _NEW.key.name)
