"""`partymq dev`: a broker and a server to play with."""

from pathlib import Path
from typing import Annotated

import typer


def dev(
    http_port: Annotated[int | None, typer.Option(help="Port of the HTTP API; 0: any free one.")] = 8085,
    amqp_port: Annotated[
        int | None, typer.Option(help="Port of the broker. Any free one when left out.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the broker's data here, and start from it.")
    ] = None,
    broker_only: Annotated[
        bool, typer.Option("--broker-only", help="No server: all that pull groups need.")
    ] = False,
) -> None:
    """Run a private broker and the server until Ctrl-C, and say how to use them."""
    from rich.console import Console

    from partymq.demo.dev import run_broker, run_dev

    if broker_only:
        raise SystemExit(run_broker(Console(), amqp_port=amqp_port, data_dir=data_dir))
    raise SystemExit(run_dev(Console(), http_port=http_port or None, amqp_port=amqp_port, data_dir=data_dir))
