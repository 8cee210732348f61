"""The faults of a pull group."""

import random
import time
from collections.abc import Callable
from typing import Final

from tests.broker.tcp_proxy import BOTH, DOWN, UP
from verify.nodes import NodeFaults
from verify.pull.group import GROUP, Connected, PullGroup

COMMANDS: Final = f"partymq.{GROUP}.q.coordinator"
_MOST_MEMBERS: Final = 6
_RELEASE_EVERY: Final = 8.0


class PullFaults(NodeFaults):
    """Args:
    planned: only what happens in daily work: scaling and restarts as planned.
    """

    def __init__(self, group: PullGroup, chooser: random.Random, *, planned: bool = False) -> None:
        super().__init__(group, chooser, group.servers)
        self._group = group
        self._names = 0
        self._released_at = time.monotonic()
        gentle: list[tuple[Callable[[], bool], int]] = [
            (self.join, 6),
            (self.leave, 4),
            (self.restart_in_order, 4),
            (self.roll, 2),
            (self.resize, 3),
            (self.restart_publisher, 2),
        ]
        rough: list[tuple[Callable[[], bool], int]] = [
            (self.kill_member, 5),
            (self.restart_member, 5),
            (self.kill_during_join, 2),
            (self.stop_briefly, 3),
            (self.stop_long, 4),
            (self.cut_member, 5),
            (self.cut_one, 6),
            (self.half_open, 4),
            (self.delay, 3),
            (self.cut_publisher, 3),
            (self.half_open_publisher, 2),
            (self.kill_publisher, 4),
            (self.memory_alarm, 1),
            (self.delete_commands, 1),
        ]
        if group.setting.nodes > 1:
            rough += [
                (self.kill_node, 14),
                (self.restart_node, 6),
                (self.freeze_node_briefly, 6),
                (self.freeze_node, 10),
            ]
        else:
            rough += [(self.kill_broker, 1), (self.restart_broker, 1)]
        if group.servers:
            gentle.append((self.restart_server, 4))
            rough += [
                (self.kill_server, 5),
                (self.kill_all_servers, 1),
                (self.stop_server, 4),
                (self.cut_server, 4),
                (self.cut_one_of_server, 5),
                (self.half_open_server, 4),
            ]
        self._actions = gentle if planned else gentle + rough

    def tick(self) -> None:
        """End what is due; have parked keys go on now and then."""
        super().tick()
        parks = self._group.setting.on_failure == "park"
        if parks and self._group.broker_up and time.monotonic() - self._released_at > _RELEASE_EVERY:
            self._released_at = time.monotonic()
            self._group.release()

    # Members ----------------------------------------------------------------------------------------

    def _pod(self) -> Connected | None:
        well = [pod for pod in self._group.members if pod.is_well and pod not in self._busy]
        return self._random.choice(well) if len(well) > 1 else None

    def _start(self, name: str) -> None:
        choose = self._random.choice
        self._group.join(name, f"--work-ms={choose((1, 5, 20))}", *["--threads"] * choose((0, 0, 1)))

    def join(self) -> bool:
        if not self._group.broker_up or sum(pod.runs for pod in self._group.pods) >= _MOST_MEMBERS:
            return False
        self._names += 1
        self._start(f"pod-{self._names}")
        return self._tell(f"pod-{self._names} joins")

    def leave(self) -> bool:
        pod = self._pod()
        if pod is None:
            return False
        pod.leave()
        return self._tell(f"{pod.label} leaves")

    def _again_in_order(self, pod: Connected, then: Callable[[], None] = lambda: None) -> None:
        """It leaves; when its process has ended the next one of its name comes, `then` something else."""
        pod.leave()

        def again() -> None:
            self._start(pod.name)
            then()

        self._when(lambda: not pod.runs, again)

    def _when(self, ready: Callable[[], bool], what: Callable[[], None], busy: object = None) -> None:
        """Do it as soon as that is so."""

        def look() -> None:
            if ready():
                what()
            else:
                self._when(ready, what, busy)

        self._later(0.1, 0.1, look, busy)

    def restart_in_order(self) -> bool:
        pod = self._pod()
        if pod is None or not self._group.broker_up:
            return False
        self._again_in_order(pod)
        return self._tell(f"{pod.label} leaves, to come again")

    def roll(self) -> bool:
        """All members one after the other, as a deployment does it."""
        left = [pod for pod in self._group.members if pod.is_well and pod not in self._busy]
        if len(left) < 2 or not self._group.broker_up or self._group in self._busy:
            return False
        self._busy.add(self._group)

        def following_soon() -> None:
            self._later(0.5, 1.5, following)

        def following() -> None:
            while left:
                pod = left.pop()
                if pod.is_well and pod not in self._busy and self._group.broker_up:
                    self._again_in_order(pod, following_soon)
                    return
            self._busy.discard(self._group)

        following()
        return self._tell("all members are restarted, one after the other")

    def resize(self) -> bool:
        """Refused while an earlier one is under way."""
        if not self._group.broker_up or self.split is not None:
            return False
        partitions = self._random.choice((5, 8, 16, 24, 32))
        return self._group.resize(partitions) and self._tell(f"resize to {partitions} partitions")

    def _kill(self, pod: Connected) -> None:
        self._disturbs(pod.label)
        pod.kill()

    def kill_member(self) -> bool:
        pod = self._pod()
        if pod is None:
            return False
        self._kill(pod)
        return self._tell(f"{pod.label} is killed")

    def kill_during_join(self) -> bool:
        """Another one joins in that moment."""
        pod = self._pod()
        if pod is None or not self.join():
            return False
        self._later(0.2, 1.5, lambda: self._kill(pod) if pod.runs else None, pod)
        return self._tell(f"  and {pod.label} will be killed meanwhile")

    def restart_member(self) -> bool:
        """Killed, and there again at once or a little later."""
        pod = self._pod()
        if pod is None or not self._group.broker_up:
            return False
        self._kill(pod)
        seconds = self._later(0.0, self._random.choice((0.1, 2.0, 6.0)), lambda: self._start(pod.name))
        return self._tell(f"{pod.label} is killed, and there again after {seconds:.1f} s")

    def stop_briefly(self) -> bool:
        return self._stop(0.2, 1.0)

    def stop_long(self) -> bool:
        timeout = self._group.setting.session_timeout
        return self._stop(0.4 * timeout, 2.5 * timeout)

    def _stop(self, low: float, high: float) -> bool:
        pod = self._pod()
        if pod is None:
            return False
        self._disturbs(pod.label)
        pod.stop()
        seconds = self._later(low, high, pod.go_on)
        return self._tell(f"{pod.label} stands still for {seconds:.1f} s")

    # The publisher ----------------------------------------------------------------------------------

    def restart_publisher(self) -> bool:
        """As planned: everything is confirmed before it ends."""
        group = self._group
        if group.publisher is None or not group.publishes or group.start_publisher in self._busy:
            return False
        group.publisher.terminate()
        self._when(lambda: not group.publishes, group.start_publisher, group.start_publisher)
        return self._tell("the publisher is restarted in order")

    def kill_publisher(self) -> bool:
        group = self._group
        if group.start_publisher in self._busy:
            return False
        self._disturbs("publisher")
        group.kill_publisher()
        seconds = self._later(
            0.0, self._random.choice((0.1, 4.0)), group.start_publisher, group.start_publisher
        )
        return self._tell(f"the publisher is killed, and there again after {seconds:.1f} s")

    # The network ------------------------------------------------------------------------------------

    def cut_member(self) -> bool:
        pod = self._pod()
        if pod is None:
            return False
        self._disturbs(pod.label)
        return self._tell(f"{pod.label}: {pod.proxy.cut()} connections are cut")

    def cut_one(self) -> bool:
        """Of data, commands and candidacy."""
        pod = self._pod()
        if pod is None:
            return False
        number = self._random.randrange(3)
        self._disturbs(pod.label)
        return pod.proxy.cut_one(number) and self._tell(f"{pod.label}: connection {number} is cut")

    def half_open(self) -> bool:
        return self._pause(0.5, 9.0)

    def delay(self) -> bool:
        return self._pause(0.05, 0.8)

    def _pause(self, low: float, high: float) -> bool:
        pod = self._pod()
        if pod is None:
            return False
        direction = self._random.choice((UP, DOWN, BOTH))
        since = time.monotonic()
        self._disturbs(pod.label)
        pod.proxy.pause(direction)

        def resume() -> None:
            pod.proxy.resume(direction)
            pod.unplugged(since)

        seconds = self._later(low, high, resume, pod)
        return self._tell(f"{pod.label}: nothing goes {direction} for {seconds:.1f} s")

    def cut_publisher(self) -> bool:
        self._disturbs("publisher")
        return self._tell(f"publisher: {self._group.plug.cut()} connections are cut")

    def half_open_publisher(self) -> bool:
        plug = self._group.plug
        if plug in self._busy:
            return False
        direction = self._random.choice((UP, DOWN, BOTH))
        self._disturbs("publisher")
        plug.pause(direction)
        seconds = self._later(0.2, 9.0, lambda: plug.resume(direction), plug)
        return self._tell(f"publisher: nothing goes {direction} for {seconds:.1f} s")

    # The broker -------------------------------------------------------------------------------------

    def delete_commands(self) -> bool:
        """Somebody deletes the queue of the commands."""
        if not self._quiet_broker():
            return False
        self._disturbs()
        self._group.ask_broker(lambda channel: channel.queue_delete(COMMANDS))
        return self._tell(f"{COMMANDS} is deleted")
