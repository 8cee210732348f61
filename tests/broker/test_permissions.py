"""A user of the broker with the permissions of docs/pull.md and no more; and what a deleted group leaves."""

import asyncio
import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from partymq import Consumer, Message, Publisher, RetryPolicy
from partymq.amqp.connection import Connection, connect
from partymq.amqp.url import BrokerUrl
from partymq.cli import app
from partymq.client.parking import sift
from partymq.coordinator.layout_store import locked
from partymq.coordinator.pull_topology import agree, declare
from partymq.errors import ChannelClosed
from partymq.group.names import former_queue, release_queue
from tests.broker.test_pull_group import Start, start
from tests.conftest import Vhost

__all__ = ["start"]


@dataclass
class Order:
    number: int


DOCS = Path(__file__).parents[2] / "docs" / "pull.md"


@pytest.fixture
def restricted(vhost: Vhost) -> Iterator[str]:
    """The AMQP URL of a user that has what docs/pull.md says, and no tag."""
    paragraph = re.search(r"\*\*In the broker\*\* a member needs.*?\n\n", DOCS.read_text(), re.DOTALL)
    assert paragraph is not None
    ours, write = re.findall(r"`(\^[^`]+)`", paragraph[0])
    name, place = f"user-{secrets.token_hex(4)}", quote(vhost.name, safe="")
    vhost.api("PUT", f"users/{name}", {"password": "secret", "tags": ""})
    vhost.api("PUT", f"permissions/{place}/{name}", {"configure": ours, "write": write, "read": ours})
    yield vhost.amqp_url.replace("guest:guest@", f"{name}:secret@")
    vhost.api("DELETE", f"users/{name}")


async def run(url: str, *arguments: str) -> str:
    """A command, in a thread: it has a loop of its own."""
    found = await asyncio.to_thread(CliRunner().invoke, app, arguments, env={"PARTYMQ_RABBIT_CS": url})
    assert found.exit_code == 0, (found.output, found.exception)
    return found.output


def left(vhost: Vhost) -> set[str]:
    """Queues and exchanges that are not the broker's own."""
    kinds = [vhost.api("GET", f"{kind}/{quote(vhost.name)}") for kind in ("queues", "exchanges")]
    names = {one["name"] for kind in kinds for one in kind}
    return {name for name in names if name and not name.startswith("amq.")}


async def test_the_documented_permissions_are_enough_for_all_that_is_done_with_a_group(
    vhost: Vhost, restricted: str, start: Start
) -> None:
    handled: list[int] = []
    failing = True

    async def handle(message: Message, order: Order) -> None:
        if failing and message.key == "bad":
            raise RuntimeError("not yet")
        handled.append(order.number)

    async with asyncio.timeout(150):
        await run(restricted, "group", "create", "g", "--partitions", "2")
        retry = RetryPolicy(max_attempts=1)
        members = [
            start(Consumer(restricted, group="g", retry=retry, on_failure="park"), handle) for _ in range(2)
        ]
        async with Publisher(restricted, group="g") as publisher:
            await publisher.publish({"number": 0}, key="bad")
            while "parked keys: 1" not in await run(restricted, "parked", "list", "g"):
                await asyncio.sleep(0.1)
            await run(restricted, "group", "resize", "g", "--partitions", "3")
            await publisher.publish({"number": 1}, key="good")
            await publisher.publish(b"no order", key="dead")
            failing = False
            await run(restricted, "parked", "release", "g", "bad")
            while "1 of 1 dead letters" not in await run(restricted, "dlq", "list", "g"):
                await asyncio.sleep(0.1)
            assert (await run(restricted, "dlq", "replay", "g")).startswith("1 ")
        while sorted(handled) != [0, 1]:
            await asyncio.sleep(0.05)
        described = json.loads(await run(restricted, "group", "describe", "g", "--json"))
        assert len(described["coordination"]["members"]) == 2
        for member in members:
            member.cancel()
        await asyncio.gather(*members, return_exceptions=True)
        while True:
            try:
                await run(restricted, "group", "delete", "g", "--yes")
                break
            except AssertionError:  # the broker has not seen yet that its members are gone
                await asyncio.sleep(0.1)
    assert left(vhost) == {former_queue("g")}


async def test_a_deleted_group_leaves_nothing_but_the_memory_of_its_settings(vhost: Vhost) -> None:
    """Of a resize that ended half way, neither."""
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
    layout = await agree(connection, "g", {"partitions": 2, "queue_type": "classic"})
    async with locked(connection, "g"):
        await declare(connection, "g", layout.resized(3))
    channel = await connection.open_channel()
    await channel.declare_queue(release_queue("g"), durable=True)
    await run(vhost.amqp_url, "group", "delete", "g", "--yes")
    assert left(vhost) == {former_queue("g")}
    await connection.close()


async def test_who_may_not_look_through_a_queue_is_told_so(vhost: Vhost, restricted: str) -> None:
    """The broker says 403 for that, as it does where somebody else looks through it just now."""
    connection: Connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
    channel = await connection.open_channel()
    await channel.declare_queue("theirs")
    await connection.close()
    connection = await connect(BrokerUrl.parse(restricted), name="test")
    async with asyncio.timeout(60):
        with pytest.raises(ChannelClosed, match="refused for user"):
            await sift(connection, "theirs", lambda _: True)
    await connection.close()
