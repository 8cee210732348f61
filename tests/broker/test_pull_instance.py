"""A pull group's part of a server process: it coordinates, it shows, and the broker can't surprise it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
from pamqp.commands import Basic

from partymq.amqp.connection import connect
from partymq.amqp.url import BrokerUrl
from partymq.client import membership
from partymq.client.publisher import Publisher
from partymq.config import BrokerSettings, GroupSettings, PullGroupSettings
from partymq.coordinator import backlog
from partymq.coordinator.instance import GroupInstance
from partymq.coordinator.layout_store import read_layout
from partymq.coordinator.pull_instance import PullInstance
from partymq.coordinator.pull_removal import delete
from partymq.coordinator.pull_topology import agree, resize
from partymq.errors import BrokerError, ConfigError, NoCoordinator
from tests.broker.pull_members import GROUP, PARTITIONS, WISH, Journal, Member, shared, until
from tests.broker.tcp_proxy import TcpProxy
from tests.conftest import Vhost

Serve = Callable[..., "Served"]
Join = Callable[..., Member]


class Served:
    """A `PullInstance` that runs."""

    def __init__(self, url: str, name: str, group: str = GROUP, **settings: Any) -> None:
        broker = BrokerSettings(url=BrokerUrl.parse(url))
        self.instance = PullInstance(
            broker, PullGroupSettings(group, **settings), instance=name, call_timeout=2.0
        )
        self.running = asyncio.create_task(self.instance.run())

    async def ready(self) -> None:
        async with asyncio.timeout(60):
            while self.instance.unready() is not None:
                if self.running.done():
                    self.running.result()
                await asyncio.sleep(0.01)

    async def described(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The description as soon as it is as it should be."""
        said: object = None
        try:
            async with asyncio.timeout(60):
                while True:
                    with suppress(BrokerError, NoCoordinator):
                        said = described = await self.instance.describe()
                        if holds(described):
                            return described
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not in time: {said}") from None

    async def stop(self) -> None:
        self.running.cancel()
        await asyncio.wait([self.running])


@pytest.fixture
async def serve(vhost: Vhost) -> AsyncIterator[Serve]:
    instances: list[Served] = []

    def start(name: str, url: str = vhost.amqp_url, **settings: Any) -> Served:
        instances.append(Served(url, name, **{**WISH, **settings}))
        return instances[-1]

    yield start
    for served in instances:
        await served.stop()


@pytest.fixture
async def join(vhost: Vhost) -> AsyncIterator[Join]:
    members: list[Member] = []
    journal = Journal()

    def make(name: str, url: str = vhost.amqp_url, **settings: object) -> Member:
        members.append(Member(url, journal, name, **{"coordinator": "server", **settings}))
        return members[-1]

    yield make
    for member in members:
        member.running.cancel()
    await asyncio.gather(*(member.running for member in members), return_exceptions=True)


async def test_it_coordinates_members_that_do_not_and_shows_them(serve: Serve, join: Join) -> None:
    served = serve("a")
    await served.ready()
    one, two = join("one"), join("two")
    await until(lambda: shared(one, two), one, two)
    described = await served.described(lambda group: not group["rebalancing"])
    assert not one.membership.coordinates
    assert not two.membership.coordinates
    assert (described["coordinator"], described["settings"]["partitions"]) == ("a", PARTITIONS)
    owners = {one["partition"]: one["owner"] for one in described["partitions"]}
    assert owners == dict.fromkeys(one.tokens, "one") | dict.fromkeys(two.tokens, "two")
    numbers = served.instance.statistics()
    assert (numbers.coordinates, numbers.members) == (True, {"ready": 2})
    assert numbers.generation == described["generation"]


