"""When a member says that nobody coordinates its group."""

import logging

import pytest

from partymq.client.silence import Silence


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.partymq["event"] for record in caplog.records]  # type: ignore[attr-defined]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "partymq")
    return caplog


def test_a_short_silence_is_not_told(log):
    silence = Silence("orders", "server", 5.0)
    silence.lasts("nobody", 4.9)
    silence.over()
    assert said(log) == []


def test_a_long_silence_is_told_the_rarer_the_longer_it_lasts(log):
    silence = Silence("orders", "server", 5.0)
    told = []
    for second in range(2000):
        silence.lasts("nobody", float(second))
        if len(log.records) > len(told):
            told.append(second)
    assert told == [5, 10, 20, 40, 80, 160, 320, 620, 920, 1220, 1520, 1820]
    assert set(said(log)) == {"nobody"}


def test_its_end_is_told_and_the_next_one_anew(log):
    silence = Silence("orders", "embedded", 5.0)
    for _ in range(2):
        silence.lasts("nobody", 6.0)
        silence.over()
        silence.over()
    assert said(log) == ["nobody", "the group is coordinated again"] * 2


@pytest.mark.parametrize(
    ("coordinator", "hint"), [("server", "partymq serve"), ("embedded", "members elect")]
)
def test_the_hint_is_for_who_is_to_coordinate(log, coordinator, hint):
    Silence("orders", coordinator, 5.0).lasts("nobody", 5.0)
    assert hint in log.text
    assert "orders" in log.text
