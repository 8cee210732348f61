"""`partymq config`: the settings in force."""

import os

import typer

from partymq.cli.options import ConfigFile


def config(config: ConfigFile = None) -> None:
    """Print the settings in force as TOML, secrets masked, and where each came from."""
    from partymq.config import load, to_toml

    configuration = load(config, os.environ)
    for warning in configuration.warnings:
        typer.echo(f"partymq: {warning}", err=True)
    typer.echo(to_toml(configuration), nl=False)
