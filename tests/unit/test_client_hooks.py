"""What a user is told about partitions that come and go."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from partymq.client.hooks import Hooks


async def waits_for_something_that_is_cancelled(_: Sequence[int]) -> None:
    other = asyncio.create_task(asyncio.sleep(10))
    asyncio.get_running_loop().call_soon(other.cancel)
    await other


async def test_a_hook_that_is_cancelled_by_what_it_waits_for_has_failed() -> None:
    """It does not look as if the caller were cancelled, who would leave the partition as it is."""
    hooks = Hooks(
        assigned=waits_for_something_that_is_cancelled, revoked=waits_for_something_that_is_cancelled
    )
    with pytest.raises(RuntimeError, match="cancelled"):
        await hooks.call_assigned([1])
    await hooks.call_revoked([1])


async def test_a_hook_ends_when_its_caller_is_cancelled() -> None:
    begun = asyncio.Event()

    async def hook(_: Sequence[int]) -> None:
        begun.set()
        await asyncio.sleep(10)

    calling = asyncio.create_task(Hooks(revoked=hook).call_revoked([1]))
    await begun.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling


async def test_a_hook_that_a_call_runs_nothing_of_has_failed() -> None:
    def generator(_: Sequence[int]) -> Iterator[None]:
        yield

    with pytest.raises(TypeError, match="yield"):
        await Hooks(assigned=generator).call_assigned([1])
