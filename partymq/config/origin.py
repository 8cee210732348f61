"""Where a setting's value comes from, and the one line that says what is wrong with it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from partymq.config.kinds import masked, quoted
from partymq.errors import ConfigError

Path_ = tuple[str, ...]
"""Where a setting stands: `("groups", "default", "key", "source")`."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the value of a setting comes from: `default`, a file's name, or an environment variable."""

    place: str
    written_as: str
    """The setting as the user wrote it, with the value: what an error message starts with."""


Origins = Mapping[Path_, Origin]


def wrong(origin: Origin, reason: object) -> ConfigError:
    """The error for a value that was written there."""
    return ConfigError(f"{origin.written_as}: {reason}")


def conflict(origins: Origins, at: Path_, value: object, reason: str) -> ConfigError:
    """The error for a value that does not go with others, wherever it comes from."""
    default = Origin("default", f"{dotted(at)} = {shown(value)} (the default)")
    return wrong(origins.get(at, default), reason)


def dotted(path: Path_) -> str:
    """A path as it is written in the file."""
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else quoted(part) for part in path)


def shown(value: object) -> str:
    """A value for a message: on one line, not endless, without credentials."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    text = masked(quoted(value) if isinstance(value, str) else str(value))
    return text if len(text) <= 200 else text[:197] + "..."
