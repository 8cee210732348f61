"""Commands reach the coordinator wherever it is, and their answers come back."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from partymq.amqp.connection import Connection, connect
from partymq.amqp.url import BrokerUrl
from partymq.coordinator.commands import AnswerTo, CommandClient, serve_commands
from partymq.errors import ConnectionLost, NoCoordinator
from partymq.group.names import coordinator_queue
from partymq.group.wire import Bind, Command, Reply, Status
from tests.conftest import Vhost


@pytest.fixture
async def connections(vhost: Vhost) -> AsyncIterator[tuple[Connection, Connection]]:
    """The front end's and the coordinator's."""
    url = BrokerUrl.parse(vhost.amqp_url)
    front, coordinator = await connect(url, name="front"), await connect(url, name="coordinator")
    yield front, coordinator
    await front.close()
    await coordinator.close()


async def client_on(connection: Connection, timeout: float = 5.0) -> CommandClient:
    client = CommandClient(connection, "g", timeout=timeout)
    await client.start()
    return client


async def test_an_answer_comes_back(connections: tuple[Connection, Connection]) -> None:
    front, coordinator = connections
    client = await client_on(front)
    seen: list[Command] = []

    def on_command(command: Command, answer: AnswerTo) -> None:
        seen.append(command)
        answer(Reply(command.request_id, Status.ALREADY_PENDING))

    await serve_commands(coordinator, "g", on_command)
    replies = await asyncio.gather(*(client.call(f"r{n}", Bind(f"pod-{n}")) for n in range(50)))
    assert [reply.request_id for reply in replies] == [f"r{n}" for n in range(50)]
    assert {reply.status for reply in replies} == {Status.ALREADY_PENDING}
    assert sorted(command.call.hostname for command in seen if isinstance(command.call, Bind)) == sorted(
        f"pod-{n}" for n in range(50)
    )


async def test_a_command_that_got_no_answer_is_sent_again(
    connections: tuple[Connection, Connection],
) -> None:
    front, coordinator = connections
    client = await client_on(front, timeout=2.0)
    seen: list[str] = []

    def on_command(command: Command, answer: AnswerTo) -> None:
        seen.append(command.request_id)
        if len(seen) == 2:
            answer(Reply(command.request_id, Status.OK))

    await serve_commands(coordinator, "g", on_command)
    assert (await client.call("r", Bind("pod"))).status is Status.OK
    assert seen == ["r", "r"]


async def test_the_service_ends_when_its_queue_is_deleted(connections: tuple[Connection, Connection]) -> None:
    front, coordinator = connections
    serving = await serve_commands(coordinator, "g", lambda command, answer: None)
    client = await client_on(front)
    async with asyncio.timeout(10):
        other = await front.open_channel()
        await other.delete_queue(coordinator_queue("g"))
        await serving.wait_closed()
        await other.delete_queue(client.control)
        await client.wait_closed()


async def test_callers_are_told_at_once_when_the_connection_is_gone(
    connections: tuple[Connection, Connection],
) -> None:
    front, _ = connections
    client = await client_on(front, timeout=30.0)
    call = asyncio.create_task(client.call("r", Bind("pod")))
    await asyncio.sleep(0.1)
    front.abort()
    with pytest.raises(ConnectionLost):
        async with asyncio.timeout(5):
            await call


async def test_without_a_coordinator_the_caller_is_told_in_time_and_nothing_stays(
    vhost: Vhost, connections: tuple[Connection, Connection]
) -> None:
    front, coordinator = connections
    client = await client_on(front, timeout=0.5)
    with pytest.raises(NoCoordinator, match=r"no coordinator answered within 0\.5 s"):
        await client.call("r", Bind("pod"))
    channel = await coordinator.open_channel()
    async with asyncio.timeout(10):
        while (await channel.declare_queue(coordinator_queue("g"), passive=True)).messages:
            await asyncio.sleep(0.05)


async def test_a_new_coordinator_waits_for_the_old_ones_place(
    vhost: Vhost, connections: tuple[Connection, Connection]
) -> None:
    front, old = connections
    client = await client_on(front)
    served: list[str] = []

    def by(name: str, command: Command, answer: AnswerTo) -> None:
        served.append(name)
        answer(Reply(command.request_id, Status.OK))

    await serve_commands(old, "g", lambda command, answer: by("old", command, answer))
    new = await connect(BrokerUrl.parse(vhost.amqp_url), name="new")
    try:
        taking_over = asyncio.create_task(
            serve_commands(new, "g", lambda command, answer: by("new", command, answer))
        )
        await client.call("1", Bind("pod"))
        old.abort()
        async with asyncio.timeout(10):
            await taking_over
        await client.call("2", Bind("pod"))
        assert served == ["old", "new"]
    finally:
        await new.close()


async def test_a_lost_connection_is_told_to_the_caller(connections: tuple[Connection, Connection]) -> None:
    front, _ = connections
    client = await client_on(front)
    front.abort()
    with pytest.raises(ConnectionLost):
        await client.call("r", Bind("pod"))


async def test_nonsense_in_the_queues_harms_nobody(connections: tuple[Connection, Connection]) -> None:
    front, coordinator = connections
    client = await client_on(front)

    def on_command(command: Command, answer: AnswerTo) -> None:
        answer(Reply(command.request_id, Status.OK))

    await serve_commands(coordinator, "g", on_command)
    channel = await front.open_channel()
    await channel.select_confirms()
    for body in (b"", b"{}", b"\xff", b'{"request_id": 1}'):
        await channel.publish("", coordinator_queue("g"), body)
    assert (await client.call("r", Bind("pod"))).status is Status.OK
