"""`partymq serve`: the server."""

import os

from partymq.cli.options import ConfigFile


def serve(config: ConfigFile = None) -> None:
    """Route messages and answer the HTTP API, until SIGTERM or SIGINT."""
    from partymq.config import load

    configuration = load(config, os.environ)

    import asyncio

    import uvloop

    from partymq.log import get_logger
    from partymq.server import lifecycle, logs
    from partymq.server.wiring import make_group

    settings = configuration.settings
    listener = lifecycle.listen(settings.http)
    logs.set_up(settings.log)
    for warning in configuration.warnings:
        get_logger(__name__).warning("odd_setting", reason=warning)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(lifecycle.run(settings, make_group, listener))
    raise SystemExit(code)
