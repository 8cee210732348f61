"""Instances of the server are killed, or stand still."""

import signal

from tests.blackbox.outsider import until


def epoch(served):
    """Of the group, by this instance's own knowledge; 0 where it does not say."""
    answer = served.api.get("/groups/default")
    return answer.body.get("epoch", 0) if answer.status == 200 else 0


def coordinates(served):
    return 'partymq_coordinator{group="default"} 1.0' in served.api.get("/metrics").body


def test_a_zombie_routes_nothing_and_changes_nothing(serve, vhost, crowd):
    url = vhost.amqp_url + "?heartbeat=2"
    first = serve(PARTYMQ_RABBIT_CS=url).ready()
    second = serve(PARTYMQ_RABBIT_CS=url).ready()
    crowd.urls.append(second.api.base)
    crowd.join("pod-0")
    crowd.join("pod-1")
    with crowd.flow(300):
        crowd.more(100)
        assert coordinates(first)
        before = epoch(second)
        first.process.send_signal(signal.SIGSTOP)
        until(lambda: coordinates(second), what="the second one has taken over")
        crowd.more(200)
        crowd.join("pod-2")
        taken_over = epoch(second)
        assert taken_over > before
        first.process.send_signal(signal.SIGCONT)
        until(lambda: not coordinates(first), what="the first one knows that it is out")
        first.ready()
        crowd.more(200)
        assert coordinates(second)
        assert not coordinates(first)
        assert epoch(second) == taken_over == epoch(first)
    crowd.all_finished()
    assert first.end() == 0
    assert second.end() == 0


def test_all_instances_are_killed_and_members_go_on_without_binding_again(serve, crowd):
    instances = [serve().ready(), serve().ready()]
    crowd.urls += [instance.api.base for instance in instances]
    for number in range(3):
        crowd.join(f"pod-{number}", "--work-ms=4")
    with crowd.flow(400):
        for _ in range(2):
            crowd.more(200)
            for instance in instances:
                instance.end(signal.SIGKILL)
            for instance in instances:
                instance.start()
        crowd.more(200)
    crowd.all_finished()
    for instance in instances:
        instance.ready()
    assert all(sum(note.kind == "R" for note in pod.read) == 1 for pod in crowd.pods)
