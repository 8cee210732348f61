"""Balance, fewest moves, the same answer everywhere."""

import itertools
import random
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partymq.group.assignor import assign

NAMES = [f"pod-{number}" for number in range(12)]


@st.composite
def groups(draw: st.DrawFn, most_partitions: int = 64) -> tuple[list[str | None], list[str]]:
    """Any owners (some gone, some partitions without one) and any members, in any order."""
    members = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    owners = draw(st.lists(st.sampled_from([None, *NAMES]), min_size=1, max_size=most_partitions))
    return owners, members


def moves(owners: list[str | None], plan: list[str | None]) -> int:
    return sum(before != after for before, after in zip(owners, plan, strict=True))


@given(groups())
def test_every_partition_has_a_member_as_owner(group: tuple[list[str | None], list[str]]) -> None:
    owners, members = group
    plan = assign(len(owners), owners, members)
    assert len(plan) == len(owners)
    assert set(plan) <= set(members)


@given(groups())
def test_counts_differ_by_at_most_one(group: tuple[list[str | None], list[str]]) -> None:
    owners, members = group
    counts = Counter(assign(len(owners), owners, members))
    sizes = [counts[name] for name in members]
    assert max(sizes) - min(sizes) <= 1


@given(groups())
def test_no_balanced_plan_keeps_more(group: tuple[list[str | None], list[str]]) -> None:
    """A member keeps at most floor(P/M), and one more for at most P mod M of those that have it."""
    owners, members = group
    small, larger_ones = divmod(len(owners), len(members))
    held = Counter(owners)
    kept = sum(min(held[name], small) for name in members)
    kept += min(larger_ones, sum(held[name] > small for name in members))
    assert moves(owners, assign(len(owners), owners, members)) == len(owners) - kept


def balanced_plans(partitions: int, members: list[str]) -> list[tuple[str, ...]]:
    plans = itertools.product(members, repeat=partitions)
    return [plan for plan in plans if max(sizes := [plan.count(name) for name in members]) - min(sizes) <= 1]


@pytest.mark.parametrize(
    ("partitions", "size"), [(1, 3), (3, 2), (4, 3), (5, 2), (5, 3), (6, 3), (4, 4), (2, 4)]
)
def test_brute_force_finds_no_plan_with_fewer_moves(partitions: int, size: int) -> None:
    members = NAMES[:size]
    plans = balanced_plans(partitions, members)
    chance = random.Random(partitions * 100 + size)
    for _ in range(40):
        owners: list[str | None] = chance.choices([*members, "gone", None], k=partitions)
        fewest = min(moves(owners, list(plan)) for plan in plans)
        assert moves(owners, assign(partitions, owners, members)) == fewest


@given(groups(), st.dictionaries(st.sampled_from(NAMES), st.integers(1, 9)))
def test_assigning_again_changes_nothing(
    group: tuple[list[str | None], list[str]], weights: dict[str, int]
) -> None:
    owners, members = group
    plan = assign(len(owners), owners, members, weights)
    assert assign(len(owners), plan, members, weights) == plan


@given(groups(), st.randoms(use_true_random=False))
def test_the_order_of_the_members_does_not_matter(
    group: tuple[list[str | None], list[str]], chance: random.Random
) -> None:
    owners, members = group
    plan = assign(len(owners), owners, members)
    shuffled = chance.sample(members, len(members))
    assert assign(len(owners), owners, shuffled) == plan
    assert assign(len(owners), owners, [*shuffled, members[0]]) == plan


@given(groups())
def test_partitions_move_only_to_a_new_member_when_one_joins(
    group: tuple[list[str | None], list[str]],
) -> None:
    owners, members = group
    before = assign(len(owners), owners, members)
    after = assign(len(owners), before, [*members, "newcomer"])
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) <= {"newcomer"}
    assert len(moved) == len(owners) // (len(members) + 1)


@given(groups())
def test_only_the_partitions_of_a_member_move_when_it_leaves(
    group: tuple[list[str | None], list[str]],
) -> None:
    owners, members = group
    before = assign(len(owners), owners, members)
    if len(members) > 1:
        after = assign(len(owners), before, members[1:])
        moved = {old for old, new in zip(before, after, strict=True) if old != new}
        assert moved <= {members[0]}


@given(groups(), st.dictionaries(st.sampled_from(NAMES), st.integers(1, 9)))
def test_a_weighted_share_is_exact_but_for_rounding(
    group: tuple[list[str | None], list[str]], weights: dict[str, int]
) -> None:
    owners, members = group
    counts = Counter(assign(len(owners), owners, members, weights))
    total = sum(weights.get(name, 1) for name in members)
    assert sum(counts.values()) == len(owners)
    for name in members:
        assert abs(counts[name] * total - len(owners) * weights.get(name, 1)) < total


def test_nobody_owns_anything_without_members() -> None:
    assert assign(3, ["pod-1", None, "pod-2"], []) == [None, None, None]


def test_more_members_than_partitions_leave_the_owners_alone() -> None:
    assert assign(2, ["pod-8", "pod-5"], NAMES) == ["pod-8", "pod-5"]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="1 owners for 2 partitions"):
        assign(2, [None], NAMES)
    with pytest.raises(ValueError, match="weight 0 of member 'pod-1'"):
        assign(2, [None, None], NAMES, {"pod-1": 0})


def test_the_largest_group_is_quick() -> None:
    members = [f"member-{number}" for number in range(1000)]
    plan = assign(4096, [None] * 4096, members)
    start = time.process_time()
    assign(4096, plan, [*members[1:], "member-new"])
    assert time.process_time() - start < 0.1
