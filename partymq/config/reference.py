"""The tables of `docs/settings.md`, made from the settings themselves.

`python -m partymq.config.reference` prints them; a test compares.
"""

from collections.abc import Iterator
from dataclasses import fields

from partymq.config.entry import Setting
from partymq.config.pull import PullGroupSettings
from partymq.config.settings import GroupSettings, Settings


def reference() -> str:
    """The tables, in Markdown."""
    return "\n".join(
        [
            "### The process",
            "",
            *_table(Settings, ""),
            "",
            "### A push group: `[groups.NAME]`",
            "",
            *_table(GroupSettings, ""),
            "",
            "### A pull group: `[groups.NAME]` of mode `pull`",
            "",
            *_table(PullGroupSettings, ""),
        ]
    )


def _table(section: type, prefix: str) -> Iterator[str]:
    yield "| name in the file | environment | default | meaning | allowed |"
    yield "|---|---|---|---|---|"
    yield from _rows(section, prefix)


def _rows(section: type, prefix: str) -> Iterator[str]:
    for entry in fields(section):
        if nested := entry.metadata.get("section"):
            yield from _rows(nested, f"{prefix}{entry.name}.")
        elif setting := entry.metadata.get("setting"):
            cells = (
                f"`{prefix}{entry.name}`",
                f"`{setting.env}`",
                _default(setting, entry.default),
                setting.meaning,
                setting.kind.allowed.removeprefix("allowed are "),
            )
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(setting: Setting, default: object) -> str:
    if setting.derived:
        return setting.derived
    return "none" if default is None else f"`{setting.kind.to_toml(default)}`"


if __name__ == "__main__":
    print(reference())
