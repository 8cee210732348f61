"""The command line: `partymq serve`, `partymq config`, …

A command is a module of this room with one public function of the command's name, added below in one line.
Heavy imports belong inside that function, so that `partymq --help` stays quick.
"""

from typing import Annotated

import typer

from partymq import __version__
from partymq.cli import config, demo, dev, dlq, group, parked, serve, worker
from partymq.errors import ConfigError, PartyMQError

EXIT_FAILURE = 1
EXIT_CONFIG = 2

app = typer.Typer(
    name="partymq",
    help="Consumer groups for RabbitMQ: per-key order, one member at a time, nothing lost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(serve.serve)
app.command()(config.config)
app.command()(demo.demo)
app.command()(dev.dev)
app.command()(worker.worker)
app.add_typer(group.app, name="group")
app.add_typer(dlq.app, name="dlq")
app.add_typer(parked.app, name="parked")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"partymq {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """What is common to all commands."""


def main() -> None:
    """The console script. An error of ours is one line on standard error; a wrong setting exits with 2."""
    try:
        app()
    except ConfigError as error:
        _end(EXIT_CONFIG, error)
    except PartyMQError as error:
        _end(EXIT_FAILURE, error)


def _end(code: int, error: PartyMQError) -> None:
    line = " ".join(str(error).split())
    typer.echo(f"partymq: {line}", err=True)
    raise SystemExit(code)
