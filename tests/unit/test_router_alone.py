"""Whether a queue that is consumed alone has anything ready."""

from typing import cast

import pytest

from partymq.amqp.channel import Channel
from partymq.amqp.topology import QueueInfo
from partymq.router.alone import Alone


class Says:
    """A channel on which the broker says this of the queue."""

    def __init__(self, messages: int, consumers: int) -> None:
        self._said = QueueInfo("q", messages, consumers)

    async def declare_queue(self, name: str, *, passive: bool) -> QueueInfo:
        assert (name, passive) == ("q", True)
        return self._said


@pytest.mark.parametrize(("messages", "consumers", "nothing"), [(0, 1, True), (3, 1, False), (0, 0, False)])
async def test_a_queue_that_knows_nothing_of_its_consumer_is_not_taken_for_empty(
    messages: int, consumers: int, nothing: bool
) -> None:
    alone = Alone(cast("Channel", Says(messages, consumers)), "q", "")
    assert await alone.has_nothing_ready() is nothing
