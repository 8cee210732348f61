"""Markdown that the reports are made of."""

from collections.abc import Iterable, Iterator, Mapping


def head(
    title: str, quick: bool, facts: Mapping[str, str], invalid: Mapping[str, str], seconds: float
) -> Iterator[str]:
    """Title and circumstances."""
    yield f"# {title}" + (" (quick: only shows that it runs)" if quick else "")
    yield ""
    for name, value in facts.items():
        yield f"- {name}: {value}"
    yield f"- took {seconds / 60:.0f} min"
    for part, why in invalid.items():
        yield f"- **{part} is not valid**: {why.splitlines()[0]}"
    yield ""


def table(titles: tuple[str, ...], alignment: str, rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """`alignment`: `l` or `r` for each column."""
    yield _row(titles)
    yield _row("---:" if side == "r" else "---" for side in alignment)
    for row in rows:
        yield _row(row)
    yield ""


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
