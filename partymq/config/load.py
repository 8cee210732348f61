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

from partymq.config.checks import (
    check_all,
    check_group,
    of_another_group,
    of_the_other_kind,
    settings_in,
)
from partymq.config.entry import Setting
from partymq.config.group import MODE, MODE_ENV
from partymq.config.kinds import quoted
from partymq.config.origin import Origin, Origins, Path_, dotted, shown, wrong
from partymq.config.pull import PullGroupSettings
from partymq.config.settings import AnyGroup, GroupSettings, Settings
from partymq.errors import ConfigError
from partymq.group.allowed import GROUP_NAME, GROUP_NAMES
from partymq.group.names import DEFAULT_GROUP

PREFIX = "PARTYMQ_"
CONFIG_FILE_ENV = "PARTYMQ_CONFIG"
_OTHERS = frozenset({CONFIG_FILE_ENV, "PARTYMQ_RABBITMQ_SERVER"})
"""Variables that are not settings of the server but known to some other part."""

# Kubernetes puts these into every pod of a namespace that has a service called `partymq`.
_SERVICE_LINK = re.compile(r"PARTYMQ_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings in force, where each came from, and what is odd without being wrong."""

    settings: Settings
    origins: Origins
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
            check_group(group, self._file, self._origins)
        check_all(settings, self._origins)
        return Configuration(settings, self._origins, tuple(self._warnings()))

    def _group_tables(self) -> dict[str, dict[str, Any]]:
        tables = self._table.get("groups") or {DEFAULT_GROUP: {}}
        if not isinstance(tables, dict):
            raise ConfigError(f"{self._file}: groups: allowed are tables such as [groups.orders]")
        for name in tables:
            if GROUP_NAME.fullmatch(name) is None:
                raise ConfigError(
                    f"{self._file}: groups.{quoted(name)}: allowed as a group's name are {GROUP_NAMES}"
                )
        return tables

    def _group(self, name: str, table: object) -> AnyGroup:
        path, from_env = ("groups", name), name == DEFAULT_GROUP
        kind = PullGroupSettings if self._mode(table, path, from_env=from_env) == "pull" else GroupSettings
        for env in sorted(_group_envs()):
            self._known.add(env)
            reason = of_another_group(kind, path, env) if from_env and env in self._environ else None
            if reason is not None:
                raise ConfigError(f"{env}={shown(self._environ[env])}: {reason}")
        return kind(name=name, **self._section(kind, table, path, from_env=from_env))

    def _mode(self, table: object, path: Path_, *, from_env: bool) -> str:
        """Which kind of group it is to be; what else is said of it depends on that."""
        setting, at = Setting(MODE_ENV, MODE, ""), (*path, "mode")
        if from_env and MODE_ENV in self._environ:
            return str(self._from_env(setting, at))
        if isinstance(table, dict) and "mode" in table:
            return str(self._from_file(setting, table["mode"], at))
        return "push"

    def _section(self, kind: type, table: object, path: Path_, *, from_env: bool) -> dict[str, Any]:
        """The values that file and environment have for a section; what neither has is left out."""
        if not isinstance(table, dict):
            raise ConfigError(f"{self._file}: {dotted(path)} = {shown(table)}: has to be a table")
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
        self._refuse_unknown(kind, table, names, path)
        return values

    def _from_env(self, setting: Setting, at: Path_) -> object:
        text = self._environ[setting.env]
        origin = Origin(setting.env, f"{setting.env}={shown(text)}")
        self._origins[at] = origin
        try:
            return setting.kind.from_text(text)
        except ValueError as error:
            raise wrong(origin, error) from None

    def _from_file(self, setting: Setting, value: object, at: Path_) -> object:
        origin = Origin(self._file, f"{self._file}: {dotted(at)} = {shown(value)}")
        self._origins[at] = origin
        try:
            return setting.kind.from_toml(value)
        except ValueError as error:
            raise wrong(origin, error) from None

    def _refuse_unknown(self, kind: type, table: dict[str, Any], names: list[str], path: Path_) -> None:
        for name in table:
            if name not in names:
                where = f"{self._file}: {dotted((*path, name))} = {shown(table[name])}"
                if kind in (GroupSettings, PullGroupSettings) and (
                    reason := of_the_other_kind(kind, path, name)
                ):
                    raise ConfigError(f"{where}: {reason}")
                close = get_close_matches(name, names, 1)
                hint = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(names)}"
                raise ConfigError(f"{where}: there is no such setting; {hint}")

    def _no_default_group(self) -> None:
        for name in sorted(_group_envs()):
            self._known.add(name)
            if name in self._environ:
                raise ConfigError(
                    f"{name}={shown(self._environ[name])}: is a setting of group {DEFAULT_GROUP}, which "
                    f"{self._file} does not have; allowed with a table [groups.{DEFAULT_GROUP}] in it"
                )

    def _warnings(self) -> Iterator[str]:
        for name in sorted(self._environ):
            if not name.startswith(PREFIX) or name in self._known or _SERVICE_LINK.fullmatch(name):
                continue
            close = get_close_matches(name, self._known, 1, 0.7)
            hint = f"; did you mean {close[0]}?" if close else ""
            yield f"{name} is set in the environment, but there is no such setting{hint}"


def _group_envs() -> set[str]:
    return {setting.env for kind in (GroupSettings, PullGroupSettings) for setting in settings_in(kind)}
