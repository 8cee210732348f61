"""What is allowed as a setting that is written in Python: checked at once, so that the error names it."""

import re
from math import inf
from typing import Any, Final

from partymq.errors import ConfigError

GROUP_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
GROUP_NAMES: Final = "1 to 100 letters, digits, dots, hyphens and underscores, a letter or digit in front"


def check_group(name: Any) -> None:
    """Raises ConfigError where it can't be a group's name."""
    if not isinstance(name, str) or GROUP_NAME.fullmatch(name) is None:
        raise ConfigError(f"group = {name!r}: allowed are {GROUP_NAMES}")


def check_number(
    name: str, value: Any, least: float, most: float = inf, *, unit: str = "", whole: bool = False
) -> None:
    """Raises ConfigError where a setting is not a number from `least` to `most`."""
    fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not fits or not least <= value <= most:
        allowed = f"{least:g} to {most:.15g}" if most < inf else f"{least:g} and more"
        unit = f" {unit}" if unit else ""
        kind = "whole numbers, " if whole else "numbers, "
        raise ConfigError(f"{name} = {value!r}: allowed are {kind}{allowed}{unit}")


def check_text(name: str, value: Any, longest: int) -> None:
    """Raises ConfigError where a setting is not a text of 1 to `longest` characters."""
    if not isinstance(value, str) or not 1 <= len(value) <= longest:
        raise ConfigError(f"{name} = {value!r}: allowed is a text of 1 to {longest} characters")
