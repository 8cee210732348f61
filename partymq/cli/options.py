"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from partymq.config import CONFIG_FILE_ENV

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar=CONFIG_FILE_ENV,
        metavar="FILE",
        help="TOML file with the settings. The environment goes over it.",
    ),
]
