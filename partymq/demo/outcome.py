"""What came out of a run: the verdict, who did how much, how fast the group reacted."""

from dataclasses import dataclass

from partymq.demo.checker import Verdict, check
from partymq.demo.plan import PARTITIONS
from partymq.demo.run import Run
from partymq.demo.timings import first_message, flowing_again, takeover
from partymq.group.partitioner import partition_of

_ENDS = {"leave": "left", "kill": "killed -9", "coordinator": "(coordinator) killed -9"}


@dataclass(frozen=True, slots=True)
class Reaction:
    """How the group took one change; times in seconds after it."""

    what: str
    at: float
    """Seconds after the publisher's start."""
    partitions: int | None
    first: float | None
    """Until the first message of what moved; `half` and `last`: until that many partitions had theirs."""
    half: float | None
    last: float | None


@dataclass(frozen=True, slots=True)
class WorkerShare:
    """What a worker did, and how it ended."""

    name: str
    end: str
    deliveries: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run that is over."""

    title: str
    seconds: float
    verdict: Verdict
    workers: list[WorkerShare]
    reactions: list[Reaction]
    has_owners: bool
    """Whether partitions belong to workers; otherwise there were no reactions to measure."""
    closing_status: int | None
    """Exit status of the server when it was asked to end; None where there is none."""

    @property
    def kept(self) -> bool:
        """Whether the promises were kept, and the server ended in an orderly way."""
        return self.verdict.kept and not self.closing_status


def judge(run: Run, closing_status: int | None = None) -> Outcome:
    """Judge a run that is over. Takes a few seconds for the whole year."""
    story = run.deliveries()
    verdict = check(story, run.aircraft, run.published, run.faults)
    ways = {aircraft: partition_of(aircraft.encode(), PARTITIONS) for aircraft in set(run.aircraft)}

    def partition(number: int) -> int:
        return ways[run.aircraft[number]]

    reactions = []
    for milestone in sorted(run.milestones, key=lambda one: one.at):
        at = max(0.0, milestone.at / 1e9 - run.began)
        if milestone.kind == "join":
            # Before anything was published there is nothing to wait for.
            first = first_message(story, milestone.name, milestone.at) if milestone.published else None
            reactions.append(Reaction(f"{milestone.name} joined", at, None, first, None, None))
        elif milestone.kind == "server":
            again = flowing_again(story, milestone.at)
            reactions.append(Reaction("server killed -9", at, None, again, None, None))
        else:
            what = _ENDS[milestone.kind]
            taken = takeover(story, milestone.name, milestone.at, partition)
            reactions.append(
                Reaction(
                    f"{milestone.name} {what}", at, taken.partitions, taken.first, taken.half, taken.last
                )
                if taken
                else Reaction(f"{milestone.name} {what}", at, 0, None, None, None)
            )
    shares = [WorkerShare(one.name, one.state, one.notes.ended) for one in run.workers]
    return Outcome(run.way.title, run.seconds, verdict, shares, reactions, run.way.has_owners, closing_status)
