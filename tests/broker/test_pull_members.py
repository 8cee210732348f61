"""Members of a pull group among themselves: joining, leaving, dying, coordinating."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from pamqp.commands import Basic

from partymq.amqp.connection import connect
from partymq.amqp.url import BrokerUrl
from partymq.coordinator.commands import ASSIGNMENT, AnswerTo, serve_commands
from partymq.errors import ConfigError
from partymq.group.wire import Assignment, Bind, Command, Ready, Reply, Status, encode
from tests.broker.pull_members import GROUP, PARTITIONS, Journal, Member, shared, until
from tests.broker.tcp_proxy import TcpProxy
from tests.conftest import Vhost

Join = Callable[..., Member]


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
async def join(vhost: Vhost, journal: Journal) -> AsyncIterator[Join]:
    members: list[Member] = []

    def make(name: str, url: str = vhost.amqp_url, **settings: object) -> Member:
        members.append(Member(url, journal, name, **settings))
        return members[-1]

    yield make
    for member in members:
        member.running.cancel()
    await asyncio.gather(*(member.running for member in members), return_exceptions=True)


async def test_the_first_member_gets_all_and_only_what_must_move_moves(join: Join, journal: Journal) -> None:
    one = join("one")
    took = await until(lambda: shared(one), one)
    print(f"first member of a new group: all its partitions after {took * 1000:.0f} ms")
    two = join("two")
    took = await until(lambda: shared(one, two), one, two)
    print(f"second member: its partitions after {took * 1000:.0f} ms")
    assert len(journal.gains()) == PARTITIONS + PARTITIONS // 2
    assert min(two.tokens.values()) > max(one.tokens.values())

    await two.leave()
    await until(lambda: shared(one), one)
    assert len(journal.gains()) == 2 * PARTITIONS
    assert "x" not in {what for what, *_ in journal.lines}


async def test_a_partition_does_not_move_before_its_owner_has_given_it_up(
    join: Join, journal: Journal
) -> None:
    one = join("one")
    await until(lambda: shared(one), one)
    one.hold_revoke = asyncio.Event()
    two = join("two")
    await asyncio.wait_for(one.revoking.wait(), 60)
    await asyncio.sleep(0.5)
    assert not two.tokens
    one.hold_revoke.set()
    await until(lambda: shared(one, two), one, two)


async def test_what_a_killed_member_had_moves_at_once(join: Join, journal: Journal) -> None:
    one = join("one", session_timeout=600.0)
    await until(lambda: shared(one), one)
    two, three = join("two", session_timeout=600.0), join("three", session_timeout=600.0)
    await until(lambda: shared(one, two, three), one, two, three)
    kept = dict(two.tokens)
    three.kill()
    took = await until(lambda: shared(one, two), one, two)
    print(f"killed: its partitions consumed by others after {took * 1000:.0f} ms")
    assert two.tokens.items() >= kept.items()


async def test_when_the_coordinator_dies_another_member_coordinates(join: Join) -> None:
    one = join("one")
    await until(lambda: shared(one), one)
    two, three = join("two"), join("three")
    await until(lambda: shared(one, two, three), one, two, three)
    assert one.membership.coordinates
    one.kill()
    took = await until(lambda: shared(two, three), two, three)
    print(f"the coordinator was killed: its partitions consumed by others after {took * 1000:.0f} ms")
    assert two.membership.coordinates or three.membership.coordinates
    four = join("four")
    await until(lambda: shared(two, three, four), two, three, four)


async def test_a_silent_member_is_lost_and_joins_again_when_it_speaks(
    vhost: Vhost, join: Join, journal: Journal, tcp_proxy: TcpProxy
) -> None:
    one = join("one")
    await until(lambda: shared(one), one)
    # The broker would not notice that it is silent.
    two = join("two", tcp_proxy.url(vhost.amqp_url) + "?heartbeat=600", session_timeout=2.0)
    await until(lambda: shared(one, two), one, two)
    journal.strict = False  # the broker keeps out whoever comes second
    tcp_proxy.pause()
    took = await until(lambda: len(one.tokens) == PARTITIONS, one)
    print(f"silent: its partitions with others after {took * 1000:.0f} ms")
    tcp_proxy.resume()
    await until(lambda: shared(one, two), one, two)


async def test_a_rolling_restart_under_the_same_names_moves_nothing(join: Join, journal: Journal) -> None:
    names = ("one", "two", "three")
    members = {}
    for name in names:
        members[name] = join(name, rejoin_grace=20.0)
        await until(lambda: shared(*members.values()), *members.values())
    owners = {name: set(member.tokens) for name, member in members.items()}
    begun = len(journal.gains())
    for name in names:
        await members[name].leave()
        members[name] = join(name, rejoin_grace=20.0)
        await until(lambda: shared(*members.values()), *members.values())
    assert {name: set(member.tokens) for name, member in members.items()} == owners
    assert len(journal.gains()) == begun + PARTITIONS


async def test_within_the_grace_a_killed_member_gets_its_own_back_and_after_it_others_do(
    join: Join, journal: Journal
) -> None:
    one, two = join("one"), join("two", rejoin_grace=600.0)  # it is the member's own word that counts
    await until(lambda: shared(one, two), one, two)
    had, kept = set(two.tokens), dict(one.tokens)
    two.kill()
    await asyncio.sleep(0.4)
    two = join("two", rejoin_grace=1.5)
    await until(lambda: shared(one, two), one, two)
    assert set(two.tokens) == had
    assert one.tokens == kept
    two.kill()
    took = await until(lambda: shared(one), one)
    assert took > 1.0


async def test_without_a_connection_nothing_is_owned_and_the_member_joins_again(
    vhost: Vhost, join: Join, tcp_proxy: TcpProxy
) -> None:
    one = join("one")
    await until(lambda: shared(one), one)
    two = join("two", tcp_proxy.url(vhost.amqp_url))
    await until(lambda: shared(one, two), one, two)
    tcp_proxy.cut()
    await until(lambda: not two.tokens, two)
    await until(lambda: shared(one, two), one, two)


async def test_a_second_process_of_a_name_takes_the_place_of_the_first(join: Join) -> None:
    first = join("one")
    await until(lambda: shared(first), first)
    second = join("one")
    with pytest.raises(ConfigError, match="another process has joined group g as 'one'"):
        await asyncio.wait_for(first.running, 60)
    await until(lambda: shared(second), second)


async def test_the_first_assignment_answers_ready_where_the_coordinator_died_before_it_could(
    vhost: Vhost, journal: Journal, join: Join
) -> None:
    connection = await connect(BrokerUrl.parse(vhost.amqp_url), name="a coordinator")
    voice = await connection.open_channel()
    said: list[type] = []
    telling: list[asyncio.Task[None]] = []

    def heard(command: Command, answer: AnswerTo) -> None:
        said.append(type(command.call))
        match command.call:
            case Bind():
                answer(Reply(command.request_id, Status.OK))
            case Ready(_, str(queue)):
                assignment = encode(Assignment(1, 1, partitions={3: 1}))
                properties = Basic.Properties(message_type=ASSIGNMENT)
                telling.append(asyncio.create_task(voice.publish("", queue, assignment, properties)))

    await voice.select_confirms()
    await serve_commands(connection, GROUP, heard, queue_type="classic")
    one = join("one", coordinator="server")
    await until(lambda: one.tokens == {3: 1}, one)
    assert said.count(Ready) == 1
    await asyncio.gather(*telling)
    await connection.close()
