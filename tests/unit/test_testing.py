"""What users test their handlers with, and the page that shows it."""

import re
import threading
from pathlib import Path
from types import ModuleType

import pytest

from partymq import Consumer
from partymq.errors import ConfigError
from partymq.testing import deliver, make_message

PAGE = Path(__file__).parents[2] / "docs" / "api" / "testing.md"


def shown() -> dict[str, object]:
    """The names of the page's test module."""
    code = re.search(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert code is not None
    module = ModuleType("shown")
    exec(compile(code[1], str(PAGE), "exec"), module.__dict__)
    return module.__dict__


@pytest.mark.parametrize("name", sorted(name for name in shown() if name.startswith("test_")))
async def test_the_tests_on_the_page_pass(name: str) -> None:
    test = shown()[name]
    assert callable(test)
    await test()


def test_a_message_is_what_a_publisher_would_have_sent() -> None:
    message = make_message(
        {"amount": 7},
        key="customer-42",
        headers={"colour": "red"},
        fencing_token=9,
        attempt=2,
        group="orders",
    )
    assert (message.key, message.json(), message.partition) == ("customer-42", {"amount": 7}, 21)
    assert message.headers == {"partitionKey": "customer-42", "colour": "red"}
    assert (message.fencing_token, message.attempt, message.redelivered) == (9, 2, False)
    assert (message.exchange, message.routing_key) == ("partymq.orders.ex.write", "1.21")
    assert message.properties.content_type == "application/json"
    assert make_message(b"", redelivered=True).redelivered


def test_a_message_may_be_without_a_key() -> None:
    message = make_message("hello", partition=3)
    assert (message.key, message.partition, message.body) == (None, 3, b"hello")


async def test_a_plain_function_is_called_in_a_thread_and_what_it_raises_comes_through() -> None:
    consumer = Consumer("amqp://localhost")

    @consumer.handler
    def handle(message: object) -> None:
        raise LookupError(threading.current_thread() is threading.main_thread())

    with pytest.raises(LookupError, match="False"):
        await deliver(consumer, make_message(b""))


async def test_without_a_handler_nothing_can_be_delivered() -> None:
    with pytest.raises(ConfigError, match="no handler"):
        await deliver(Consumer("amqp://localhost"), make_message(b""))
