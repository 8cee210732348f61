"""The settings of a pull group that all who use it have to agree on: one JSON message in the broker. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import gcd
from typing import Any, Final, Literal, Self, get_args

import msgspec

from partymq.errors import ConfigError
from partymq.group.allowed import check_number
from partymq.group.key import KeyRule
from partymq.group.names import MOST_PARTITIONS, partition_key, partition_queue

QueueType = Literal["quorum", "classic"]
Ingress = Literal["publisher", "hash-exchange", "router"]

_KEY_OF_HASH: Final = ("header", "routing_key")
_LEAST_PREFETCH: Final = 8
_MOST_PREFETCH: Final = 65_535
_USUAL_PREFETCH: Final = 4_000
_USUAL_PREFETCH_OF_ONE: Final = 250


class _Key(msgspec.Struct, frozen=True):
    source: str
    name: str = ""


class _Message(msgspec.Struct, frozen=True):
    """What the settings queue holds. Unknown fields are ignored."""

    version: int
    layout: int
    partitions: int
    queue_type: str
    ingress: str
    key: _Key
    previous: int = 0
    prefetch: int = 0
    previous_prefetch: int = 0
    first: int = 1


_DECODE = msgspec.json.Decoder(_Message).decode


@dataclass(frozen=True, slots=True)
class GroupLayout:
    """Where the messages of a pull group are.

    Attributes:
        partitions: their number.
        queue_type: of the partitions' queues, `quorum` or `classic`.
        ingress: who knows the partition of a message: `publisher` (the library, or another one that keeps the
            rule of docs/publishers.md), `hash-exchange` (an exchange of the broker's that hashes keys), or
            `router` (`partymq serve`).
        key: what messages are ordered by. A publisher needs a header (it writes the key there), a hash
            exchange a header or the routing key. `missing` is not part of the group's settings.
        layout: number of the set of queues; `first`, and one more with every change of `partitions`.
        version: of these settings; the highest one counts.
        previous: the number of partitions of the layout before, until that is empty; 0 = there is none.
        prefetch: messages at most that a member has been delivered and has not acknowledged; split evenly
            among the partitions, so that it holds even for a member that owns them all, but at least 8 a
            partition. 0: 4,000, and 250 a partition at most. The same for all members, and for as long as
            the queues: what an owner gives back of a quorum queue keeps its order only where the next one
            takes as many.
        previous_prefetch: the same of the layout before.
        first: the number of the group's first layout: 1; where the group was deleted and made anew with
            another number of partitions one that it had not before, so that whoever knows it from then
            notices.

    Raises:
        ConfigError: one of them is not possible.
    """

    partitions: int = 64
    queue_type: QueueType = "quorum"
    ingress: Ingress = "publisher"
    key: KeyRule = field(default_factory=KeyRule)
    layout: int = 1
    version: int = 1
    previous: int = 0
    prefetch: int = 0
    previous_prefetch: int = 0
    first: int = 1

    def __post_init__(self) -> None:
        check_number("partitions", self.partitions, 1, MOST_PARTITIONS, whole=True)
        for name, value, allowed in (
            ("queue_type", self.queue_type, get_args(QueueType)),
            ("ingress", self.ingress, get_args(Ingress)),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} = {value!r}: allowed are {', '.join(allowed)}")
        for name, number in (("layout", self.layout), ("version", self.version)):
            if number < 1:
                raise ConfigError(f"{name} = {number}: allowed are 1 and more")
        check_number("prefetch", self.prefetch, 0, 10_000_000, whole=True)
        if not isinstance(self.key, KeyRule):
            raise ConfigError(
                f"key = {self.key!r}: allowed are texts such as header:customer and routing_key"
            )
        sources = {"publisher": ("header",), "hash-exchange": _KEY_OF_HASH}.get(self.ingress)
        if sources is not None and self.key.source not in sources:
            raise ConfigError(
                f"key = {key_text(self.key)}: with ingress {self.ingress} allowed are {', '.join(sources)}"
            )

    @classmethod
    def of(cls, wish: Mapping[str, Any]) -> Self:
        """The layout of a new group of which these settings are wished, the others as they are by default.

        Raises ConfigError for an unknown or impossible one.
        """
        unknown = set(wish) - set(WISHES)
        if unknown:
            raise ConfigError(
                f"unknown settings of a group: {', '.join(sorted(unknown))}; known are {', '.join(WISHES)}"
            )
        return cls(**wish)

    def check(self, group: str, wish: Mapping[str, Any]) -> None:
        """Raises ConfigError where something else is wished than what is, naming both."""
        for name, wished in wish.items():
            found = getattr(self, name)
            if name in ("partitions", "prefetch") and self.layout > self.first:
                continue  # resized since it was created
            if name == "key":
                found, wished = key_text(found), key_text(wished)
            if found != wished:
                raise ConfigError(
                    f"group {group}: {name} = {wished!r} is set here, but the group was created with"
                    f" {name} = {found!r}: use that, leave the setting out, or take another group"
                )

    def resized(self, partitions: int, prefetch: int | None = None) -> Self:
        """The next layout: queues of another number, or for another prefetch (None: the same)."""
        return replace(
            self,
            partitions=partitions,
            prefetch=self.prefetch if prefetch is None else prefetch,
            layout=self.layout + 1,
            version=self.version + 1,
            previous=self.partitions,
            previous_prefetch=self.prefetch,
        )

    def after(self, former: Self | None) -> Self:
        """The same as a group's first layout, where a group of its name had these settings before it was
        deleted: with the number that one had where each key is in the same partition, else with the next."""
        if former is None:
            return self
        names = ("partitions", "ingress", "key")
        same = not former.previous and all(getattr(self, name) == getattr(former, name) for name in names)
        first = former.layout if same else former.layout + 1
        return replace(self, layout=first, version=former.version + 1, first=first)

    def before(self) -> Self | None:
        """The layout before, while it is being emptied."""
        if not self.previous:
            return None
        return replace(
            self,
            partitions=self.previous,
            prefetch=self.previous_prefetch,
            layout=self.layout - 1,
            previous=0,
            previous_prefetch=0,
        )

    def settled(self) -> Self:
        """The same when the layout before is no more."""
        return replace(self, version=self.version + 1, previous=0, previous_prefetch=0)

    @property
    def prefetch_of_one(self) -> int:
        """The prefetch of each partition."""
        share = max((self.prefetch or _USUAL_PREFETCH) // self.partitions, _LEAST_PREFETCH)
        return min(share, _MOST_PREFETCH if self.prefetch else _USUAL_PREFETCH_OF_ONE)

    @property
    def common(self) -> int:
        """A partition can hold keys of those of the layout before that are the same as it modulo this.

        A key's partition is crc32 modulo their number, so that is the greatest common divisor of the two; but
        what a hash exchange does is the broker's affair: there it may be any.
        """
        if self.ingress == "hash-exchange":
            return 1
        return gcd(self.partitions, self.previous)

    def queue(self, group: str, partition: int) -> str:
        """The queue of a partition."""
        return partition_queue(group, self.layout, partition)

    def routing_key(self, partition: int) -> str:
        """With which the queue of a partition is bound to the write exchange."""
        return partition_key(self.layout, partition)

    def describe(self) -> dict[str, Any]:
        """What can be said of it, for people and machines."""
        return {
            "partitions": self.partitions,
            "queue_type": self.queue_type,
            "ingress": self.ingress,
            "key": key_text(self.key),
            "prefetch": self.prefetch or _USUAL_PREFETCH,
            "layout": self.layout,
            "version": self.version,
        } | ({"resized_from": self.previous} if self.previous else {})

    def encode(self) -> bytes:
        """The settings message."""
        key = _Key(self.key.source, "" if self.key.source == "routing_key" else self.key.name)
        message = _Message(
            self.version,
            self.layout,
            self.partitions,
            self.queue_type,
            self.ingress,
            key,
            self.previous,
            self.prefetch,
            self.previous_prefetch,
            self.first,
        )
        return msgspec.json.encode(message)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Raises ConfigError where it is no settings message."""
        try:
            message = _DECODE(payload)
            key = key_rule(f"{message.key.source}:{message.key.name}")
        except (msgspec.DecodeError, ConfigError) as error:
            shown = json.dumps(payload[:200].decode(errors="replace"))
            raise ConfigError(f"the settings message of the group can't be read: {error}: {shown}") from error
        return cls(
            message.partitions,
            message.queue_type,  # type: ignore[arg-type]
            message.ingress,  # type: ignore[arg-type]
            key,
            message.layout,
            message.version,
            message.previous,
            message.prefetch,
            message.previous_prefetch,
            message.first,
        )


WISHES: Final = ("partitions", "queue_type", "ingress", "key", "prefetch")
"""The settings that somebody can wish for a group."""


def key_text(rule: KeyRule) -> str:
    """A key rule as people write it: `header:partitionKey`, `routing_key`."""
    return rule.source if rule.source == "routing_key" else f"{rule.source}:{rule.name}"


def key_rule(text: str) -> KeyRule:
    """The rule that `key_text` writes. Raises ConfigError."""
    source, _, name = text.partition(":")
    try:
        return KeyRule(source, name) if name else KeyRule(source)  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(f"key = {text!r}: {error}; written as in header:customer") from error
