"""One pipe for all logs, and no secrets in them."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from partymq.config import LogSettings
from partymq.log import get_logger
from partymq.server import logs


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    for name in ("uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def logged(form: str, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.set_up(LogSettings(form, level), stream)
    return stream


def test_ours_and_every_library_s_come_out_as_json():
    stream = logged("json")
    get_logger("partymq.x").info("routed", messages=3)
    logging.getLogger("uvicorn.error").warning("careful, %s", "you")
    logging.getLogger("some.library").info("hello", extra={"more": 1})
    first, second, third = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["messages"], first["level"]) == ("routed", 3, "info")
    assert (second["event"], second["level"], second["logger"]) == (
        "careful, you",
        "warning",
        "uvicorn.error",
    )
    assert (third["event"], third["more"]) == ("hello", 1)
    assert list(first)[:3] == ["timestamp", "level", "event"]


def test_an_exception_is_one_line_too():
    stream = logged("json")
    try:
        raise ValueError("no")
    except ValueError as error:
        get_logger("x").error("failed", exc_info=error)
        logging.getLogger("y").exception("failed as well")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert all("ValueError: no" in line["exception"] for line in lines)
    assert len(lines) == 2


@pytest.mark.parametrize("form", ["json", "console"])
def test_passwords_in_urls_are_masked_wherever_they_stand(form):
    stream = logged(form)
    get_logger("x").warning("at", url="amqp://me:s3cret@host/v", more=["http://u:s3cret@h"])
    try:
        raise ValueError("amqps://u:s3cret@host?certfile=a&password=s3cret")
    except ValueError:
        logging.getLogger("y").exception("broken %s", "amqp://:s3cret@h")
    text = stream.getvalue()
    assert "s3cret" not in text
    assert "amqp://me:***@host/v" in text


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_does_not_show_what_variables_hold(form):
    stream = logged(form)

    def handle(body: str) -> None:
        assert body
        raise ValueError("no price")

    try:
        handle("card" + " " + "4111")
    except ValueError as error:
        get_logger("x").error("failed", exc_info=error)
    assert "ValueError: no price" in stream.getvalue()
    assert "card 4111" not in stream.getvalue()


def test_what_is_below_the_level_is_left_out():
    stream = logged("json", "warning")
    get_logger("x").info("no")
    get_logger("x").error("yes")
    logging.getLogger("y").info("no")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["yes"]


def test_a_line_for_every_http_call_is_for_debugging_only():
    assert "GET" not in _access("info")
    assert "GET" in _access("debug")


def _access(level: str) -> str:
    stream = logged("console", level)
    logging.getLogger("uvicorn.access").info("GET /health")
    return stream.getvalue()
