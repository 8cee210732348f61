"""What goes wrong in a schedule, or is only planned to happen."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from partymq.group import events as ev
from tests.saved_state import decode_state
from tests.simulation.instance import Instance
from tests.simulation.pod import Pod

if TYPE_CHECKING:
    from tests.simulation.schedule import Schedule

Action = Callable[[], None]

TRAPPED: dict[str, tuple[type[ev.Effect], ...]] = {
    "faults": (
        ev.Move,
        ev.Fetch,
        ev.Assign,
        ev.Drain,
        ev.Reclaim,
        ev.Unlock,
        ev.Resume,
        ev.GiveWay,
        ev.CancelFetch,
    ),
    "storm": (ev.Move, ev.Fetch, ev.Fetch, ev.Fetch, ev.Assign, ev.Reclaim),
}
"""What happens in the very moment of one of these is the most dangerous."""


class Faults:
    """The actions of a schedule."""

    def __init__(self, schedule: "Schedule") -> None:
        self.schedule = schedule
        self.world = schedule.world
        self.rng = schedule.rng
        self.broker = schedule.broker
        self.oracle = schedule.oracle
        self.management = schedule.management
        self.instances = schedule.instances
        self.pods = schedule.pods

    def of_kind(self, kind: str) -> list[Action]:
        """What can happen in a schedule of this kind, the likelier more than once."""
        kinds = {
            "planned": self._planned,
            "faults": self._faulty,
            "storm": self._stormy,
            "blind": self._blind,
        }
        return kinds[kind]()

    def _planned(self) -> list[Action]:
        return [self._join, self._leave, self._leave, self._stop_active]

    def _blind(self) -> list[Action]:
        return [
            self._join,
            self._leave,
            self._stop_active,
            self._kill_active,
            self._crash_between_effects,
            self._fail_session,
        ]

    def _faulty(self) -> list[Action]:
        pod, rng = self._some_pod, self.rng
        return [
            self._join,
            self._join,
            self._leave,
            self._stop_active,
            self._kill_active,
            self._crash_between_effects,
            self._crash_between_effects,
            self._cut_active,
            self._hang_active,
            self._fail_session,
            self._lose_source,
            self._restart_broker,
            self._lose_management,
            lambda: pod().crash(),
            lambda: pod().crash(),
            self._restart_pod,
            self._restart_pod,
            lambda: pod().cut(),
            lambda: pod().hang(rng.choice((0.3, 1.0, 3.0, 8.0))),
            lambda: pod().pause_consuming(rng.choice((0.3, 1.0, 4.0))),
            lambda: pod().delete_queue(rng.choice((0.5, 2.0))),
            self._unbind_queue,
        ]

    def _stormy(self) -> list[Action]:
        """Members die with full queues, and those die that are to get what they left."""
        pod, rng = self._some_pod, self.rng
        return [
            self._join,
            self._restart_pod,
            self._restart_pod,
            lambda: self._next_owner().crash(),
            lambda: self._next_owner().crash(),
            lambda: pod().cut(),
            lambda: pod().pause_consuming(rng.choice((1.0, 4.0))),
            self._crash_between_effects,
            self._kill_active,
            self._fail_session,
        ]

    def _next_owner(self) -> Pod:
        """One that is to get what another left, if there is one."""
        term = self.schedule.term
        if term is not None:
            state = term.coordinator.state
            owners = {
                state.partitions[number].owner for left in state.leftovers for number in left.partitions
            }
            found = [pod for pod in self.pods if pod.alive and pod.name in owners]
            if found:
                return self.rng.choice(found)
        return self._some_pod()

    def _some_pod(self) -> Pod:
        alive = [pod for pod in self.pods if pod.alive]
        return self.rng.choice(alive or self.pods)

    def _join(self) -> None:
        down = [pod for pod in self.pods if not pod.alive]
        if down:
            self.rng.choice(down).start()

    def _leave(self) -> None:
        if self.schedule.kind != "faults" and sum(pod.alive and not pod.leaving for pod in self.pods) < 2:
            return
        pod = self._some_pod()
        if self.schedule.kind != "blind" or pod.ready:  # else it would not consume what is on its way to it
            pod.leave()

    def _unbind_queue(self) -> None:
        """Not one with messages that nobody but its member has heard of: bound no more, it can't be found."""
        pod, duration = self._some_pod(), self.rng.choice((0.5, 2.0))
        member = decode_state(self.schedule.election.saved).members.get(pod.name)
        known = member is not None and member.queue == pod.queue
        seen = self.broker.look(pod.queue or "")
        if known or not seen.ready + seen.unacked:
            pod.unbind_queue(duration)

    def _restart_pod(self) -> None:
        pod = self._some_pod()
        pod.crash()
        self.world.after(self.rng.choice((0.0, 0.1, 1.0, 3.0, 6.0)), pod.start)

    def _active(self) -> Instance:
        return next((i for i in self.instances if i.holds_lease), self.rng.choice(self.instances))

    def _kill_active(self) -> None:
        instance = self._active()
        instance.kill()
        self.world.after(self.rng.uniform(0.2, 3.0), instance.boot)

    def _stop_active(self) -> None:
        instance = self._active()
        instance.stop()
        self.world.after(self.rng.uniform(4.0, 6.0), instance.boot)

    def _crash_between_effects(self) -> None:
        instance = self._active()
        instance.crash_in = self.rng.randint(0, 8)
        self.world.after(self.rng.uniform(1.0, 4.0), self._reboot, instance)

    def _reboot(self, instance: Instance) -> None:
        instance.crash_in = None
        instance.boot()

    def _cut_active(self) -> None:
        instance = self._active()
        self.world.tell(instance.name, "has its connection cut")
        instance.cut(self.rng.random())

    def _hang_active(self) -> None:
        instance = self._active()
        duration = self.rng.choice((0.5, 2.0, 6.0))
        if not instance.alive or instance.frozen:
            return
        self.world.tell(instance.name, "hangs for %.1f s", duration)
        instance.freeze()
        life = instance.life
        if duration > 1.5:
            self.world.after(1.5, self._give_up, instance, life)
        self.world.after(duration, self._continue, instance, life)

    def _give_up(self, instance: Instance, life: int) -> None:
        if instance.life == life and instance.frozen:
            instance.cut(0.0)
            if instance.source is not None:
                instance.source.cut(0.0)

    def _continue(self, instance: Instance, life: int) -> None:
        if instance.life == life and instance.frozen:
            self.world.tell(instance.name, "continues")
            instance.thaw()

    def _fail_session(self) -> None:
        term = self.schedule.term
        if term is not None:
            term.router.fail("by chance")

    def _lose_source(self) -> None:
        instance = self._active()
        if instance.source is not None:
            instance.source.cut(0.3 * self.rng.random())

    def _restart_broker(self) -> None:
        if not self.broker.up:
            return
        self.world.tell("broker", "restarts")
        for pod in self.pods:
            self.oracle.gone(pod.name)
        self.broker.restart(self.rng.uniform(0.2, 3.0), lambda: 0.3 * self.rng.random())
        self.schedule.election.restarted()

    def _lose_management(self) -> None:
        if any(pod.habits.naming != "same" and not pod.habits.says_queue for pod in self.pods):
            return  # of a queue that nobody ever knew of, nobody knows what is left in it
        duration = self.rng.choice((0.5, 4.0))
        self.world.tell("broker", "management is away for %.1f s", duration)
        self.management.lose(self.rng.choice((0.0, 0.5)))
        self.world.after(duration, self.management.regain)
