"""How a setting is declared: a field of a dataclass, with its environment variable, kind and meaning."""

from dataclasses import dataclass, field
from typing import Any

from partymq.config.kinds import Kind

DERIVED: Any = object()
"""Stands for a default that depends on other settings; `__post_init__` puts it in."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one setting besides its name, type and default."""

    env: str
    kind: Kind
    meaning: str
    derived: str = ""
    """How the default follows from something else, where it does."""


def setting(default: Any, env: str, kind: Kind, meaning: str, derived: str = "") -> Any:
    """A field that is a setting."""
    return field(default=default, metadata={"setting": Setting(env, kind, meaning, derived)})


def section(of: type) -> Any:
    """A field that is a table of settings."""
    return field(default_factory=of, metadata={"section": of})
