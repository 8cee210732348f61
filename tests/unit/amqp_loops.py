"""Runs an async test on plain asyncio and on uvloop."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

_FACTORIES: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test, once for each event loop; a minute at most. What the loop would log fails it."""

    def run(event_loop_kind: str, **fixtures: Any) -> None:
        logged: list[dict[str, Any]] = []

        async def bounded() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
            async with asyncio.timeout(60):
                await test(**fixtures)

        with asyncio.Runner(loop_factory=_FACTORIES[event_loop_kind]) as runner:
            runner.run(bounded())
        assert not logged

    signature = inspect.signature(test)
    kind = inspect.Parameter("event_loop_kind", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[kind, *signature.parameters.values()], return_annotation=None
    )
    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    return pytest.mark.parametrize("event_loop_kind", _FACTORIES)(run)
