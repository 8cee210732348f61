"""`Consumer.run` where it can't be: it says what to call instead, and leaves nothing behind. `stop`, in
any thread."""

import asyncio
import threading
import time
import warnings

import pytest

from partymq import Consumer, Message
from tests.unit.owns_nothing import OwnsNothing


@pytest.fixture
def consumer() -> Consumer:
    consumer = Consumer("amqp://localhost:1", group="orders")
    consumer.handler(lambda message: None)
    return consumer


async def test_in_a_loop_that_runs_already_it_says_what_to_await(consumer: Consumer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a coroutine that nobody awaits
        with pytest.raises(RuntimeError, match=r"`await consumer\.serve\(\)`"):
            consumer.run()


def test_in_another_thread_than_the_main_one_it_says_what_to_call(consumer: Consumer) -> None:
    told: list[str] = []

    def run() -> None:
        with pytest.raises(RuntimeError) as caught:
            consumer.run()
        told.append(str(caught.value))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "asyncio.run(consumer.serve())" in told[0]
    assert consumer.loop is None


def test_it_can_be_stopped_in_another_thread_while_its_loop_sleeps() -> None:
    consumer = Consumer("amqp://localhost", ownership=OwnsNothing())

    async def handle(message: Message) -> None: ...

    async def main() -> None:
        asyncio.get_running_loop().call_soon(begun.set)
        await consumer.serve(handle)

    begun = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert begun.wait(60)
    time.sleep(0.1)  # Until it sleeps; where it does not yet, the test shows less.
    consumer.stop()
    thread.join(60)
    assert not thread.is_alive()
    consumer.stop()  # It has no loop any more.
