"""`partymq worker`: runs a consumer that a module holds."""

import logging
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Level(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Format(StrEnum):
    CONSOLE = "console"
    JSON = "json"


def worker(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE[:NAME]", help="Where the consumer is; NAME is `consumer` if left out."
        ),
    ],
    processes: Annotated[int, typer.Option(min=1, max=1000, help="Members that run, each a process.")] = 1,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start anew when a Python file below this folder changes.")
    ] = False,
    log_level: Annotated[
        Level,
        typer.Option(envvar="PARTYMQ_LOG_LEVEL", case_sensitive=False, help="Least severity that is logged."),
    ] = Level.INFO,
    log_format: Annotated[
        Format,
        typer.Option(
            envvar="PARTYMQ_LOG_FORMAT", case_sensitive=False, help="For people, or one JSON object a line."
        ),
    ] = Format.CONSOLE,
    monitor_port: Annotated[
        int | None,
        typer.Option(
            envvar="PARTYMQ_MONITOR_PORT",
            min=1,
            max=65535,
            help="Answer GET /health, /ready and /metrics here; of several processes each on the next port.",
        ),
    ] = None,
    number: Annotated[
        int | None, typer.Option(hidden=True, help="Which of several processes this is.")
    ] = None,
) -> None:
    """Run a consumer until SIGTERM or Ctrl-C; handlers under way are finished.

    With several processes, one that is killed is started again, and one that
    ends by itself ends them all. A name that the consumer has becomes NAME-0,
    NAME-1 and so on, the same ones with every start.

    The log goes to standard error, unless the module has set up logging itself.
    """
    import sys

    from partymq.client.workers import Workers, load_consumer

    if processes == 1 and not reload:
        consumer = load_consumer(target)
        if number is not None:
            consumer.number(number)
        _set_up_logging(log_level, log_format)
        if monitor_port is None:
            consumer.run()
            return
        from partymq.client.monitoring import Monitor

        with Monitor(consumer, monitor_port + (number or 0)):
            consumer.run()
        return
    _set_up_logging(log_level, log_format)
    command = [sys.executable, "-m", "partymq", "worker", target]
    command += [f"--log-level={log_level}", f"--log-format={log_format}"]
    command += [f"--monitor-port={monitor_port}"] if monitor_port is not None else []
    numbers = [[f"--number={which}"] for which in range(processes)] if processes > 1 else [[]]
    raise SystemExit(Workers([command + more for more in numbers], Path.cwd() if reload else None).run())


def _set_up_logging(level: Level, form: Format) -> None:
    if logging.getLogger().handlers or logging.getLogger("partymq").handlers:
        return
    from partymq.config import LogSettings
    from partymq.server import logs

    logs.set_up(LogSettings(form, level))
