"""The log of a process: ours, uvicorn's and every library's through one pipe, to standard error.

Whatever looks like the credentials in a URL is masked in the finished line, so that no exception's text can
carry them out.
"""

import logging
import re
import sys
from collections.abc import Callable
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from partymq.config import LogSettings
from partymq.log import FIELDS

_CREDENTIALS = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@\"']*):[^\s\"'/]*@", re.IGNORECASE)
_KEY_PASSWORD = re.compile(r"([?&]password=)[^&\s\"']*")


def without_secrets(line: str) -> str:
    """The line with the passwords of all URLs in it masked."""
    return _KEY_PASSWORD.sub(r"\1***", _CREDENTIALS.sub(r"\1:***@", line))


def set_up(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Takes over the process's logging. Called once, by the entry point."""
    stream = sys.stderr if stream is None else stream
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.stdlib.ExtraAdder(),
                _ours,
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(settings.format, stream),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    if level > logging.DEBUG:
        logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
        logging.getLogger("uvicorn.error").setLevel(max(level, logging.WARNING))


def _rendering(form: str, stream: TextIO) -> list[Processor]:
    render: Callable[[Any, str, EventDict], Any]
    if form == "console":
        # Other tracebacks of structlog's show what variables hold: messages, passwords.
        render = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        return [_drop_colour, _masked(render)]
    render = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    return [_drop_colour, structlog.processors.format_exc_info, _event_first, _masked(render)]


def _masked(render: Callable[[Any, str, EventDict], Any]) -> Processor:
    def rendered(logger: Any, method: str, event: EventDict) -> str:
        return without_secrets(str(render(logger, method, event)))

    return rendered


def _ours(_: Any, __: str, event: EventDict) -> EventDict:
    event.update(event.pop(FIELDS, {}))  # the event without the fields in its text, and these
    return event


def _drop_colour(_: Any, __: str, event: EventDict) -> EventDict:
    event.pop("color_message", None)  # uvicorn's second form of the same text
    return event


def _event_first(_: Any, __: str, event: EventDict) -> EventDict:
    first = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
    return {**first, **event}
