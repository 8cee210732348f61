"""The faults: each is begun by one function, and has an end, which is due some time later."""

import random
import signal
from collections.abc import Callable
from typing import Final

from tests.broker.tcp_proxy import BOTH, DOWN, UP
from verify.schedule import Schedule
from verify.stage import Pod
from verify.world import COMMANDS, EXCHANGE, Server, World

_MOST_MEMBERS: Final = 6


class Faults(Schedule):
    """The faults of a push group.

    Args:
        planned: only what happens in daily work: scaling and restarts as planned.
    """

    def __init__(self, world: World, chooser: random.Random, *, planned: bool = False) -> None:
        super().__init__(world, chooser)
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
            (self.cut, 6),
            (self.cut_one, 10),
            (self.half_open, 3),
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

    # Servers ----------------------------------------------------------------------------------------

    def _server(self) -> Server | None:
        """One of those that can be disturbed; the one that routes more often than not."""
        well = [s for s in self._world.servers if s.runs and not s.stopped and s not in self._busy]
        if not well:
            return None
        active = [server for server in well if server.coordinates()]
        return (
            self._random.choice(active or well) if self._random.random() < 0.7 else self._random.choice(well)
        )

    def _what(self, server: Server) -> str:
        return f"{server.name} ({'active' if server.coordinates() else 'stands by'})"

    def kill_server(self) -> bool:
        server = self._server()
        if server is None:
            return False
        what = self._what(server)
        server.kill()
        seconds = self._later(0.0, 6.0, server.start, server)
        return self._tell(f"{what} is killed, and started after {seconds:.1f} s")

    def kill_all_servers(self) -> bool:
        if any(not server.runs or server in self._busy for server in self._world.servers):
            return False
        for server in self._world.servers:
            server.kill()
            self._later(0.0, 6.0, server.start, server)
        return self._tell("all servers are killed, and started again")

    def restart_server(self) -> bool:
        server = self._server()
        if server is None:
            return False
        what = self._what(server)
        server.terminate()

        def again() -> None:
            if server.runs:
                self._later(0.2, 0.2, again, server)
            else:
                server.start()

        self._later(0.5, 3.0, again, server)
        return self._tell(f"{what} is restarted in order")

    def stop_server(self) -> bool:
        server = self._server()
        if server is None:
            return False
        what = self._what(server)
        server.stop()
        seconds = self._later(0.5, 9.0, server.go_on, server)
        return self._tell(f"{what} stands still for {seconds:.1f} s")

    # The network between servers and broker -----------------------------------------------------------

    def cut(self) -> bool:
        server = self._server()
        if server is None:
            return False
        return self._tell(f"{self._what(server)}: {server.proxy.cut()} connections are cut")

    def cut_one(self) -> bool:
        server = self._server()
        if server is None:
            return False
        number = self._random.randrange(3)
        server.proxy.cut_one(number)
        return self._tell(f"{self._what(server)}: connection {number} is cut")

    def half_open(self) -> bool:
        server = self._server()
        if server is None:
            return False
        direction = self._random.choice((UP, DOWN, BOTH))
        server.proxy.pause(direction)
        seconds = self._later(0.5, 9.0, server.proxy.resume, server)
        return self._tell(f"{self._what(server)}: nothing goes {direction} for {seconds:.1f} s")

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
