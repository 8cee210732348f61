"""`partymq group`, `dlq` and `parked` against a real broker."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from pamqp.commands import Basic
from typer.testing import CliRunner

from partymq.amqp.connection import connect
from partymq.amqp.url import BrokerUrl
from partymq.cli import app
from partymq.client.failure import ATTEMPTS_HEADER, ERROR_HEADER, KEY_HEADER
from partymq.client.parking import SEQUENCE_HEADER
from partymq.errors import ConfigError, GroupError, UnknownGroup
from partymq.group.names import dead_letter_queue, parked_queue
from partymq.group.partitioner import partition_of
from partymq.router.contents import PARTITION_HEADER, REASON_HEADER
from tests.conftest import Vhost

GROUP = "orders"
Command = Callable[..., str]


@pytest.fixture
def command(vhost: Vhost) -> Command:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, arguments, env={"PARTYMQ_RABBIT_CS": vhost.amqp_url})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return run


def put(vhost: Vhost, queue: str, *messages: tuple[str, bytes]) -> None:
    """Messages as a consumer gives them up."""

    async def publish() -> None:
        connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
        channel = await connection.open_channel()
        await channel.select_confirms()
        for key, body in messages:
            headers: dict[str, Any] = {
                "partitionKey": key,
                REASON_HEADER: "handler failed",
                KEY_HEADER: key,
                PARTITION_HEADER: str(partition_of(key.encode(), 4)),
                ATTEMPTS_HEADER: "5",
                SEQUENCE_HEADER: body.decode(),
                ERROR_HEADER: f"ValueError: {body.decode()}",
            }
            properties = Basic.Properties(headers=headers, delivery_mode=2)
            await channel.publish("", queue, body, properties, mandatory=True)
        await connection.close()

    asyncio.run(publish())


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_dead_letters_are_looked_at_replayed_and_dropped(
    vhost: Vhost, command: Command, queue_type: str
) -> None:
    command("group", "create", GROUP, "--partitions", "4", "--queue-type", queue_type)
    put(vhost, dead_letter_queue(GROUP), ("a", b"1"), ("b", b"2"), ("a", b"3"), ("c", b"4"))
    listed = json.loads(command("dlq", "list", GROUP, "--json"))
    assert [(one["place"], one["key"], one["error"]) for one in listed] == [
        (1, "a", "ValueError: 1"),
        (2, "b", "ValueError: 2"),
        (3, "a", "ValueError: 3"),
        (4, "c", "ValueError: 4"),
    ]
    assert "4 of 4 dead letters" in command("dlq", "list", GROUP)
    assert command("dlq", "show", GROUP, "3").endswith("\n3\n")
    assert command("dlq", "replay", GROUP, "--key", "a").startswith("2 ")
    assert command("dlq", "replay", GROUP, "--place", "2").startswith("1 ")
    described = json.loads(command("group", "describe", GROUP, "--json"))
    assert described["dead_letters"] == 1
    ready = [queue["ready"] for queue in described["queues"]]
    expected = [0] * 4
    for key in ("a", "a", "c"):
        expected[partition_of(key.encode(), 4)] += 1
    assert ready == expected
    assert [one["key"] for one in json.loads(command("dlq", "list", GROUP, "--json"))] == ["b"]
    assert command("dlq", "replay", GROUP).startswith("1 ")
    assert command("dlq", "purge", GROUP, "--yes").startswith("0 ")


def test_parked_keys_are_listed_and_one_that_is_not_parked_is_said(vhost: Vhost, command: Command) -> None:
    command("group", "create", GROUP, "--partitions", "4", "--queue-type", "classic")
    put(vhost, parked_queue(GROUP), ("a", b"3"), ("b", b"2"), ("a", b"1"))
    listed = json.loads(command("parked", "list", GROUP, "--json"))
    assert [(one["key"], one["messages"], one["error"]) for one in listed] == [
        ("a", 2, "ValueError: 1"),  # that of the first one, wherever it lies
        ("b", 1, "ValueError: 2"),
    ]
    with pytest.raises(ConfigError, match="not parked: z"):
        command("parked", "release", GROUP, "z")
    with pytest.raises(GroupError, match="still parked: a"):
        command("parked", "release", GROUP, "a", "--wait", "0.6")


def test_parked_messages_are_shown_and_the_first_one_is_passed_over(vhost: Vhost, command: Command) -> None:
    command("group", "create", GROUP, "--partitions", "4", "--queue-type", "classic")
    put(vhost, parked_queue(GROUP), ("a", b"3"), ("b", b"2"), ("a", b"1"))
    shown = command("parked", "show", GROUP, "a")
    assert (
        shown.index("message 1 of 2")
        < shown.index("\n1\n")
        < shown.index("message 2 of 2")
        < shown.index("\n3\n")
    )
    assert "x-partymq-error: ValueError: 1\n" in shown
    assert [one["body"] for one in json.loads(command("parked", "show", GROUP, "a", "--json"))] == ["1", "3"]
    for ask in ("show", "skip"):
        with pytest.raises(ConfigError, match="not parked: z"):
            command("parked", ask, GROUP, "z")
    with pytest.raises(GroupError, match="still parked: a"):  # no member is running
        command("parked", "skip", GROUP, "a", "--wait", "0.6")
    assert [one["key"] for one in json.loads(command("parked", "list", GROUP, "--json"))] == ["a", "b"]
    assert "b is released" in command("parked", "skip", GROUP, "b", "--wait", "60")
    letters = json.loads(command("dlq", "list", GROUP, "--json"))
    assert [(one["key"], one["error"]) for one in letters] == [("a", "ValueError: 1"), ("b", "ValueError: 2")]
    assert [one["body"] for one in json.loads(command("parked", "show", GROUP, "a", "--json"))] == ["3"]


def test_a_group_gets_no_name_that_members_could_not_use(command: Command) -> None:
    with pytest.raises(ConfigError, match="group = 'a b': allowed are 1 to 100 letters"):
        command("group", "create", "a b", "--partitions", "1")


@pytest.mark.parametrize(("command_of", "queue"), [("dlq", "dead-letter"), ("parked", "parked")])
def test_a_group_that_is_not_there_is_said(vhost: Vhost, command_of: str, queue: str) -> None:
    result = CliRunner().invoke(app, [command_of, "list", "ordesr", "--url", vhost.amqp_url])
    assert result.exit_code == 0
    assert result.stderr == f"there is no queue partymq.ordesr.q.{queue}: is ordesr the group's name?\n"


def test_a_group_is_created_once_described_and_deleted(command: Command) -> None:
    assert "partitions 4" in command(
        "group", "create", GROUP, "--partitions", "4", "--key", "header:customer"
    )
    command("group", "create", GROUP, "--partitions", "4")
    with pytest.raises(ConfigError, match=r"key = 'header:x' .* key = 'header:customer'"):
        command("group", "create", GROUP, "--key", "header:x")
    assert "header:customer" in command("group", "describe", GROUP)
    assert command("group", "delete", GROUP, "--yes") == f"group {GROUP} is deleted, with 0 messages\n"
    with pytest.raises(UnknownGroup, match="partymq group create orders"):
        command("group", "describe", GROUP)
