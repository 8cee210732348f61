"""The faults: each is begun by one function, and has an end, which is due some time later."""

import random
import signal
from collections.abc import Callable
from typing import Final

from verify.servers import ServerFaults
from verify.stage import Pod
from verify.world import COMMANDS, EXCHANGE, World

_MOST_MEMBERS: Final = 6


class Faults(ServerFaults):
    """The faults of a push group.

    Args:
        planned: only what happens in daily work: scaling and restarts as planned.
    """

    def __init__(self, world: World, chooser: random.Random, *, planned: bool = False) -> None:
        super().__init__(world, chooser, world.servers)
        self._world: World = world
        self._names = 0
        gentle: list[tuple[Callable[[], bool], int]] = [
            (self.join, 6),
            (self.leave, 5),
            (self.restart_server, 3),
            (self.restart_member_in_order, 3),
        ]
        rough: list[tuple[Callable[[], bool], int]] = [
            (self.kill_member, 5),
            (self.stop_member, 3),
            (self.restart_member, 6),
            (self.pause_consumer, 3),
            (self.hang_member, 2),
            (self.kill_server, 4),
            (self.kill_all_servers, 1),
            (self.stop_server, 3),
            (self.cut_server, 6),
            (self.cut_one_of_server, 10),
            (self.half_open_server, 3),
            (self.kill_broker, 1),
            (self.restart_broker, 1),
            (self.memory_alarm, 2),
            (self.unbind_queue, 4),
            (self.cut_member, 6),
            (self.delete_own_queue, 1),
            (self.hide_queues, 2),
        ]
        self._actions = gentle if planned else gentle + rough

    # Members ----------------------------------------------------------------------------------------

    def _pod(self) -> Pod | None:
        well = [pod for pod in self._world.pods if pod.is_well and pod not in self._busy]
        return self._random.choice(well) if len(well) > 1 else None

    def _options(self) -> list[str]:
        choose = self._random.choice
        options = [f"--work-ms={choose((0.5, 1, 4))}", f"--prefetch={choose((1, 10, 100))}"]
        options += ["--rebinds"] * choose((0, 1))
        if self._world.management not in self._busy:  # where its queue can be found
            options += ["--silent"] * choose((0, 0, 1))
        options += ["--quorum"] * choose((0, 0, 0, 0, 0, 0, 1))
        return options

    def join(self) -> bool:
        if not self._world.broker_up or sum(pod.runs for pod in self._world.pods) >= _MOST_MEMBERS:
            return False
        self._names += 1
        name = f"pod-{self._names}"
        self._world.join(name, *self._options())
        return self._tell(f"{name} joins")

    def leave(self) -> bool:
        pod = self._pod()
        if pod is None:
            return False
        pod.leave()
        return self._tell(f"{pod.name} leaves")

    def kill_member(self) -> bool:
        pod = self._pod()
        if pod is None:
            return False
        pod.kill()
        return self._tell(f"{pod.name} is killed")

    def restart_member(self) -> bool:
        """Killed, and there again at once or a little later: with the same queue or another one."""
        pod = self._pod()
        if pod is None or not self._world.broker_up:
            return False
        pod.kill()
        options = self._options()
        if self._random.random() < 0.4:
            options.append(f"--queue=chaos.{pod.name}.{len(self._world.pods)}")
        else:
            options = [option for option in options if option != "--quorum"]
            options += ["--quorum"] * ("--quorum" in pod.options)
            options.append(f"--queue={pod.queue}")
        seconds = self._later(
            0.0, self._random.choice((0.1, 2.0, 8.0)), lambda: self._again(pod.name, options)
        )
        return self._tell(f"{pod.name} is killed, and there again after {seconds:.1f} s: {' '.join(options)}")

    def restart_member_in_order(self) -> bool:
        """It leaves, and another process of the name comes."""
        pod = self._pod()
        if pod is None or not self._world.broker_up:
            return False
        pod.leave()

        def again() -> None:
            if pod.runs:
                self._later(0.2, 0.2, again)
            else:
                queue = f"--queue=chaos.{pod.name}.{len(self._world.pods)}"
                self._again(pod.name, [*self._options(), queue])

        self._later(1.0, 2.0, again)
        return self._tell(f"{pod.name} leaves, to come again")

    def _again(self, name: str, options: list[str]) -> None:
        self._world.join(name, *options)

    def stop_member(self) -> bool:
        pod = self._pod()
        if pod is None:
            return False
        pod.stop()
        seconds = self._later(0.5, 10.0, pod.go_on)
        return self._tell(f"{pod.name} stands still for {seconds:.1f} s")

    def pause_consumer(self) -> bool:
        pod = self._pod()
        if pod is None:
            return False
        pod.signal(signal.SIGUSR1)
        return self._tell(f"{pod.name} does not consume for a while")

    def hang_member(self) -> bool:
        pod = self._pod()
        if pod is None:
            return False
        pod.signal(signal.SIGUSR2)
        return self._tell(f"{pod.name} hangs for a while")

    def cut_member(self) -> bool:
        """A member's connection to the broker breaks; it makes another one."""
        number = self._random.randrange(_MOST_MEMBERS)
        return self._world.members.cut_one(number) and self._tell(
            f"connection {number} of the members is cut"
        )

    def unbind_queue(self) -> bool:
        """A member's queue loses its binding, and gets it again when that has been noticed.

        Not where an earlier one may still be bound with its key: what comes meanwhile would go there.
        """
        pod = self._pod()
        if pod is None or not self._quiet_broker():
            return False
        if any(other.name == pod.name and other.queue != pod.queue for other in self._world.pods):
            return False
        binding = {"queue": pod.queue, "exchange": EXCHANGE, "routing_key": f"partymq.partition-{pod.name}"}
        self._world.ask_broker(lambda channel: channel.queue_unbind(**binding))
        seconds = self._later(
            1.0, 6.0, lambda: self._world.ask_broker(lambda channel: channel.queue_bind(**binding)), pod
        )
        return self._tell(f"{pod.name}: {pod.queue} is not bound for {seconds:.1f} s")

    # The broker ---------------------------------------------------------------------------------------

    def delete_own_queue(self) -> bool:
        """Somebody deletes the queue of the commands."""
        if not self._quiet_broker():
            return False
        self._world.ask_broker(lambda channel: channel.queue_delete(COMMANDS))
        return self._tell(f"{COMMANDS} is deleted")

    def hide_queues(self) -> bool:
        """The management API can't be reached."""
        proxy = self._world.management
        if proxy in self._busy:
            return False
        proxy.refuse()
        proxy.cut()
        seconds = self._later(0.5, 20.0, proxy.resume, proxy)
        return self._tell(f"the management API is away for {seconds:.1f} s")
