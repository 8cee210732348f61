"""`Consumer.run` where it can't be: it says what to call instead, and leaves nothing behind."""

import threading
import warnings

import pytest

from partymq import Consumer


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
