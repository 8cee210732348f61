"""The HTTP API as its description says, from outside, on a real server."""

from urllib.parse import quote

import pytest

from tests.blackbox.outsider import Api, until

pytestmark = pytest.mark.usefixtures("channel")


def test_a_client_goes_through_bind_ready_heartbeat_unbind(serve):
    api = serve().ready().api
    bound = api.call("pod-1", "bind")
    assert bound.status == 200
    assert bound.body == {"routingKey": "partymq.partition-pod-1", "exchange": "partymq.ex.write"}
    again = api.call("pod-1", "bind")
    assert again.status == 409
    assert list(again.body) == ["error"]
    assert api.call("pod-1", "heartbeat").status == 200
    assert api.call("pod-1", "ready").status == 200
    assert api.call("pod-1", "ready").status == 409
    assert api.call("pod-1", "heartbeat").status == 200
    assert api.call("pod-1", "bind").status == 200
    assert api.call("pod-1", "ready").status == 200
    assert api.call("pod-1", "unbind").status == 200


def test_calls_out_of_turn_are_refused_with_a_reason(serve):
    api = serve().ready().api
    assert api.call("nobody", "ready").status == 409
    heartbeat = api.call("nobody", "heartbeat")
    assert heartbeat.status == 404
    assert "bind again" in heartbeat.body["error"]


def test_a_client_that_never_gets_ready_expires(serve):
    api = serve(PARTYMQ_HEART_BEAT_CONFIG_EXPIRES_AFTER="1s").ready().api
    assert api.call("pod-1", "bind").status == 200
    until(lambda: not api.get("/groups/default").body["members"], what="expired")
    assert api.call("pod-1", "ready").status == 409
    assert api.call("pod-1", "bind").status == 200


@pytest.mark.parametrize("hostname", ["a/b", "ü x", "100%", "🐰", "x" * 255])
def test_a_hostname_may_be_any_text(serve, hostname):
    api = serve().ready().api
    bound = api.call(hostname, "bind")
    assert bound.status == 200
    if len(hostname) < 200:
        assert bound.body["routingKey"] == f"partymq.partition-{hostname}"
    assert api.call(hostname, "heartbeat").status == 200
    assert api.call(hostname, "unbind").status == 200


def test_what_is_no_hostname_is_refused(serve):
    api = serve().ready().api
    for encoded in ("", "x" * 256, "%FF", quote("a\nb")):
        answer = api.post(f"/clients/{encoded}/bind")
        assert answer.status == 422
        assert answer.body["error"]


def test_bodies_are_optional_and_bounded(serve):
    api = serve().ready().api
    assert api.call("a", "bind", {}).status == 200
    assert api.call("b", "bind", {"group": "default"}).status == 200
    assert api.call("c", "bind", {"group": "none"}).status == 404
    assert api.ask("POST", "/clients/d/bind", b"x" * 1_000_000).status == 413
    assert api.post("/groups/default/clients/e/bind").status == 200
    assert api.post("/groups/none/clients/e/bind").status == 404


def test_one_can_see_what_is_going_on(serve):
    api = serve().ready().api
    assert api.get("/health").status == 200
    api.call("pod-1", "bind")
    group = api.get("/groups/default").body
    assert [member["hostname"] for member in group["members"]] == ["pod-1"]
    assert group["members"][0]["state"] == "pending"
    assert len(group["partitions"]) == 64
    assert group["epoch"] >= 1
    assert "generation" in group
    assert [each["group"] for each in api.get("/groups").body["groups"]] == ["default"]
    assert "partymq_messages_routed_total" in api.get("/metrics").body
    assert "/clients/{hostname}/bind" in api.get("/openapi.json").body["paths"]


def test_while_the_broker_is_away_the_process_lives_and_says_why(serve):
    served = serve(PARTYMQ_RABBIT_CS="amqp://guest:s3cret@127.0.0.1:1", PARTYMQ_CALL_TIMEOUT="500ms")
    until(lambda: _listens(served.api), what="HTTP")
    assert served.api.get("/health").status == 200
    ready = served.api.get("/ready")
    assert ready.status == 503
    assert "127.0.0.1:1" in ready.body["error"]
    bound = served.api.call("pod-1", "bind")
    assert bound.status == 503
    assert int(bound.headers["retry-after"]) >= 1
    assert served.api.get("/groups/default").status == 503
    assert served.api.get("/groups").status == 200
    assert served.end() == 0
    assert "s3cret" not in served.log.read_text()


def _listens(api: Api) -> bool:
    try:
        return api.get("/health").status == 200
    except OSError:
        return False
