"""Reads the settings from a file and the environment, and says in one line what is wrong with them.

Environment over file over default. Group settings in the environment are those of the group `default`. An
environment variable that is set to nothing counts as not set.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from partymq.config.kinds import duration_text, masked, quoted
from partymq.config.settings import GroupSettings, Setting, Settings
from partymq.errors import ConfigError
from partymq.group.names import DEFAULT_GROUP

PREFIX = "PARTYMQ_"
CONFIG_FILE_ENV = "PARTYMQ_CONFIG"
_OTHERS = frozenset({CONFIG_FILE_ENV, "PARTYMQ_RABBITMQ_SERVER"})
"""Variables that are not settings of the server but known to some other part."""

Path_ = tuple[str, ...]
"""Where a setting stands: `("groups", "default", "key", "source")`."""

_GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Kubernetes puts these into every pod of a namespace that has a service called `partymq`.
_SERVICE_LINK = re.compile(r"PARTYMQ_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the value of a setting comes from: `default`, a file's name, or an environment variable."""

    place: str
    written_as: str
    """The setting as the user wrote it, with the value: what an error message starts with."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings in force, where each came from, and what is odd without being wrong."""

    settings: Settings
    origins: Mapping[Path_, Origin]
    warnings: tuple[str, ...]


def load(file: Path | None, environ: Mapping[str, str]) -> Configuration:
    """Reads the settings.

    Raises:
        ConfigError: with one line that names the setting as it was written, its value (without secrets) and
            what is allowed.
    """
    table = {} if file is None else _read(file)
    return _Loader(str(file), table, environ).load()


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: the file cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: the file is not UTF-8, as TOML has to be") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: the file is not valid TOML: {error}") from None


