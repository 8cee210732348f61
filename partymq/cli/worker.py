"""`partymq worker`: runs a consumer that a module holds."""

from pathlib import Path
from typing import Annotated

import typer


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
) -> None:
    """Run a consumer until SIGTERM or Ctrl-C; handlers under way are finished.

    With several processes, one that is killed is started again, and one that
    ends by itself ends them all. They can't all have the name that a setting
    `name` gives.
    """
    import sys

    from partymq.client.workers import Workers, load_consumer

    if processes == 1 and not reload:
        load_consumer(target).run()
        return
    command = [sys.executable, "-m", "partymq", "worker", target]
    raise SystemExit(Workers(command, processes, Path.cwd() if reload else None).run())
