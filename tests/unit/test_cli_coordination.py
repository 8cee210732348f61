"""What `partymq group describe` makes of what the broker says of the coordinator's queue."""

from typing import Any, cast

import pytest

from partymq.amqp.topology import QueueInfo
from partymq.cli.coordination import ask_coordinator
from partymq.errors import ChannelClosed, ConnectionLost


class Broker:
    """A connection, and its one channel, which ends with `error` whatever it is asked."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def open_channel(self) -> "Broker":
        return self

    async def declare_queue(self, name: str, *, passive: bool) -> QueueInfo:
        raise self.error

    async def close(self) -> None:
        pass


async def said(error: Exception) -> str:
    return str((await ask_coordinator(cast("Any", Broker(error)), "g"))["uncoordinated"])


async def test_a_queue_that_is_not_there_means_that_nobody_coordinates() -> None:
    assert (await said(ChannelClosed(404, "NOT_FOUND - no queue"))).startswith("nobody")


async def test_a_queue_that_may_not_be_looked_at_does_not() -> None:
    refused = ChannelClosed(403, "ACCESS_REFUSED - access to queue 'q' refused for user 'u'")
    assert await said(refused) == "it can't be asked: access to queue 'q' refused for user 'u'"


@pytest.mark.parametrize("error", [ChannelClosed(405, "RESOURCE_LOCKED"), ConnectionLost("gone")], ids=str)
async def test_any_other_error_is_one(error: Exception) -> None:
    with pytest.raises(type(error)):
        await said(error)
