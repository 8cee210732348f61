"""Who should own which partition: balanced, with the fewest moves, the same answer everywhere.

First every member's quota is fixed, then every member keeps what it has up to its quota; the rest goes
to those below theirs. With quotas given, no plan can keep more than the smaller of what a member has and
its quota, and this one keeps exactly that. Where quotas differ by one, the larger ones go to members that
can keep a partition by it, so that the total of what is kept is the largest that balance allows.
"""

from collections.abc import Collection, Mapping, Sequence


def assign(
    partitions: int,
    owners: Sequence[str | None],
    members: Collection[str],
    weights: Mapping[str, int] | None = None,
) -> list[str | None]:
    """The owner each partition should have.

    Args:
        partitions: how many there are.
        owners: the present owner of each; None, or a name that is not in `members`, for none.
        members: who can own partitions, in any order; a name given twice counts once.
        weights: how much a member should get in proportion to the others, a positive integer; 1 where
            absent. A member gets its exact share rounded down or up.

    Returns:
        One owner a partition; all None without members. Without weights the counts of any two members
        differ by at most one. Among all plans with that balance it moves the fewest partitions. It
        depends on the arguments' content only, not on the order of `members`; applied to its own
        result it changes nothing.

    Raises:
        ValueError: `owners` does not have one item a partition, or a weight is below 1.
    """
    if len(owners) != partitions:
        raise ValueError(f"{len(owners)} owners for {partitions} partitions")
    names = sorted(set(members))
    if not names:
        return [None] * partitions

    held = dict.fromkeys(names, 0)
    for owner in owners:
        if owner in held:
            held[owner] += 1
    room = _quotas(partitions, names, held, weights or {})

    plan: list[str | None] = [None] * partitions
    free: list[int] = []
    for partition, owner in enumerate(owners):
        if owner is not None and room.get(owner, 0) > 0:
            room[owner] -= 1
            plan[partition] = owner
        else:
            free.append(partition)
    takers = (name for name in names for _ in range(room[name]))
    for partition, taker in zip(free, takers, strict=True):
        plan[partition] = taker
    return plan


def _quotas(
    partitions: int, names: Sequence[str], held: Mapping[str, int], weights: Mapping[str, int]
) -> dict[str, int]:
    """How many partitions each member gets; they add up to all.

    Everybody gets the exact share rounded down; what is left goes, one each, to the largest fractions
    lost by rounding, among equal ones first to those that would keep a partition by it.
    """
    weight = {name: weights.get(name, 1) for name in names}
    for name in names:
        if weight[name] < 1:
            raise ValueError(f"weight {weight[name]} of member {name!r}: allowed are integers from 1")
    total = sum(weight.values())
    quotas = {name: partitions * weight[name] // total for name in names}

    def precedence(name: str) -> tuple[int, bool, str]:
        fraction = partitions * weight[name] % total
        return (-fraction, held[name] <= quotas[name], name)

    left = partitions - sum(quotas.values())
    for name in sorted(names, key=precedence)[:left]:
        quotas[name] += 1
    return quotas
