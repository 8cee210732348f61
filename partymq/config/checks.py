"""What settings must be to each other, and which kind of group each of them is for."""

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Final

from partymq.config.entry import Setting
from partymq.config.group import CommonSettings
from partymq.config.kinds import duration_text
from partymq.config.origin import Origins, Path_, conflict, dotted, wrong
from partymq.config.pull import FOR_ROUTER, PullGroupSettings
from partymq.config.settings import AnyGroup, GroupSettings, Settings
from partymq.errors import ConfigError
from partymq.group.layout import GroupLayout
from partymq.group.names import DEFAULT_GROUP

_INSTEAD: Final = {
    "heartbeat": "the `session_timeout` of each member says when it is taken for dead",
    "state_queue_type": "`queue_type` is that of all queues of a pull group",
    "exchange": "that of a pull group has always the same name",
    "queue_type": "`state_queue_type` is that of the queue with the state",
    "source_prefetch": "`prefetch` is that of the source",
    "coordinator": "`partymq serve` coordinates a push group",
    "ingress": "a push group is always filled by `partymq serve`",
}
"""What there is in the other kind of group, by the setting that it has not."""
_OF_MEMBERS: Final = ("session_timeout", "rejoin_grace", "concurrency", "retry", "on_failure", "stop_timeout")


def settings_in(section: type) -> Iterator[Setting]:
    """All settings of a class, with those of its tables."""
    for entry in fields(section):
        if nested := entry.metadata.get("section"):
            yield from settings_in(nested)
        elif setting := entry.metadata.get("setting"):
            yield setting


def of_the_other_kind(group: type, path: Path_, name: str) -> str | None:
    """Why a group of this class has no such setting, where somebody else has it."""
    if group is PullGroupSettings and name in _OF_MEMBERS:
        return f"is a setting of members: `Consumer(…, {name}=…)`"
    for other in (GroupSettings, PullGroupSettings):
        for entry in fields(other):
            if entry.name == name and entry.metadata and other is not group:
                return _not_of(group, dotted(path), name)
    return None


def of_another_group(group: type, path: Path_, env: str) -> str | None:
    """The same of an environment variable."""
    if any(setting.env == env for setting in settings_in(group)):
        return None
    for other in (GroupSettings, PullGroupSettings):
        for entry in fields(other):
            within = entry.metadata.get("section")
            found = settings_in(within) if within else [entry.metadata.get("setting")]
            if any(setting is not None and setting.env == env for setting in found):
                return _not_of(group, dotted(path), entry.name)
    return None


def _not_of(group: type, where: str, name: str) -> str:
    if group is PullGroupSettings:
        text = f'is a setting of push groups, but {where} has mode = "pull": leave it out'
    else:
        text = f'is a setting of pull groups, but {where} is a push group: leave it out, or set mode = "pull"'
    return f"{text} ({_INSTEAD[name]})" if name in _INSTEAD else text


def check_group(group: AnyGroup, file: str, origins: Origins) -> None:
    """Raises ConfigError where the settings of a group do not go together."""
    path = ("groups", group.name)
    if isinstance(group, PullGroupSettings):
        _check_pull(group, path, origins)
    else:
        _check_push(group, path, origins)
    if isinstance(group, GroupSettings) or group.routes:
        _check_source(group, path, file, origins)


def _check_push(group: GroupSettings, path: Path_, origins: Origins) -> None:
    if group.hold_messages >= group.prefetch:
        reason = f"has to be below prefetch, which is {group.prefetch}"
        raise conflict(origins, (*path, "hold_messages"), group.hold_messages, reason)
    try:
        _ = group.key_rule
    except ValueError as error:
        reason = f"with key source {group.key.source}: {error}"
        raise conflict(origins, (*path, "key", "name"), group.key.name, reason) from None


def _check_pull(group: PullGroupSettings, path: Path_, origins: Origins) -> None:
    try:
        GroupLayout.of(group.wish)
    except (ValueError, ConfigError) as error:
        said = [at for at in (("key", "name"), ("key", "source"), ("ingress",)) if (*path, *at) in origins]
        raise wrong(origins[(*path, *said[0])], error) from None
    if not group.routes:
        for at in ((*path, *within) for within in FOR_ROUTER):
            if at in origins:
                raise conflict(
                    origins,
                    at,
                    "",
                    'means something only where this process fills the group: set ingress = "router", or'
                    " leave it out",
                )


def _check_source(group: CommonSettings, path: Path_, file: str, origins: Origins) -> None:
    if (*path, "source_binding_keys") in origins and group.source_exchange is None:
        keys = ",".join(group.source_binding_keys)
        raise conflict(origins, (*path, "source_binding_keys"), keys, "allowed only with source_exchange")
    if (
        group.name != DEFAULT_GROUP
        and group.source_exchange is None
        and (*path, "source_queue") not in origins
    ):
        raise ConfigError(f"{file}: {dotted(path)} has no source: set source_queue, source_exchange or both")


def check_all(settings: Settings, origins: Origins) -> None:
    """Raises ConfigError where two groups, or a group and the process, do not go together."""
    _check_unique(settings, origins, "source_queue", "source", _source)
    _check_unique(settings, origins, "exchange", "exchange", lambda group: group.exchange)
    for group in settings.groups.values():
        if isinstance(group, GroupSettings) and group.drain_timeout >= settings.broker.max_hold:
            raise conflict(
                origins,
                ("groups", group.name, "drain_timeout"),
                duration_text(group.drain_timeout),
                f"has to be below {duration_text(settings.broker.max_hold)}, two thirds of "
                "broker.consumer_timeout",
            )


def _source(group: AnyGroup) -> str | None:
    if isinstance(group, PullGroupSettings) and not group.routes:
        return None
    return group.source_queue


def _check_unique(
    settings: Settings,
    origins: Origins,
    name: str,
    meaning: str,
    value_of: Callable[[AnyGroup], str | None],
) -> None:
    taken: dict[str, str] = {}
    for group in settings.groups.values():
        value = value_of(group)
        if value is None:
            continue
        if value in taken:
            reason = f"is the {meaning} of group {taken[value]} already; every group has to have its own"
            raise conflict(origins, ("groups", group.name, name), value, reason)
        taken[value] = group.name
