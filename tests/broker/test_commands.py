"""Commands reach the coordinator wherever it is, and their answers come back."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

import pytest

from partymq.amqp.channel import Channel
from partymq.amqp.connection import Connection, connect
from partymq.amqp.url import BrokerUrl
from partymq.coordinator.commands import AnswerTo, CommandClient, serve_commands
from partymq.errors import ChannelClosed, ConnectionLost, NoCoordinator
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


QUEUE_TYPES = pytest.mark.parametrize("queue_type", ["quorum", "classic"])


async def client_on(
    connection: Connection, timeout: float = 60.0, queue_type: str = "quorum"
) -> CommandClient:
    client = CommandClient(connection, "g", timeout=timeout, queue_type=queue_type)
    await client.start()
    return client


async def serve(
    connection: Connection, on_command: Callable[[Command, AnswerTo], None], queue_type: str = "quorum"
) -> Channel:
    return await serve_commands(connection, "g", on_command, queue_type=queue_type)


@QUEUE_TYPES
async def test_an_answer_comes_back(connections: tuple[Connection, Connection], queue_type: str) -> None:
    front, coordinator = connections
    client = await client_on(front, queue_type=queue_type)
    seen: list[Command] = []

    def on_command(command: Command, answer: AnswerTo) -> None:
        seen.append(command)
        answer(Reply(command.request_id, Status.ALREADY_PENDING))

    await serve(coordinator, on_command, queue_type)
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

    await serve(coordinator, on_command)
    reply = None
    while reply is None:  # on a machine that is slow now its time may be over before the answer is there
        seen.clear()
        with contextlib.suppress(NoCoordinator):
            reply = await client.call("r", Bind("pod"))
    assert reply.status is Status.OK
    assert seen[:2] == ["r", "r"]


async def test_the_service_ends_when_its_queue_is_deleted(connections: tuple[Connection, Connection]) -> None:
    front, coordinator = connections
    serving = await serve(coordinator, lambda command, answer: None)
    client = await client_on(front)
    async with asyncio.timeout(60):
        other = await front.open_channel()
        await other.delete_queue(coordinator_queue("g"))
        await serving.wait_closed()
        await other.delete_queue(client.control)
        await client.wait_closed()


async def test_callers_are_told_at_once_when_the_connection_is_gone(
    connections: tuple[Connection, Connection],
) -> None:
    front, _ = connections
    client = await client_on(front, timeout=600.0)
    call = asyncio.create_task(client.call("r", Bind("pod")))
    await asyncio.sleep(0.1)
    front.abort()
    with pytest.raises(ConnectionLost):
        async with asyncio.timeout(60):
            await call


async def test_without_a_coordinator_the_caller_is_told_in_time_and_nothing_stays(
    vhost: Vhost, connections: tuple[Connection, Connection]
) -> None:
    front, coordinator = connections
    client = await client_on(front, timeout=0.5)
    with pytest.raises(NoCoordinator, match=r"no coordinator answered within 0\.5 s"):
        await client.call("r", Bind("pod"))
    channel = await coordinator.open_channel()
    async with asyncio.timeout(60):
        while (await channel.declare_queue(coordinator_queue("g"), passive=True)).messages:
            await asyncio.sleep(0.05)


@QUEUE_TYPES
async def test_a_new_coordinator_gets_commands_when_the_old_one_is_gone(
    vhost: Vhost, connections: tuple[Connection, Connection], queue_type: str
) -> None:
    front, old = connections
    client = await client_on(front, queue_type=queue_type)
    served: list[str] = []

    def by(name: str) -> Callable[[Command, AnswerTo], None]:
        def on_command(command: Command, answer: AnswerTo) -> None:
            served.append(name)
            answer(Reply(command.request_id, Status.OK))

        return on_command

    await serve(old, by("old"), queue_type)
    new = await connect(BrokerUrl.parse(vhost.amqp_url), name="new")
    try:
        taking_over = asyncio.create_task(serve(new, by("new"), queue_type))
        await client.call("1", Bind("pod"))
        old.abort()
        async with asyncio.timeout(60):
            await taking_over
        await client.call("2", Bind("pod"))
        assert served == ["old", "new"]
    finally:
        await new.close()


@pytest.mark.parametrize(("there", "wanted"), [("classic", "quorum"), ("quorum", "classic")])
async def test_a_queue_of_the_other_type_is_used_as_it_is(
    connections: tuple[Connection, Connection], there: str, wanted: str
) -> None:
    front, coordinator = connections
    await client_on(coordinator, queue_type=there)

    def on_command(command: Command, answer: AnswerTo) -> None:
        answer(Reply(command.request_id, Status.OK))

    await serve(coordinator, on_command, wanted)
    client = await client_on(front, queue_type=wanted)
    # There can still be only one who serves it.
    another = asyncio.create_task(serve(front, lambda command, answer: pytest.fail("served twice"), wanted))
    for number in range(20):
        assert (await client.call(f"r{number}", Bind("pod"))).status is Status.OK
    another.cancel()
    await asyncio.wait([another])


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

    await serve(coordinator, on_command)
    channel = await front.open_channel()
    await channel.select_confirms()
    for body in (b"", b"{}", b"\xff", b'{"request_id": 1}'):
        await channel.publish("", coordinator_queue("g"), body)
    assert (await client.call("r", Bind("pod"))).status is Status.OK


@QUEUE_TYPES
async def test_a_coordinator_that_may_not_read_its_queue_says_so(vhost: Vhost, queue_type: str) -> None:
    """The broker says 403 for that, as it does while an earlier coordinator consumes the queue alone."""
    user, place = f"user-{secrets.token_hex(4)}", quote(vhost.name, safe="")
    vhost.api("PUT", f"users/{user}", {"password": "secret", "tags": ""})
    vhost.api("PUT", f"permissions/{place}/{user}", {"configure": ".*", "write": ".*", "read": ""})
    url = vhost.amqp_url.replace("guest:guest@", f"{user}:secret@")
    connection = await connect(BrokerUrl.parse(url), name="coordinator")
    async with asyncio.timeout(60):
        with pytest.raises(ChannelClosed, match="refused for user"):
            await serve(connection, lambda _command, _answer: None, queue_type)
    await connection.close()
    vhost.api("DELETE", f"users/{user}")