async def test_the_next_in_line_coordinates_when_it_stops_and_members_do_not_notice(
    serve: Serve, join: Join
) -> None:
    first = serve("a")
    await first.ready()
    second = serve("b")
    await second.ready()
    one = join("one")
    await until(lambda: shared(one), one)
    tokens = dict(one.tokens)
    assert (await second.described(lambda group: len(group["members"]) == 1))["coordinator"] == "a"
    await first.stop()
    described = await second.described(lambda group: group["coordinator"] == "b")
    assert described["epoch"] == 2
    assert one.tokens == tokens
    two = join("two")
    await until(lambda: shared(one, two), one, two)
    assert not first.instance.statistics().coordinates


async def test_members_wait_for_a_server_and_say_so(
    serve: Serve, join: Join, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(membership, "_PATIENCE", 0.5)
    monkeypatch.setattr(membership, "_CALL", 0.2)
    one = join("one")
    await until(lambda: "waiting to join: nobody coordinates" in caplog.text, one)
    assert "partymq serve" in caplog.text
    assert not one.tokens
    monkeypatch.undo()
    await serve("a").ready()
    await until(lambda: shared(one), one)
    assert not one.membership.coordinates


async def test_what_members_coordinate_themselves_is_only_shown(serve: Serve, join: Join) -> None:
    served = serve("a", coordinator="embedded")
    await served.ready()
    one = join("one", coordinator="embedded")
    await until(lambda: shared(one), one)
    assert one.membership.coordinates
    described = await served.described(lambda group: len(group["members"]) == 1)
    assert described["coordinator"] == "one"
    assert not served.instance.statistics().coordinates
    one.kill()
    await asyncio.wait([one.running])
    with pytest.raises(NoCoordinator):
        await served.instance.describe()
    assert served.instance.unready() is None


async def test_a_broker_that_was_away_changes_nothing(
    vhost: Vhost, serve: Serve, join: Join, tcp_proxy: TcpProxy
) -> None:
    served = serve("a", tcp_proxy.url(vhost.amqp_url))
    await served.ready()
    one = join("one")
    await until(lambda: shared(one), one)
    tokens = dict(one.tokens)
    tcp_proxy.cut()
    described = await served.described(lambda group: group["epoch"] >= 2)
    assert [member["hostname"] for member in described["members"]] == ["one"]
    assert one.tokens == tokens
    assert served.instance.statistics().reconnects >= 2
    await served.ready()


async def test_a_resize_is_carried_out_and_shown(vhost: Vhost, serve: Serve, join: Join) -> None:
    served = serve("a")
    await served.ready()
    one = join("one")
    await until(lambda: shared(one), one)
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
    one.hold_revoke = asyncio.Event()
    await resize(connection, GROUP, 2 * PARTITIONS)
    during = await served.described(lambda group: "resizing" in group)
    one.hold_revoke.set()
    assert during["resizing"]["partitions"] == PARTITIONS
    assert during["settings"]["resized_from"] == PARTITIONS
    after = await served.described(lambda group: "resizing" not in group)
    assert (after["settings"]["partitions"], after["settings"]["layout"]) == (2 * PARTITIONS, 2)
    assert "resized_from" not in after["settings"]
    assert len(after["partitions"]) == 2 * PARTITIONS
    # Who starts now with the number that was is not refused.
    await served.stop()
    await serve("b").ready()
    await connection.close()


async def test_what_waits_in_the_partitions_is_counted_by_who_coordinates(
    vhost: Vhost, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "_COUNT", 0.2)
    first, second = serve("a"), serve("b")
    await first.ready()
    await second.ready()
    async with Publisher(vhost.amqp_url, group=GROUP) as publisher:
        await publisher.publish_many((number, f"key-{number}") for number in range(100))
        counted = await first.described(
            lambda group: sum(one.get("messages_ready", 0) for one in group["partitions"]) == 100
        )
        assert len([one for one in counted["partitions"] if one["messages_ready"]]) > 1
        served, other = sorted((first, second), key=lambda one: not one.instance.statistics().coordinates)
        assert sum(served.instance.statistics().lag.values()) == 100
        assert other.instance.statistics().lag == {}
        connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
        await resize(connection, GROUP, 2 * PARTITIONS)
        await first.described(lambda group: "resizing" in group)
        await publisher.publish_many((number, f"key-{number}") for number in range(100))
        await first.described(
            lambda group: sum(one.get("messages_ready", 0) for one in group["partitions"]) == 200
        )
        assert sum(served.instance.statistics().lag.values()) == 200
        assert max(served.instance.statistics().lag) == 2 * PARTITIONS - 1
        await connection.close()


async def test_with_the_router_as_ingress_it_fills_the_group_and_says_when_it_can_not(
    vhost: Vhost, serve: Serve, join: Join
) -> None:
    routed = {"ingress": "router", "source_queue": "in", "coordinator": "embedded"}
    served = serve("a", **routed)
    async with asyncio.timeout(60):
        while "source queue 'in' does not exist" not in str(served.instance.unready()):
            await asyncio.sleep(0.01)
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
    channel = await connection.open_channel()
    await channel.select_confirms()
    await channel.declare_queue("in", durable=True)
    await served.ready()
    await serve("b", **routed).ready()
    for number in range(20):
        headers = {"partitionKey": f"key-{number}"}
        await channel.publish("", "in", b"", Basic.Properties(headers=headers))
    async with asyncio.timeout(60):
        while served.instance.statistics().routed_messages < 20:
            await asyncio.sleep(0.01)
    one = join("one", coordinator="embedded")
    await until(lambda: shared(one), one)
    described = await served.described(lambda group: len(group["members"]) == 1)
    assert described["source"] == {"queue": "in"}
    assert (described["router"]["instance"], described["router"]["routes"]) == ("a", True)
    await connection.close()


async def test_it_ends_where_the_group_is_another_than_the_settings_say(vhost: Vhost, serve: Serve) -> None:
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
    await agree(connection, GROUP, WISH)
    served = serve("a", partitions=PARTITIONS + 1)
    with pytest.raises(ConfigError, match=rf"partitions = {PARTITIONS + 1} is set here.*= {PARTITIONS}:"):
        await asyncio.wait_for(served.running, 60)
    await connection.close()


async def test_a_group_of_the_other_mode_is_not_taken_over(vhost: Vhost, serve: Serve) -> None:
    broker = BrokerSettings(url=BrokerUrl.parse(vhost.amqp_url), management_url=None)
    push = GroupInstance(broker, GroupSettings(GROUP, source_declare=True), instance="push")
    running = asyncio.create_task(push.run())
    async with asyncio.timeout(60):
        while not push.statistics().coordinates:
            await asyncio.sleep(0.01)
    with pytest.raises(ConfigError, match=r"mode = 'pull' is set here, but .* it is a push group"):
        await asyncio.wait_for(serve("a").running, 60)
    running.cancel()
    await asyncio.wait([running])

    pulled = Served(vhost.amqp_url, "b", group="pulled")
    await pulled.ready()
    push = GroupInstance(broker, GroupSettings("pulled", source_declare=True), instance="push")
    with pytest.raises(ConfigError, match=r"on this broker it is a pull group .* group delete pulled"):
        await asyncio.wait_for(push.run(), 60)
    await pulled.stop()


async def test_what_the_settings_do_not_say_is_taken_as_it_is(vhost: Vhost, serve: Serve) -> None:
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
    layout = await agree(connection, GROUP, WISH)
    served = serve("a", partitions=None, queue_type=None)
    await served.ready()
    described = await served.described(lambda _: True)
    assert described["settings"] == layout.describe()
    await connection.close()


async def test_a_group_that_was_deleted_by_force_is_there_again(
    vhost: Vhost, serve: Serve, join: Join
) -> None:
    served = serve("a")
    await served.ready()
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="test")
    layout = await read_layout(connection, GROUP)
    assert layout is not None
    with pytest.raises(ConfigError, match="`partymq serve` coordinates it: stop that first"):
        await delete(connection, GROUP, layout)
    await delete(connection, GROUP, layout, if_unused=False)
    one = join("one")
    await until(lambda: shared(one), one)
    assert [m["hostname"] for m in (await served.described(lambda group: group["members"]))["members"]] == [
        "one"
    ]
    await connection.close()
