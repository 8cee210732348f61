"""What a group promises, as an outsider's consumers see it."""

import datetime
import itertools
import signal
import threading
from collections import Counter
from decimal import Decimal

import pika
import pytest

from tests.blackbox.conftest import SOURCE
from tests.blackbox.outsider import Diary, until


def promises_held(diary: Diary, messages: int, *, repeats: bool = False) -> None:
    """Nothing lost; each key in order; never two members at one key. `repeats`: after a fault some may
    come again."""
    counts = Counter(int(handled.body) for handled in diary.entries())
    assert sorted(counts) == list(range(messages))
    if not repeats:
        assert set(counts.values()) == {1}
    for key, handled in diary.by_key().items():
        newest = -1
        seen = set()
        for each in handled:
            number = int(each.body)
            assert number in seen or number > newest, f"{key}: {number} after {newest}"
            seen.add(number)
            newest = max(newest, number)
        for earlier, later in itertools.pairwise(handled):
            assert earlier.member == later.member or earlier.ended <= later.began, f"{key}: two at once"


def all_handled(diary: Diary, messages: int) -> None:
    until(
        lambda: len({handled.body for handled in diary.entries()}) >= messages,
        what=f"{messages} messages handled",
    )


def test_each_key_is_handled_in_order_by_one_of_several_members(serve, members, publish, diary):
    api = serve().ready().api
    for number in range(3):
        members(api, f"pod-{number}")
    publish(range(1500), keys=100)
    all_handled(diary, 1500)
    promises_held(diary, 1500)
    assert {len({handled.member for handled in each}) for each in diary.by_key().values()} == {1}
    assert len({handled.member for handled in diary.entries()}) == 3


def test_without_members_messages_stay_in_the_source(serve, members, publish, channel, diary):
    api = serve().ready().api
    publish(range(50))
    assert api.call("pod-0", "bind").status == 200
    assert channel.queue_declare(SOURCE, passive=True).method.message_count == 50
    members(api, "pod-1")
    all_handled(diary, 50)
    promises_held(diary, 50)


def test_members_come_and_go_while_messages_flow(serve, members, publish, diary):
    api = serve().ready().api
    first = members(api, "pod-1", work=0.001)
    flow = threading.Thread(target=publish, args=(range(6000),))
    flow.start()
    until(lambda: len(diary.entries()) > 500)
    second = members(api, "pod-2", work=0.001)
    until(lambda: len(diary.of("pod-2")) > 100, what="the newcomer has work")
    members(api, "pod-3", work=0.001)
    until(lambda: len(diary.of("pod-3")) > 100, what="the third one has work")
    first.leave()
    second.leave()
    flow.join()
    all_handled(diary, 6000)
    promises_held(diary, 6000)


@pytest.mark.parametrize("names_its_queue", [True, False])
def test_what_a_dead_member_had_goes_on_elsewhere(serve, members, publish, diary, names_its_queue):
    api = serve().ready().api
    doomed = members(api, "pod-1", work=0.002, names_its_queue=names_its_queue)
    members(api, "pod-2", work=0.002, names_its_queue=names_its_queue)
    publish(range(1000))
    until(lambda: len(diary.of("pod-1")) > 50)
    doomed.die()
    all_handled(diary, 1000)
    promises_held(diary, 1000, repeats=True)


def test_a_restart_as_planned_repeats_nothing(serve, members, publish, diary):
    served = serve().ready()
    members(served.api, "pod-1", work=0.001)
    members(served.api, "pod-2", work=0.001)
    publish(range(2000))
    until(lambda: len(diary.entries()) > 300)
    assert served.end(signal.SIGTERM) == 0
    served.start().ready()
    all_handled(diary, 2000)
    promises_held(diary, 2000)


def test_after_a_kill_members_go_on_without_binding_again(serve, members, publish, diary):
    served = serve().ready()
    members(served.api, "pod-1", work=0.001)
    members(served.api, "pod-2", work=0.001)
    publish(range(2000))
    until(lambda: len(diary.entries()) > 300)
    served.end(signal.SIGKILL)
    served.start().ready()
    all_handled(diary, 2000)
    promises_held(diary, 2000, repeats=True)
    assert served.api.call("pod-1", "heartbeat").status == 200


def test_a_second_instance_takes_over_when_the_first_is_killed(serve, members, publish, diary):
    first, second = serve().ready(), serve().ready()
    members(second.api, "pod-1", work=0.001)
    members(second.api, "pod-2", work=0.001)
    publish(range(2000))
    until(lambda: len(diary.entries()) > 300)
    first.end(signal.SIGKILL)
    all_handled(diary, 2000)
    promises_held(diary, 2000, repeats=True)


def test_a_message_arrives_as_it_was_sent(serve, members, channel, diary):
    api = serve().ready().api
    members(api, "pod-1")
    sent = pika.BasicProperties(
        content_type="application/x-thing",
        content_encoding="none",
        headers={
            "partitionKey": "a",
            "nested": {"list": [1, "two", {"three": [3]}], "none": None, "yes": True},
            "big": 2**40,
            "money": Decimal("12.34"),
            "when": datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC),
        },
        delivery_mode=2,
        priority=7,
        correlation_id="c",
        reply_to="r",
        expiration="600000",
        message_id="m",
        timestamp=1_700_000_000,
        type="t",
        app_id="app",
    )
    bodies = [b"", b"\x00\xff" * 300_000, bytes(range(256))]
    for body in bodies:
        channel.basic_publish("", SOURCE, body, sent)
    until(lambda: len(diary.entries()) == len(bodies))
    for handled, body in zip(diary.entries(), bodies, strict=True):
        assert handled.body == body
        assert vars(handled.properties) == vars(sent)


def test_an_exchange_of_an_old_deployment_is_used_as_it_is(serve, members, publish, channel, diary):
    channel.exchange_declare("partymq.ex.write", "direct", durable=False, auto_delete=True)
    served = serve().ready()
    members(served.api, "pod-1")
    publish(range(10))
    all_handled(diary, 10)
    promises_held(diary, 10)


def test_a_missing_source_queue_is_told_and_waited_for(serve, members, publish, channel, diary):
    channel.queue_delete(SOURCE)
    served = serve()

    def reason() -> str:
        try:
            answer = served.api.get("/ready")
        except OSError:
            return ""
        return answer.body["error"] if answer.status == 503 else ""

    until(lambda: SOURCE in reason(), what="the reason names the queue")
    assert served.api.get("/health").status == 200
    channel.queue_declare(SOURCE, durable=True)
    served.ready()
    members(served.api, "pod-1")
    publish(range(10))
    all_handled(diary, 10)
