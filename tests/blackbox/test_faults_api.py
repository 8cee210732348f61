"""The API is misused from all sides, and nobody else notices."""

import json
import random
import threading
import time

from tests.blackbox.outsider import until

VERBS = ("bind", "ready", "heartbeat", "unbind")
BODIES = (
    None,
    b"",
    b"{}",
    b"[]",
    b"{",
    b"\xff",
    b'{"queue": 7}',
    b'{"queue": "nowhere"}',
    b'{"group": "none"}',
)
ALLOWED = {200, 400, 404, 405, 409, 413, 422, 503}
ANSWERS = {200, 404, 409, 422}


def abuse(api, seed, ends, answered, failures):
    """Calls at random, by hostnames that are shared with others who do the same."""
    chooser = random.Random(seed)
    try:
        while time.monotonic() < ends or (not answered.keys() >= ANSWERS and time.monotonic() < ends + 60):
            hostname = chooser.choice(
                ("bad-1", "bad-2", "bad-3", f"bad-{chooser.randrange(10**6)}", "a%2Fb", "")
            )
            body = chooser.choice(BODIES)
            if chooser.random() < 0.02:
                body = json.dumps({"queue": "x" * 100_000}).encode()
            path = f"/clients/{hostname}/{chooser.choice(VERBS)}"
            answer = api.ask("POST", path, body, {"Content-Type": "application/json"})
            answered[answer.status] = answered.get(answer.status, 0) + 1
            assert answer.status in ALLOWED, (path, body, answer)
    except BaseException as failure:
        failures.append(failure)


def test_a_storm_of_calls_out_of_turn_disturbs_no_member(serve, crowd):
    served = serve(PARTYMQ_HEART_BEAT_CONFIG_EXPIRES_AFTER="5s").ready()
    crowd.urls.append(served.api.base)
    for number in range(2):
        crowd.join(f"pod-{number}")
    answered, failures = {}, []
    with crowd.flow(200):
        crowd.more(50)
        ends = time.monotonic() + 5
        storm = [
            threading.Thread(target=abuse, args=(served.api, seed, ends, answered, failures), daemon=True)
            for seed in range(8)
        ]
        for thread in storm:
            thread.start()
        for thread in storm:
            thread.join(120)
        crowd.more(50)
    assert not failures, failures
    assert answered.keys() >= ANSWERS
    crowd.all_finished()
    for pod in crowd.pods:
        assert sum(note.kind == "R" for note in pod.read) == 1, pod.process.last_words()
    until(
        lambda: (
            {member["hostname"] for member in served.api.get("/groups/default").body["members"]}
            == {"pod-0", "pod-1"}
        ),
        what="the others are forgotten",
    )


def test_an_exchange_that_would_bring_every_message_to_every_member_is_not_used(serve, channel):
    channel.exchange_declare("partymq.ex.write", "fanout", durable=True)
    served = serve()

    def reason():
        try:
            return served.api.get("/ready").body.get("error", "")
        except OSError:
            return ""

    until(lambda: "is no direct one" in reason(), what=lambda: f"it is told; now: {reason()!r}")
    channel.exchange_delete("partymq.ex.write")
    served.ready()
