"""The life of a server process: start, signals, graceful end.

    listen ─► groups and HTTP run ─► SIGTERM, SIGINT or a failure
           ─► members' calls are answered 503 ─► groups stop in good order ─► HTTP closes ─► exit

A second signal ends the process at once. Nothing may hold up the end: when `shutdown_timeout` is over, what
still runs is cut off; everything unsettled is then redelivered by the broker.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import uvicorn

from partymq import __version__
from partymq.config import AnyGroup, HttpSettings, Settings
from partymq.errors import ConfigError, ListenError
from partymq.log import get_logger
from partymq.server.app import create_app
from partymq.server.face import RunnableGroup
from partymq.server.looplag import LoopLag
from partymq.server.metrics import Metrics

EXIT_FAILURE: Final = 1
EXIT_CONFIG: Final = 2

_HTTP_GRACE: Final = 2.0
"""Seconds that HTTP calls under way get at the end."""
_KEEP_ALIVE: Final = 75
"""Seconds that an idle HTTP connection stays open: longer than the pauses between heartbeats."""

MakeGroup = Callable[[Settings, AnyGroup], RunnableGroup]

_log = get_logger(__name__)


def listen(http: HttpSettings) -> socket.socket:
    """A listening socket for the HTTP API.

    Raises:
        ListenError: the address is in use, not ours, or not allowed.
    """
    try:
        found = socket.getaddrinfo(
            http.host, http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ListenError(
            f"HTTP cannot listen on {http.host}:{http.port}: {reason}; another address is set with "
            "http.host and http.port (PARTYMQ_HTTP_HOST, PARTYMQ_HTTP_PORT)"
        ) from None
    return listener


async def run(settings: Settings, make_group: MakeGroup, listener: socket.socket) -> int:
    """Runs a server until a signal or a failure ends it.

    Args:
        listener: from `listen`; closed at the end.

    Returns:
        The process's exit code: 0 after a graceful end, 1 after a failure, 2 where the settings contradict
        what is in the broker.
    """
    return await _Process(settings, make_group).run(listener)


class _Process:
    def __init__(self, settings: Settings, make_group: MakeGroup) -> None:
        self._settings = settings
        self._stopping = asyncio.Event()
        self._code = 0
        self._groups = {name: make_group(settings, group) for name, group in settings.groups.items()}

    async def run(self, listener: socket.socket) -> int:
        settings, loop_lag = self._settings, LoopLag()
        app = create_app(
            self._groups,
            settings,
            metrics=Metrics(self._groups, loop_lag),
            is_stopping=self._stopping.is_set,
        )
        debug = settings.log.level == "debug"
        server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                log_level=logging.DEBUG if debug else logging.WARNING,
                access_log=debug,
                lifespan="off",
                ws="none",
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=int(_HTTP_GRACE),
            )
        )
        host, port = listener.getsockname()[:2]
        with self._signals():
            async with asyncio.TaskGroup() as tasks:
                sampler = tasks.create_task(loop_lag.run(), name="loop lag")
                http = tasks.create_task(self._serve_http(server, listener), name="http")
                living = [
                    tasks.create_task(self._live(group), name=f"group {name}")
                    for name, group in self._groups.items()
                ]
                _log.info("started", version=__version__, host=host, port=port, groups=list(self._groups))
                await self._stopping.wait()
                cut_off = asyncio.get_running_loop().call_later(
                    settings.shutdown_timeout + 2 * _HTTP_GRACE, self._cut_off
                )
                await self._stop_groups(living)
                server.should_exit = True
                await asyncio.wait([http])
                cut_off.cancel()
                sampler.cancel()
        _log.info("stopped", exit_code=self._code)
        return self._code

    async def _live(self, group: RunnableGroup) -> None:
        try:
            await group.run()
        except ConfigError as error:
            text, named = str(error), f"group {group.name}: "
            self._fail(EXIT_CONFIG, text if text.startswith(named) else named + text)
        except Exception as error:
            self._fail(EXIT_FAILURE, f"group {group.name} failed", error)
        else:
            if not self._stopping.is_set():
                self._fail(EXIT_FAILURE, f"group {group.name} ended by itself")

    async def _serve_http(self, server: uvicorn.Server, listener: socket.socket) -> None:
        try:
            await server.serve(sockets=[listener])
        except Exception as error:
            self._fail(EXIT_FAILURE, "HTTP failed", error)
        else:
            if not self._stopping.is_set():
                self._fail(EXIT_FAILURE, "HTTP ended by itself")

    async def _stop_groups(self, living: Sequence[asyncio.Task[None]]) -> None:
        for task in living:
            task.cancel()
        _, late = await asyncio.wait(living, timeout=self._settings.shutdown_timeout)
        if late:
            self._code = self._code or EXIT_FAILURE
            _log.error(
                "shutdown_timed_out",
                late=[task.get_name() for task in late],
                timeout=self._settings.shutdown_timeout,
            )
            os._exit(self._code)

    def _fail(self, code: int, reason: str, error: Exception | None = None) -> None:
        self._code = self._code or code
        _log.error("failed", reason=reason, exc_info=error)
        self._stopping.set()

    def _cut_off(self) -> None:
        _log.error("shutdown_timed_out", late=["http"], timeout=self._settings.shutdown_timeout)
        os._exit(self._code or EXIT_FAILURE)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handled = (signal.SIGTERM, signal.SIGINT)
        for number in handled:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            _log.warning("stopped_at_once", signal=number.name)
            os._exit(128 + number)
        _log.info("stopping", signal=number.name, timeout=self._settings.shutdown_timeout)
        self._stopping.set()


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
