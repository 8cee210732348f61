"""`Consumer`: the face of the library for members."""

import asyncio
import contextlib
import signal
import tomllib
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import fields
from os import PathLike
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

from partymq.amqp.url import BrokerUrl
from partymq.client.failure import RetryPolicy
from partymq.client.handlers import Handle, is_async, make_handler
from partymq.client.holdings import Holdings
from partymq.client.hooks import Hook, Hooks
from partymq.client.membership import Membership, MembershipSettings
from partymq.client.options import ConsumerOptions
from partymq.client.ownership import Ownership
from partymq.client.runner import Runner
from partymq.client.running import call_in, run_bounded
from partymq.client.settings import ConsumerSettings
from partymq.client.threads import Threads
from partymq.errors import ConfigError, HandlerFailed
from partymq.group.allowed import check_group
from partymq.group.layout import WISHES, GroupLayout, key_rule
from partymq.group.names import DEFAULT_GROUP
from partymq.log import get_logger

LOADING: Final[ContextVar[str | None]] = ContextVar("LOADING", default=None)
"""What a command imports just now, to run the consumer in it."""
_FunctionT = TypeVar("_FunctionT", bound=Callable[..., Any])
_LEFT_WITHIN: Final = 10.0
"""Seconds that leaving the group may take when handlers have been told to end."""
_ENDED_WITHIN: Final = 2.0
"""Seconds that tasks have to end in when everything else has ended."""
_SETTINGS: Final = frozenset(field.name for field in fields(ConsumerSettings))
_MEMBERSHIP: Final = frozenset(field.name for field in fields(MembershipSettings))

_log = get_logger(__name__)