class _Loader:
    """One reading. Walks the classes of `settings` with the file's tables beside them."""

    def __init__(self, file: str, table: dict[str, Any], environ: Mapping[str, str]) -> None:
        self._file = file
        self._table = table
        self._environ = {name: value for name, value in environ.items() if value.strip()}
        self._known = set(_OTHERS)
        self._origins: dict[Path_, Origin] = {}

    def load(self) -> Configuration:
        groups = {name: self._group(name, table) for name, table in self._group_tables().items()}
        if DEFAULT_GROUP not in groups:
            self._no_default_group()
        values = self._section(Settings, self._table, (), from_env=True)
        settings = Settings(**values, groups=MappingProxyType(groups))
        for group in groups.values():
            self._check_group(group)
        self._check_all(settings)
        return Configuration(settings, self._origins, tuple(self._warnings()))

    def _group_tables(self) -> dict[str, dict[str, Any]]:
        tables = self._table.get("groups") or {DEFAULT_GROUP: {}}
        if not isinstance(tables, dict):
            raise ConfigError(f"{self._file}: groups: allowed are tables such as [groups.orders]")
        for name in tables:
            if _GROUP_NAME.fullmatch(name) is None:
                raise ConfigError(
                    f"{self._file}: groups.{quoted(name)}: allowed as a group's name are 1 to 100 letters, "
                    "digits, dots, hyphens and underscores, a letter or digit in front"
                )
        return tables

    def _group(self, name: str, table: object) -> GroupSettings:
        values = self._section(GroupSettings, table, ("groups", name), from_env=name == DEFAULT_GROUP)
        return GroupSettings(name=name, **values)

    def _section(self, kind: type, table: object, path: Path_, *, from_env: bool) -> dict[str, Any]:
        """The values that file and environment have for a section; what neither has is left out."""
        if not isinstance(table, dict):
            raise ConfigError(f"{self._file}: {dotted(path)} = {_shown(table)}: has to be a table")
        values: dict[str, Any] = {}
        names = ["groups"] if kind is Settings else []
        for entry in fields(kind):
            at = (*path, entry.name)
            if section := entry.metadata.get("section"):
                names.append(entry.name)
                values[entry.name] = section(
                    **self._section(section, table.get(entry.name, {}), at, from_env=from_env)
                )
            elif setting := entry.metadata.get("setting"):
                names.append(entry.name)
                self._known.add(setting.env)
                if from_env and setting.env in self._environ:
                    values[entry.name] = self._from_env(setting, at)
                elif entry.name in table:
                    values[entry.name] = self._from_file(setting, table[entry.name], at)
        self._refuse_unknown(table, names, path)
        return values

    def _from_env(self, setting: Setting, at: Path_) -> object:
        text = self._environ[setting.env]
        origin = Origin(setting.env, f"{setting.env}={_shown(text)}")
        self._origins[at] = origin
        try:
            return setting.kind.from_text(text)
        except ValueError as error:
            raise _wrong(origin, error) from None

    def _from_file(self, setting: Setting, value: object, at: Path_) -> object:
        origin = Origin(self._file, f"{self._file}: {dotted(at)} = {_shown(value)}")
        self._origins[at] = origin
        try:
            return setting.kind.from_toml(value)
        except ValueError as error:
            raise _wrong(origin, error) from None

    def _refuse_unknown(self, table: dict[str, Any], names: list[str], path: Path_) -> None:
        for name in table:
            if name not in names:
                close = get_close_matches(name, names, 1)
                hint = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(names)}"
                where = dotted((*path, name))
                raise ConfigError(
                    f"{self._file}: {where} = {_shown(table[name])}: there is no such setting; {hint}"
                )

    def _no_default_group(self) -> None:
        for name in _env_names(GroupSettings):
            self._known.add(name)
            if name in self._environ:
                raise ConfigError(
                    f"{name}={_shown(self._environ[name])}: is a setting of group {DEFAULT_GROUP}, which "
                    f"{self._file} does not have; allowed with a table [groups.{DEFAULT_GROUP}] in it"
                )

    def _check_group(self, group: GroupSettings) -> None:
        path = ("groups", group.name)
        if group.hold_messages >= group.prefetch:
            raise self._conflict(
                (*path, "hold_messages"),
                group.hold_messages,
                f"has to be below prefetch, which is {group.prefetch}",
            )
        try:
            _ = group.key_rule
        except ValueError as error:
            raise self._conflict(
                (*path, "key", "name"), group.key.name, f"with key source {group.key.source}: {error}"
            ) from None
        if (*path, "source_binding_keys") in self._origins and group.source_exchange is None:
            raise self._conflict(
                (*path, "source_binding_keys"),
                ",".join(group.source_binding_keys),
                "allowed only with source_exchange",
            )
        if (
            group.name != DEFAULT_GROUP
            and group.source_exchange is None
            and (*path, "source_queue") not in self._origins
        ):
            raise ConfigError(
                f"{self._file}: {dotted(path)} has no source: set source_queue, source_exchange or both"
            )

    def _check_all(self, settings: Settings) -> None:
        for name, meaning in (("source_queue", "source"), ("exchange", "exchange")):
            taken: dict[str, str] = {}
            for group in settings.groups.values():
                value = getattr(group, name)
                if value in taken:
                    raise self._conflict(
                        ("groups", group.name, name),
                        value,
                        f"is the {meaning} of group {taken[value]} already; every group has to have its own",
                    )
                taken[value] = group.name
        for group in settings.groups.values():
            if group.drain_timeout >= settings.broker.max_hold:
                raise self._conflict(
                    ("groups", group.name, "drain_timeout"),
                    duration_text(group.drain_timeout),
                    f"has to be below {duration_text(settings.broker.max_hold)}, two thirds of "
                    "broker.consumer_timeout",
                )

    def _conflict(self, at: Path_, value: object, reason: str) -> ConfigError:
        origin = self._origins.get(at)
        if origin is None:
            origin = Origin("default", f"{dotted(at)} = {_shown(value)} (the default)")
        return _wrong(origin, ValueError(reason))

    def _warnings(self) -> Iterator[str]:
        for name in sorted(self._environ):
            if not name.startswith(PREFIX) or name in self._known or _SERVICE_LINK.fullmatch(name):
                continue
            close = get_close_matches(name, self._known, 1, 0.7)
            hint = f"; did you mean {close[0]}?" if close else ""
            yield f"{name} is set in the environment, but there is no such setting{hint}"


def _env_names(section: type) -> Iterator[str]:
    for entry in fields(section):
        if nested := entry.metadata.get("section"):
            yield from _env_names(nested)
        elif setting := entry.metadata.get("setting"):
            yield setting.env


def _wrong(origin: Origin, error: ValueError) -> ConfigError:
    return ConfigError(f"{origin.written_as}: {error}")


def dotted(path: Path_) -> str:
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else quoted(part) for part in path)


def _shown(value: object) -> str:
    """A value for a message: on one line, not endless, without credentials."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    text = masked(quoted(value) if isinstance(value, str) else str(value))
    return text if len(text) <= 200 else text[:197] + "..."
