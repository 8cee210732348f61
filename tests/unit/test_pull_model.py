"""Pull groups under random faults: no partition has two consumers, tokens rise, and it all settles."""

import pytest

from tests.unit.pull_model import World

NAMES = ("a", "b", "c", "d")


def disturb(world: World, kinds: tuple[str, ...]) -> None:
    """One thing that may happen."""
    kind, name = world.random.choice(kinds), world.random.choice(NAMES)
    here = world.members.get(name)
    if kind == "join" and here is None:
        world.join(name)
    elif kind == "leave" and here is not None:
        world.leave(name)
    elif kind == "kill" and here is not None:
        world.kill(name)
    elif kind == "freeze" and here is not None:
        world.freeze(name, world.random.choice([1.0, 5.0, 9.0]))
    elif kind == "coordinator" and world.term is not None:
        world.kill_coordinator()


def disturbed(seed: int, kinds: tuple[str, ...], grace: float = 0.0) -> World:
    world = World(seed, partitions=world_size(seed), grace=grace)
    for _ in range(25):
        disturb(world, kinds)
        for _ in range(world.random.choice([0, 1, 3, 10, 40])):
            world.step()
    return world


def world_size(seed: int) -> int:
    return (1, 4, 7)[seed % 3]


@pytest.mark.parametrize("seed", range(60))
def test_joining_and_leaving_while_coordinators_die(seed: int) -> None:
    world = disturbed(seed, ("join", "join", "leave", "coordinator"))
    world.run_until_settled()


@pytest.mark.parametrize("seed", range(60))
def test_members_and_coordinators_die(seed: int) -> None:
    world = disturbed(seed, ("join", "join", "leave", "kill", "coordinator"), grace=(0.0, 2.0)[seed % 2])
    world.run_until_settled()


@pytest.mark.parametrize("seed", range(40))
def test_members_stop_for_a_while(seed: int) -> None:
    world = disturbed(seed, ("join", "join", "leave", "kill", "freeze", "coordinator"))
    for _ in range(120):
        world.step()
    world.run_until_settled()


def test_only_what_must_move_moves() -> None:
    world = World(1, partitions=8)
    world.join("a")
    world.run_until_settled()
    for names, moved in (("b", 4), ("c", 2), ("d", 2)):
        before = world.moves
        world.join(names)
        world.run_until_settled()
        assert world.moves - before == moved
    before = world.moves
    world.leave("b")
    world.run_until_settled()
    assert world.moves - before == 2


def test_a_member_that_comes_back_within_the_grace_moves_nothing_of_the_others() -> None:
    world = World(2, partitions=6, grace=2.0)
    for name in "abc":
        world.join(name)
        world.run_until_settled()
    before = world.moves
    world.kill("b")
    for _ in range(10):
        world.step()
    world.join("b")
    world.run_until_settled()
    assert world.moves - before == 2


def test_what_a_killed_member_had_does_not_wait_for_the_session_timeout() -> None:
    for seed in range(10):
        world = World(seed, partitions=6)
        for name in "abc":
            world.join(name)
            world.run_until_settled()
        world.kill("b")
        assert world.run_until_settled() < world.settings.session_timeout
