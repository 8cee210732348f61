"""`partymq group describe`: who is there, who has what, who says so, and how far a resize is."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from partymq import Consumer, Message, Publisher
from partymq.amqp.connection import connect
from partymq.amqp.url import BrokerUrl
from partymq.cli import app
from partymq.coordinator.pull_topology import resize
from partymq.group.names import coordinator_queue
from tests.broker.test_pull_group import Start, start
from tests.conftest import Vhost

__all__ = ["start"]


async def told(vhost: Vhost, *options: str, user: str | None = None) -> str:
    """In a thread, as it has a loop of its own and is to ask members that run in ours."""
    arguments = ["group", "describe", "g", *options]
    url = vhost.amqp_url if user is None else vhost.amqp_url.replace("guest:guest@", f"{user}:secret@")
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments, env={"PARTYMQ_RABBIT_CS": url})
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


async def described(vhost: Vhost) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await told(vhost, "--json"))
    return found


async def coordinated(vhost: Vhost) -> dict[str, Any]:
    """As the coordinator answers it, which on a slow machine may come too late now and then."""
    while (found := await described(vhost))["coordination"]["coordinator"] is None:
        pass
    return found


async def test_members_and_a_resize_under_way_are_shown(vhost: Vhost, start: Start) -> None:
    let_go = asyncio.Event()

    async def handle(_: Message) -> None:
        await let_go.wait()

    async with asyncio.timeout(60):
        async with Publisher(vhost.amqp_url, group="g", partitions=2, queue_type="classic") as publisher:
            await publisher.publish(b"", key="k")
        for name in ("ann", "bob"):
            start(Consumer(vhost.amqp_url, group="g", name=name), handle)
        shares: list[int] = []
        while shares != [1, 1]:
            members = (await coordinated(vhost))["coordination"]["members"]
            shares = [len(one["partitions"]) for one in members]
        first = await coordinated(vhost)
        assert [one["name"] for one in first["coordination"]["members"]] == ["ann", "bob"]
        assert sorted(queue["owner"] for queue in first["queues"]) == ["ann", "bob"]
        assert all(queue["fencing_token"] > 0 for queue in first["queues"])
        assert first["coordination"]["epoch"] >= 1
        assert first["coordination"]["resizing"] is None

        connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
        await resize(connection, "g", 3)
        half_way = {"partitions": 2, "retired": 1}
        while (second := await coordinated(vhost))["coordination"]["resizing"] != half_way:
            await asyncio.sleep(0.2)
        old = [one["old_partitions"] for one in second["coordination"]["members"]]
        assert sorted(len(numbers) for numbers in old) == [0, 1], "one has a message in hand"
        assert len(second["queues"]) == 5
        while "no coordinator answered" in (text := await told(vhost)):
            pass
        assert "resizing      1 of the 2 old partitions are done with" in text
        assert "\nann     ready" in text
        let_go.set()
        while "resized_from" in (third := await coordinated(vhost)) or third["coordination"]["resizing"]:
            await asyncio.sleep(0.2)
        assert third["coordination"]["generation"] > second["coordination"]["generation"]
    await connection.close()


async def test_that_nobody_coordinates_is_said(vhost: Vhost) -> None:
    async with Publisher(vhost.amqp_url, group="g", partitions=2, queue_type="classic"):
        pass
    assert "coordinator   nobody: no member is running" in await told(vhost)
    alone = await described(vhost)
    assert alone["coordination"] == {
        "coordinator": None,
        "uncoordinated": "nobody: no member is running, and no server that coordinates",
        "members": [],
    }
    assert [queue["owner"] for queue in alone["queues"]] == [None, None]


@pytest.fixture
async def hanging(vhost: Vhost) -> AsyncIterator[None]:
    """A coordinator that says nothing."""
    async with Publisher(vhost.amqp_url, group="g", partitions=1, queue_type="classic"):
        pass
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="a coordinator that hangs")
    channel = await connection.open_channel()
    await channel.declare_queue(coordinator_queue("g"), durable=True)
    await channel.consume(coordinator_queue("g"), lambda _buf, _spans: None, exclusive=True, no_ack=True)
    yield
    await connection.close()


async def test_one_that_does_not_answer_is_said(vhost: Vhost, hanging: None) -> None:
    assert "coordinator   no coordinator answered within 2 s" in await told(vhost)


@pytest.mark.parametrize("configure", ["", ".*"], ids=["may ask nothing", "may not write"])
async def test_that_a_user_may_not_ask_the_coordinator_is_said(
    vhost: Vhost, hanging: None, configure: str
) -> None:
    """All that the user may see is shown."""
    user, place = f"user-{secrets.token_hex(4)}", quote(vhost.name, safe="")
    vhost.api("PUT", f"users/{user}", {"password": "secret", "tags": ""})
    vhost.api("PUT", f"permissions/{place}/{user}", {"configure": configure, "write": "", "read": ".*"})
    text = await told(vhost, user=user)
    vhost.api("DELETE", f"users/{user}")
    assert "coordinator   it can't be asked: access to " in text
    assert f"refused for user '{user}'" in text
    assert "g.q.partition-0" in text
