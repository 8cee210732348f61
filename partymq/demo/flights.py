"""The flights of 2013 that the demo publishes: reading them, choosing some of them."""

import csv
import hashlib
import lzma
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

ALL_FLIGHTS = 336_776
LEAST_AIRCRAFT = 120
ROWS_SHA256 = "aca7c335d61a47f1d88d7d044b1fd5702bf4e1026bebbb5080aa119c69f3dac5"


class Flight(NamedTuple):
    """One row of the data; every field as it is written there."""

    departure: str
    tail: str
    carrier: str
    flight: str
    origin: str
    dest: str
    delay: str

    @property
    def aircraft(self) -> str:
        """The key: the tail number or, where that is unknown, the flight's line (`US-1632`)."""
        return self.tail or f"{self.carrier}-{self.flight}"


def read_flights() -> list[Flight]:
    """All flights in the order of their scheduled departure. Takes about a second.

    Raises:
        ValueError: the file is not the one that was shipped.
    """
    packed = resources.files("partymq.demo").joinpath("data/flights2013.csv.xz").read_bytes()
    rows = lzma.decompress(packed)
    found = hashlib.sha256(rows).hexdigest()
    if found != ROWS_SHA256:
        raise ValueError(f"flights2013.csv.xz: the rows' SHA-256 is {found}, expected {ROWS_SHA256}")
    reader = csv.reader(rows.decode("ascii").splitlines())
    next(reader)
    return [Flight._make(row) for row in reader]


def choose(flights: Sequence[Flight], messages: int) -> list[Flight]:
    """The first `messages` flights of the busiest aircraft: of 120, or of as many as it takes.

    So the next flight of an aircraft is never far behind, even in a small part of the year. The order stays;
    all flights when there are no more than that.
    """
    if messages >= len(flights):
        return list(flights)
    counts = Counter(flight.aircraft for flight in flights)
    busiest = sorted(counts, key=lambda aircraft: (-counts[aircraft], aircraft))
    chosen: set[str] = set()
    found = 0
    for aircraft in busiest:
        if found >= messages and len(chosen) >= LEAST_AIRCRAFT:
            break
        chosen.add(aircraft)
        found += counts[aircraft]
    return [flight for flight in flights if flight.aircraft in chosen][:messages]


def write_lines(flights: Iterable[Flight], path: Path) -> None:
    """The publisher's input: a line `aircraft,departure,line,origin,dest,delay` for each flight."""
    with path.open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file, lineterminator="\n")
        for flight in flights:
            line = f"{flight.carrier}{flight.flight}"
            writer.writerow(
                (flight.aircraft, flight.departure, line, flight.origin, flight.dest, flight.delay)
            )
