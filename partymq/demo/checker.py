"""Were the promises kept? Judges what the workers noted. Pure: no clock, no files.

All times are nanoseconds of CLOCK_MONOTONIC, one clock for all processes of the machine. A delivery lasts
from before the worker did anything with the message until after its last act and before its ack; where a
killed worker noted no end, it lasts until the process was seen dead. That is the strict reading: it can only
add violations.

For each aircraft, whose flights are numbered in the order in which they were published:

lost         a flight that no worker completed
concurrent   a delivery that began while another one of this aircraft was under way
out of order a flight that arrived for the first time after a later one of its aircraft, or a replay that
             skips: after a fault the newest flights may come again, but then all that follow, in order
repeated     every delivery of a flight but its first. `unexplained` are those which no fault accounts for: a
             fault explains one repeat of a message that was unsettled around its time, no more
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from partymq.demo.notes import Delivery

SECOND = 1_000_000_000
UNSETTLED_NS = 5 * SECOND
"""What ended longer before a fault than this had been settled: the fault is no excuse to repeat it."""

_EXAMPLES = 5
_FOREVER = 2**63


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done to the system, between `begin` and `end` (ns).

    A worker's fault begins with the kill and ends when the process was seen dead. The server's ends when it
    runs again; `published` is how many messages were in the broker by then.
    """

    kind: Literal["worker", "server"]
    begin: int
    end: int
    name: str = ""
    published: int = 0

    def explains(self, before: Delivery, again: Delivery) -> bool:
        """Whether `again` may be a repeat of `before` because of this fault."""
        unsettled = before.end is None or before.end >= self.begin - UNSETTLED_NS
        if again.begin < self.begin or not unsettled:
            return False
        if self.kind == "worker":
            return before.worker == self.name
        return before.number < self.published


@dataclass(slots=True)
class Verdict:
    """What was found. Counts of messages, and a few examples of each kind of violation in words."""

    published: int
    deliveries: int = 0
    handled: int = 0
    lost: int = 0
    out_of_order: int = 0
    concurrent: int = 0
    repeated: int = 0
    unexplained: int = 0
    noticed: int = 0
    """Of those out of order, how many the worker could tell from its own state of the aircraft."""
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        """Whether every promise was kept: no loss, order, one at a time, repeats only after faults."""
        return not (self.lost or self.out_of_order or self.concurrent or self.unexplained)

    def _example(self, kind: str, text: str) -> None:
        examples = self.examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(text)


def check(
    deliveries: Iterable[Delivery], aircraft: Sequence[str], published: int, faults: Sequence[Fault] = ()
) -> Verdict:
    """Judge a run.

    Args:
        deliveries: of all workers, in any order.
        aircraft: of each message by its number; numbers of one aircraft grow in the order of publishing.
        published: how many messages, from number 0, the broker confirmed.
        faults: what was done to workers and server.
    """
    verdict = Verdict(published)
    by_aircraft: dict[str, list[Delivery]] = defaultdict(list)
    for delivery in deliveries:
        by_aircraft[aircraft[delivery.number]].append(delivery)
        verdict.deliveries += 1
    fleet: dict[str, list[int]] = defaultdict(list)
    for number in range(published):
        fleet[aircraft[number]].append(number)
    for name in sorted(fleet.keys() | by_aircraft.keys()):
        story = sorted(by_aircraft[name], key=lambda delivery: (delivery.begin, delivery.number))
        _check_loss(verdict, name, fleet[name], story)
        _check_order(verdict, name, story, aircraft)
        _check_exclusion(verdict, name, story, faults)
        _check_repeats(verdict, name, story, faults)
    return verdict


def _check_loss(verdict: Verdict, name: str, numbers: Sequence[int], story: Sequence[Delivery]) -> None:
    completed = {delivery.number for delivery in story if delivery.end is not None}
    verdict.handled += len(completed)
    for number in numbers:
        if number not in completed:
            verdict.lost += 1
            verdict._example("lost", f"{name}: flight {number} was never completed")


def _check_order(verdict: Verdict, name: str, story: Sequence[Delivery], aircraft: Sequence[str]) -> None:
    seen: set[int] = set()
    newest = -1  # latest flight of this aircraft that has begun
    replaying: list[int] = []  # what has to follow, next one last, while a replay lasts
    for delivery in story:
        number = delivery.number
        if number in seen:
            expected = replaying[-1] if replaying else newest + 1
            if number > expected:
                _disorder(verdict, delivery, f"{name}: a replay went on with {number}, not {expected}")
            replaying = sorted((one for one in seen if one > number), reverse=True)
            continue
        seen.add(number)
        if number < newest:
            _disorder(verdict, delivery, f"{name}: flight {number} came after {newest}")
        elif replaying:
            _disorder(verdict, delivery, f"{name}: a replay broke off before {replaying[-1]} with {number}")
        replaying = []
        newest = max(newest, number)


def _disorder(verdict: Verdict, delivery: Delivery, text: str) -> None:
    verdict.out_of_order += 1
    verdict.noticed += delivery.stale
    verdict._example("out of order", f"{text} at {delivery.worker}")


def _check_exclusion(verdict: Verdict, name: str, story: Sequence[Delivery], faults: Sequence[Fault]) -> None:
    deaths = {fault.name: fault.end for fault in faults if fault.kind == "worker"}
    busy: dict[
        str, tuple[int, int]
    ] = {}  # worker, at one of an aircraft at a time -> until when, which flight
    for delivery in story:
        for worker, (until, number) in busy.items():
            if delivery.begin < until:
                verdict.concurrent += 1
                verdict._example(
                    "concurrent",
                    f"{name}: {delivery.worker} began {delivery.number} while {worker} had {number}",
                )
                break
        end = deaths.get(delivery.worker, _FOREVER) if delivery.end is None else delivery.end
        busy[delivery.worker] = max(busy.get(delivery.worker, (0, 0)), (end, delivery.number))


def _check_repeats(verdict: Verdict, name: str, story: Sequence[Delivery], faults: Sequence[Fault]) -> None:
    copies: dict[int, list[Delivery]] = defaultdict(list)
    for delivery in story:
        copies[delivery.number].append(delivery)
    for number, same in copies.items():
        unused = list(faults)
        for position, again in enumerate(same[1:], 1):
            verdict.repeated += 1
            cause = next(
                (fault for fault in unused if any(fault.explains(one, again) for one in same[:position])),
                None,
            )
            if cause is None:
                verdict.unexplained += 1
                verdict._example(
                    "repeated", f"{name}: flight {number} came again to {again.worker} without a fault"
                )
            else:
                unused.remove(cause)
