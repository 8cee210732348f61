"""The settings in force as TOML, secrets masked, each with where it came from."""

from collections.abc import Collection, Iterator
from dataclasses import fields
from typing import Any

from partymq.config.load import Configuration
from partymq.config.origin import Path_, dotted
from partymq.config.pull import FOR_ROUTER, PullGroupSettings


def to_toml(configuration: Configuration) -> str:
    """A TOML document that says the same settings again (but for the masked secrets)."""
    unused = {
        ("groups", name, *within)
        for name, group in configuration.settings.groups.items()
        if isinstance(group, PullGroupSettings) and not group.routes
        for within in FOR_ROUTER
    }
    return "\n".join(_table(configuration, configuration.settings, (), unused)).strip() + "\n"


def _table(
    configuration: Configuration, section: Any, path: Path_, unused: Collection[Path_]
) -> Iterator[str]:
    nested: list[tuple[Path_, Any]] = []
    lines: list[tuple[str, str]] = []
    for entry in fields(section):
        value = getattr(section, entry.name)
        at = (*path, entry.name)
        if at in unused:
            continue
        if entry.name == "groups":
            nested.extend(((*at, name), group) for name, group in value.items())
        elif "section" in entry.metadata:
            nested.append((at, value))
        elif setting := entry.metadata.get("setting"):
            origin = configuration.origins.get(at)
            place = origin.place if origin else "default"
            if value in (None, ()) and value == entry.default:
                lines.append((f"# {entry.name} is not set", place))
            else:
                lines.append((f"{entry.name} = {setting.kind.to_toml(value)}", place))
    yield ""
    if path:
        yield f"[{dotted(path)}]"
    width = max((len(line) for line, _ in lines if len(line) <= 60), default=0)
    for line, place in lines:
        yield f"{line:<{width}}  # {place}"
    for at, value in nested:
        yield from _table(configuration, value, at, unused)
