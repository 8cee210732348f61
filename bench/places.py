"""Where figures stand in a document: between two comments that name the command they are from."""

import argparse
from collections.abc import Callable
from pathlib import Path


class Place:
    """What stands in a file between `<!-- figures: NAME -->` and `<!-- end of figures: NAME -->`.

    Raises:
        ValueError: it can't be found there.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._begin, self._end = f"<!-- figures: {name} -->\n", f"<!-- end of figures: {name} -->\n"
        self._parts()

    def __repr__(self) -> str:
        return f"<Place {self._begin.strip()} of {self._path}>"

    def put(self, report: str) -> None:
        """Has a report stand there instead of what does: without its title, its headings one level lower."""
        before, after = self._parts()
        lines = report.splitlines()[1:]
        text = "\n".join(f"#{line}" if line.startswith("#") else line for line in lines)
        self._path.write_text(f"{before}{self._begin}\n{text.strip()}\n\n{self._end}{after}")

    def _parts(self) -> tuple[str, str]:
        try:
            text = self._path.read_text()
        except OSError as error:
            raise ValueError(f"{self._path}: {error.strerror}") from error
        before, begin, rest = text.partition(self._begin)
        _, end, after = rest.partition(self._end)
        if not begin or not end:
            raise ValueError(f"{self._path} has no lines {self._begin.strip()} and {self._end.strip()}")
        return before, after


def place(name: str) -> Callable[[str], Place]:
    """For an argument: the place of a command's figures in the file that it names."""

    def find(path: str) -> Place:
        try:
            return Place(Path(path), name)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return find
