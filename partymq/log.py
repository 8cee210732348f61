"""How PartyMQ says what happens: through `logging`, below the logger `partymq`, as an event and its fields.

No handler is added and no level set: that is for the program. One that sets up no logging has warnings and
errors on standard error, as Python does it. A record's text has the fields behind the event; its attribute
`partymq` has both as a dictionary, for formatters that write JSON.
"""

import logging
from typing import Any

LOGGER = "partymq"
FIELDS = "partymq"
"""The record's attribute: the fields, and under `event` the event."""


class Logger:
    """Says events with fields. Fields are shown as `repr` has them, and only if somebody wants the record."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def info(self, event: str, **fields: Any) -> None:
        self._say(logging.INFO, event, None, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._say(logging.WARNING, event, None, fields)

    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: Any) -> None:
        """`exc_info`: the exception whose traceback is to be shown."""
        self._say(logging.ERROR, event, exc_info, fields)

    def _say(self, level: int, event: str, error: BaseException | None, fields: dict[str, Any]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        # A text for each place in the code, whatever its values: some tools count records by it.
        text = " ".join([event.replace("%", "%%"), *(f"{name}=%({name})r" for name in fields)])
        said = {"event": event, **fields}
        self._logger.log(level, text, said, exc_info=error, extra={FIELDS: said}, stacklevel=3)


def get_logger(name: str) -> Logger:
    """The logger of a module: `get_logger(__name__)`."""
    return Logger(name)
