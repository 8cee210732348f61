"""The broker itself is killed, or short of memory, while messages flow. On a node of its own."""

import time

import pytest

from partymq.broker import PrivateNode
from partymq.errors import NodeError
from tests.blackbox.outsider import until
from tests.broker.management import delete_vhost
from tests.conftest import new_vhost


@pytest.fixture(scope="module")
def own():
    with PrivateNode() as node:
        yield node


@pytest.fixture
def vhost(own):
    fresh = new_vhost(own)
    yield fresh
    delete_vhost(fresh.management_url, fresh.name)


def kill(node):
    """At once after the broker has written down what was declared: see `PrivateNode.sync_metadata`."""
    with pytest.raises(NodeError):
        node.ctl("eval", 'mnesia:sync_log(), os:cmd("kill -9 " ++ os:getpid()).')
    node.kill()


def test_a_killed_broker_comes_back_with_everything(own, serve, crowd):
    instances = [serve().ready(), serve().ready()]
    crowd.urls += [instance.api.base for instance in instances]
    for number in range(3):
        crowd.join(f"pod-{number}")
    with crowd.flow(400):
        crowd.more(200)
        kill(own)
        until(lambda: instances[0].api.get("/ready").status == 503)
        assert instances[0].api.get("/health").status == 200
        own.start()
        crowd.more(200)
    crowd.all_finished()
    assert all(pod.runs and sum(note.kind == "R" for note in pod.read) == 1 for pod in crowd.pods)


def test_members_live_through_a_memory_alarm(own, serve, crowd):
    """It lasts longer than a member may be silent. The instance that coordinates answers all the time."""
    first, second = serve().ready(), serve().ready()
    crowd.urls += [first.api.base, second.api.base]
    for number in range(2):
        crowd.join(f"pod-{number}")
    with crowd.flow(400):
        crowd.more(100)
        own.ctl("set_vm_memory_high_watermark", "0.0000001")
        until(lambda: "memory" in str(first.api.get("/ready").body), what="it is told")
        ends = time.monotonic() + 6
        binds = {503}
        while time.monotonic() < ends:
            assert first.api.call("pod-0", "heartbeat").status == 200
            assert second.api.call("pod-1", "heartbeat").status in (200, 503)
            if 200 not in binds:
                binds.add(second.api.call("late", "bind").status)
        assert binds <= {200, 503}
        own.ctl("set_vm_memory_high_watermark", "0.4")
        crowd.more(200)
        crowd.join("late")
    assert crowd.all_finished().repeats == 0
    for pod in crowd.pods:
        assert sum(note.kind == "R" for note in pod.read) == 1, pod.process.last_words()