class Consumer:
    """A member of a pull group: it owns some of the group's partitions, and handles their messages.

    Messages of one key are handled one at a time and in order; different keys at the same time. A message is
    acknowledged when its handler has returned. Handlers and hooks run in the consumer's event loop; plain
    functions as handlers run in threads.

        consumer = Consumer("amqp://localhost", group="orders")

        @consumer.handler
        async def handle(message):
            ...

        consumer.run()

    Args:
        url: of the broker.
        group: the group's name.
        ownership: how it becomes an owner; normally by joining the group.
        on_assigned: awaited before the first message of new partitions; see `Hooks`.
        on_revoked: awaited before partitions are handed over; see `Hooks`.
        on_lost: called when partitions are lost; see `Hooks`.
        options: all settings by name; with those of the group who comes first creates it.

    Raises:
        ConfigError: a setting is unknown or not possible.
    """

    def __init__(
        self,
        url: str | BrokerUrl,
        *,
        group: str = DEFAULT_GROUP,
        ownership: Ownership | None = None,
        on_assigned: Hook | None = None,
        on_revoked: Hook | None = None,
        on_lost: Hook | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> None:
        check_group(group)
        settings: dict[str, Any] = {**options}
        self.url = BrokerUrl.of(url)
        self.group = group
        own = {name: settings.pop(name) for name in tuple(settings) if name in _SETTINGS}
        self.settings = ConsumerSettings(**own)
        if ownership is None:
            ownership = _membership(self.url, group, settings)
        elif settings:
            raise ConfigError(
                f"consumer of group {group}: unknown settings {', '.join(sorted(settings))};"
                f" known are {', '.join(sorted(_SETTINGS))}"
            )
        self._ownership = ownership
        self._hooks = Hooks(on_assigned, on_revoked, on_lost, group)
        self._function: Handle | None = None
        self._running: asyncio.Task[None] | None = None
        self._holdings: Holdings | None = None
        self._runner: Runner | None = None
        self._threads: Threads | None = None
        self._fatal: HandlerFailed | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._hurrying: asyncio.Event | None = None

    def __repr__(self) -> str:
        return f"<Consumer of group {self.group}: partitions {self.partitions}>"

    @classmethod
    def from_config(cls, path: str | PathLike[str], section: str = "consumer", **more: Any) -> Self:
        """A consumer from a table of a TOML file: `url`, `group`, and the settings; `retry` is a table in it.

            [consumer]
            url = "amqp://localhost"
            group = "orders"
            retry = {max_attempts = 3}

        Args:
            path: of the file.
            section: the table's name.
            more: arguments that the file does not have, or that count more than the file's.

        Raises:
            ConfigError: it can't be read, or a setting is unknown or not possible.
        """
        try:
            with open(path, "rb") as file:
                found = tomllib.load(file)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: can't be read: {error}") from error
        table = found.get(section)
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: has no table [{section}]")
        settings = table | more
        if "url" not in settings:
            raise ConfigError(f"{path}: [{section}] has no url")
        try:
            if isinstance(settings.get("retry"), dict):
                settings["retry"] = RetryPolicy(**settings["retry"])
            return cls(**settings)
        except TypeError as error:
            raise ConfigError(f"{path}: [{section}]: {error}") from error

    # Set-up ---------------------------------------------------------------------------------------

    def handler(self, function: _FunctionT) -> _FunctionT:
        """Decorator: this function handles the messages: `handle(message)`, or `handle(message, body: Type)`
        to have the body decoded.

        Raises:
            ConfigError: there is a handler already.
        """
        if self._function is not None and self._function is not function:
            raise ConfigError(f"group {self.group}: the consumer has a handler already: {self._function!r}")
        self._function = function
        return function

    def on_assigned(self, hook: _FunctionT) -> _FunctionT:
        """Decorator: awaited with the numbers of new partitions, before the first message of them."""
        self._hooks.assigned = hook
        return hook

    def on_revoked(self, hook: _FunctionT) -> _FunctionT:
        """Decorator: awaited with the numbers of partitions whose handlers have ended, before they move."""
        self._hooks.revoked = hook
        return hook

    def on_lost(self, hook: _FunctionT) -> _FunctionT:
        """Decorator: called with the numbers of partitions that are lost without having been handed over."""
        self._hooks.lost = hook
        return hook

    def number(self, number: int) -> None:
        """Says that this is one of several processes that run the same program: a setting `name` becomes
        `NAME-NUMBER`, as each member needs a name of its own. `partymq worker --processes` does this. Call it
        before the consumer runs.

        Raises:
            ConfigError: the name is too long then.
        """
        if isinstance(self._ownership, Membership):
            self._ownership.number(number)

    # State ----------------------------------------------------------------------------------------

    @property
    def name(self) -> str | None:
        """The member's name in the group; None with an `ownership` that has none."""
        return self._ownership.name if isinstance(self._ownership, Membership) else None

    @property
    def function(self) -> Handle | None:
        """The handler, as it was given; None where there is none yet."""
        return self._function

    @property
    def partitions(self) -> list[int]:
        """The partitions that are ours now."""
        return self._holdings.numbers if self._holdings is not None else []

    @property
    def joined(self) -> bool:
        """Whether it is a member of its group now."""
        return self._ownership.joined

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop it runs in, or ran in last; None before it is started."""
        return self._loop

    def describe(self) -> dict[str, Any]:
        """What it is doing, for logs and for a health page. May be called in any thread."""
        runner = self._runner
        return {
            "group": self.group,
            "name": self.name,
            "partitions": self.partitions,
            "running": runner.lanes.running if runner else 0,
            "keys": len(runner.lanes) if runner else 0,
            "handled": runner.handled if runner else 0,
            "retried": runner.retried if runner else 0,
            "failed": runner.failed if runner else 0,
            "joined": self.joined,
            "coordinates": self._ownership.coordinates,
        }

    # Running --------------------------------------------------------------------------------------

    def run(self, handle: Handle | None = None) -> None:
        """Consumes until SIGTERM or SIGINT, then stops in good order (a second one cuts that short).

        Blocks; belongs to the main thread, and makes an event loop of its own. Raises what `serve` raises.

        Args:
            handle: the handler, where none was given by `handler`.
        """
        if (target := LOADING.get()) is not None:
            raise ConfigError(
                f"{target}: the module runs its consumer itself when it is imported, and `partymq worker` is"
                ' to run it: put `consumer.run()` below `if __name__ == "__main__":`'
            )
        run_bounded(self._run_with_signals(handle), _ENDED_WITHIN)

    async def serve(self, handle: Handle | None = None) -> None:
        """Consumes until `stop` is called. For programs that have an event loop already.

        When it is cancelled it stops in good order first. `async with consumer:` does the same in the
        background, and stops at the end of the block.

        Args:
            handle: the handler, where none was given by `handler`.

        Raises:
            HandlerFailed: a handler has failed for good, and `on_failure` is `stop`.
            ConfigError: there is no handler, or the group has other settings.
            LoginRefused: the broker does not let us in.
        """
        self._start(handle)
        await self.wait()

    def stop(self) -> None:
        """Has it stop in good order: running handlers get `stop_timeout` seconds. For any thread."""
        if self._loop is not None and self._stopping is not None:
            call_in(self._loop, self._stopping.set)

    async def wait(self) -> None:
        """Until it has stopped, by `stop` or by itself. Raises what `serve` raises."""
        if self._running is None:
            return
        try:
            await asyncio.shield(self._running)
        except asyncio.CancelledError:
            # The caller is cancelled: its messages are to be settled all the same.
            self.stop()
            await asyncio.wait([self._running])
            raise

    async def __aenter__(self) -> Self:
        self._start(None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is None:
            await self.wait()
        else:
            with contextlib.suppress(Exception):
                await self.wait()

    # Inside ---------------------------------------------------------------------------------------

    def _start(self, handle: Handle | None) -> None:
        if handle is not None:
            self.handler(handle)
        if self._function is None:
            raise ConfigError(f"group {self.group}: the consumer has no handler: use @consumer.handler")
        if self._running is not None and not self._running.done():
            raise ConfigError(f"group {self.group}: the consumer runs already")
        if not is_async(self._function):
            self._threads = Threads(self.settings.threads, f"partymq-{self.group}")
        handler = make_handler(self._function, self._threads)
        self._fatal = None
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._hooks.member = self.name
        self._runner = Runner(handler, self.group, self.settings, self._failed)
        self._holdings = Holdings(self._runner, self.group, self._hooks)
        self._running = asyncio.create_task(self._work(self._holdings, self._stopping))

    def _failed(self, error: HandlerFailed) -> None:
        assert self._holdings is not None
        self._holdings.start_nothing()
        self._fatal = self._fatal or error
        self.stop()

    async def _work(self, holdings: Holdings, stopping: asyncio.Event) -> None:
        joined = asyncio.create_task(self._ownership.run(holdings))
        stopped = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait((joined, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not joined.done():
                await self._leave(holdings, joined)
            if joined.done() and not joined.cancelled():
                joined.result()
        finally:
            stopped.cancel()
            if not joined.done():
                joined.cancel()
                await asyncio.wait([joined], timeout=_LEFT_WITHIN)
            closing = asyncio.create_task(holdings.close())
            await asyncio.wait([closing], timeout=_LEFT_WITHIN)
            if not closing.done():
                _log.warning("a hook does not end; it is left to itself", seconds=_LEFT_WITHIN)
                closing.cancel()
            if self._threads is not None:
                self._threads.shutdown(wait=False, cancel_futures=True)
                self._threads = None
        if self._fatal is not None:
            raise self._fatal

    async def _leave(self, holdings: Holdings, joined: "asyncio.Task[None]") -> None:
        assert self._hurrying is not None
        self._ownership.leave()
        hurried = asyncio.create_task(self._hurrying.wait())
        try:
            await asyncio.wait(
                {joined, hurried}, timeout=self.settings.stop_timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            hurried.cancel()
        if joined.done():
            return
        _log.warning("handlers still run; they are cancelled", hurried=self._hurrying.is_set())
        holdings.cancel_handlers()
        done, _ = await asyncio.wait([joined], timeout=_LEFT_WITHIN)
        if not done:
            _log.warning("the group could not be left in good order", seconds=_LEFT_WITHIN)
            joined.cancel()
            await asyncio.wait([joined], timeout=_LEFT_WITHIN)

    async def _run_with_signals(self, handle: Handle | None) -> None:
        self._start(handle)
        loop = asyncio.get_running_loop()
        asked = 0

        def ask() -> None:
            nonlocal asked
            asked += 1
            self.stop()
            if asked > 1 and self._hurrying is not None:
                self._hurrying.set()

        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, ask)
        try:
            await self.wait()
        finally:
            for number in signals:
                loop.remove_signal_handler(number)


def _membership(url: BrokerUrl, group: str, settings: dict[str, Any]) -> Ownership:
    own = {name: settings.pop(name) for name in tuple(settings) if name in _MEMBERSHIP}
    unknown = sorted(set(settings) - set(WISHES))
    if unknown:
        known = ", ".join(sorted({*_SETTINGS, *_MEMBERSHIP, *WISHES}))
        raise ConfigError(
            f"consumer of group {group}: unknown settings {', '.join(unknown)}; known are {known}"
        )
    if isinstance(settings.get("key"), str):
        settings["key"] = key_rule(settings["key"])
    GroupLayout.of(settings)
    return Membership(url, group, MembershipSettings(**own), wish=settings)
