"""The four calls of a member, over HTTP."""

from collections.abc import AsyncIterator

import httpx
import pytest

from partymq.config import GroupSettings, HttpSettings, PullGroupSettings, Settings
from partymq.errors import AlreadyPending, ConnectionLost, GroupFull, NoCoordinator, UnknownMember
from partymq.group.wire import Bind, Ready
from partymq.server.app import create_app
from tests.unit.fake_group import FakeGroup

SETTINGS = Settings(
    call_timeout=0.05,
    http=HttpSettings(body_limit=1024),
    groups={
        "default": GroupSettings(),
        "orders": GroupSettings("orders", source_queue="orders"),
        "pulled": PullGroupSettings("pulled"),
    },
)


@pytest.fixture
def groups() -> dict[str, FakeGroup]:
    return {name: FakeGroup(name) for name in SETTINGS.groups}


@pytest.fixture
def default(groups: dict[str, FakeGroup]) -> FakeGroup:
    return groups["default"]


@pytest.fixture
async def http(groups: dict[str, FakeGroup]) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(groups, SETTINGS), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def error(response: httpx.Response) -> str:
    body = response.json()
    assert list(body) == ["error"]
    return body["error"]


async def test_a_member_lives_by_four_calls(http):
    response = await http.post("/clients/pod-1/bind")
    assert (response.status_code, response.json()) == (
        200,
        {"routingKey": "partymq.partition-pod-1", "exchange": "partymq.ex.write"},
    )
    for call in ("heartbeat", "ready", "heartbeat", "unbind"):
        response = await http.post(f"/clients/pod-1/{call}")
        assert (response.status_code, response.json()) == (200, {})


async def test_a_hostname_that_is_pending_cannot_be_bound(http):
    await http.post("/clients/pod-1/bind")
    response = await http.post("/clients/pod-1/bind")
    assert response.status_code == 409
    assert "bound already" in error(response)


async def test_a_member_can_be_bound_again(http):
    for call in ("bind", "ready", "bind", "ready"):
        assert (await http.post(f"/clients/pod-1/{call}")).status_code == 200


async def test_ready_is_refused_without_bind_and_the_second_time(http):
    response = await http.post("/clients/pod-1/ready")
    assert response.status_code == 409
    assert "bind first" in error(response)
    await http.post("/clients/pod-1/bind")
    await http.post("/clients/pod-1/ready")
    response = await http.post("/clients/pod-1/ready")
    assert response.status_code == 409
    assert "ready already" in error(response)


async def test_a_heartbeat_of_no_member_is_told_to_bind_again(http):
    response = await http.post("/clients/pod-1/heartbeat")
    assert response.status_code == 404
    assert "bind again" in error(response)


async def test_unbind_may_be_repeated(http):
    assert (await http.post("/clients/pod-1/unbind")).status_code == 200


@pytest.mark.parametrize(
    ("raised", "code"),
    [(AlreadyPending("x"), 409), (UnknownMember("x"), 404), (GroupFull("x"), 503), (NoCoordinator("x"), 503)],
)
async def test_an_outcome_may_be_raised_too(http, default, raised, code):
    default.failing = raised
    response = await http.post("/clients/pod-1/heartbeat")
    assert response.status_code == code
    assert error(response)


@pytest.mark.parametrize("raised", [NoCoordinator("nobody"), ConnectionLost("cut")])
async def test_without_coordinator_or_broker_a_call_is_to_be_repeated(http, default, raised):
    default.failing = raised
    response = await http.post("/clients/pod-1/heartbeat")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert str(raised) in error(response)


async def test_a_group_that_never_answers_does_not_hold_up_its_caller(http, default):
    default.delay = 60
    response = await http.post("/clients/pod-1/heartbeat")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")


async def test_a_bug_is_answered_in_the_same_form(http, default):
    default.failing = ZeroDivisionError("secret")
    response = await http.post("/clients/pod-1/heartbeat")
    assert response.status_code == 500
    assert "secret" not in error(response)


async def test_ready_may_name_the_queue(http, default):
    await http.post("/clients/pod-1/bind")
    await http.post("/clients/pod-1/ready", json={"queue": "mine", "more": [1]})
    assert default.calls[-1] == Ready("pod-1", "mine")


async def test_the_group_may_be_in_the_path_or_in_the_body(http, groups):
    response = await http.post("/groups/orders/clients/a/bind")
    assert response.json()["exchange"] == "partymq.orders.ex.write"
    await http.post("/clients/b/bind", json={"group": "orders"})
    await http.post("/groups/orders/clients/c/bind", json={"group": "orders"})
    assert groups["orders"].calls == [Bind("a"), Bind("b"), Bind("c")]
    assert groups["default"].calls == []


async def test_path_and_body_must_not_contradict_each_other(http):
    response = await http.post("/groups/orders/clients/a/bind", json={"group": "default"})
    assert response.status_code == 422
    assert "path says group orders, the body says default" in error(response)


@pytest.mark.parametrize("group", ["none", "", "a b", "ö"])
async def test_an_unknown_group_is_answered_with_the_known_ones(http, group):
    response = await http.post("/clients/a/bind", json={"group": group})
    assert response.status_code == 404
    assert "default, orders" in error(response)


async def test_an_unknown_group_in_the_path_is_answered_with_the_known_ones(http):
    response = await http.post("/groups/no%2Fne/clients/a/bind")
    assert response.status_code == 404
    assert "'no/ne'; configured are default, orders" in error(response)
    assert (await http.post("/groups/%FF/clients/a/bind")).status_code == 404


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"", None),
        (b"", "application/json"),
        (b"", "application/x-www-form-urlencoded"),
        (b"  \r\n", "application/json"),
        (b"null", "application/json"),
        (b"{}", None),
        (b"a=b", "application/x-www-form-urlencoded"),
        (b"hello", "text/plain"),
        (b"\xff\xfe", "application/octet-stream"),
        (b'{"queue": null, "group": null}', "application/json"),
    ],
)
async def test_whatever_an_http_library_sends_by_itself_is_no_body(http, content, content_type):
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = await http.post("/clients/pod-1/bind", content=content, headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain", "application/json; charset=utf-8"]
)
async def test_json_counts_whatever_it_is_called(http, default, content_type):
    await http.post("/clients/a/bind")
    await http.post("/clients/a/ready", content=b' {"queue":"mine"}', headers={"Content-Type": content_type})
    assert default.queues == {"a": "mine"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "not valid JSON"),
        (b'{"queue": ', "not valid JSON"),
        (b"nonsense", "not valid JSON"),
        (b'{"queue": "\xff"}', "not valid JSON"),
        (b"[" * 1000, "expected `object`, got `array`"),
        (b'{"more":' + b"[" * 1000, "not valid JSON"),
        (b"[]", "expected `object`, got `array`"),
        (b'{"queue": 1}', "`$.queue`"),
        (b'{"queue": ""}', "1 to 255 bytes"),
        (b'{"queue": "' + b"x" * 256 + b'"}', "1 to 255 bytes"),
        (b'{"group": ["a"]}', "`$.group`"),
    ],
)
async def test_a_body_that_is_not_as_it_should_be_is_refused(http, default, content, reason):
    response = await http.post(
        "/clients/a/bind", content=content, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 422
    assert reason.lower() in error(response).lower()
    assert default.calls == []


@pytest.mark.parametrize(
    ("encoded", "hostname"),
    [
        ("pod-1", "pod-1"),
        ("a%2Fb", "a/b"),
        ("a%2fb%2F", "a/b/"),
        ("%2F", "/"),
        ("a%252Fb", "a%2Fb"),
        ("%C3%BC%20x", "ü x"),
        ("a+b", "a+b"),
        ("a%3Fb%23c", "a?b#c"),
        ("%F0%9F%90%B0", "🐰"),
        ("bind", "bind"),
        ("a;b=c,d", "a;b=c,d"),
        ("x" * 255, "x" * 255),
        ("100%25", "100%"),
    ],
)
async def test_a_hostname_is_decoded_once(http, default, encoded, hostname):
    for prefix in ("", "/groups/default"):
        response = await http.post(f"{prefix}/clients/{encoded}/bind")
        assert response.status_code == 200
        assert default.calls.pop() == Bind(hostname)
        default.members.clear()


async def test_the_routing_key_is_never_longer_than_the_broker_allows(http):
    response = await http.post(f"/clients/{'x' * 255}/bind")
    assert len(response.json()["routingKey"].encode()) <= 255


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        ("", "empty"),
        ("x" * 256, "256 bytes"),
        ("%C3%BC" * 128, "256 bytes"),
        ("%FF", "UTF-8"),
        ("%C3", "UTF-8"),
        ("%ED%A0%80", "UTF-8"),
        ("a%00b", "U+0000"),
        ("a%0Ab", "U+000A"),
        ("%C2%85", "U+0085"),
        ("a/b", "%2F"),
    ],
)
async def test_what_cannot_be_a_hostname_is_refused_with_the_reason(http, default, encoded, reason):
    for prefix in ("", "/groups/default"):
        response = await http.post(f"{prefix}/clients/{encoded}/bind")
        assert response.status_code == 422
        assert reason in error(response)
    assert default.calls == []


async def test_a_body_over_the_limit_is_refused(http):
    exact = b'{"more": "' + b"x" * (1024 - 12) + b'"}'
    assert (await http.post("/clients/a/bind", content=exact)).status_code == 200
    response = await http.post("/clients/b/bind", content=exact + b" ")
    assert response.status_code == 413
    assert "1024" in error(response)


async def test_a_body_over_the_limit_is_refused_in_chunks_too(http):
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(1025):
            yield b" "

    assert (await http.post("/clients/a/bind", content=chunks())).status_code == 413


async def test_fastapis_own_errors_have_the_same_form(http):
    response = await http.get("/clients/a/bind")
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")
    assert error(response) == "Method Not Allowed: GET /clients/a/bind"
    for path in ("/", "/clients/a", "/clients/a/dance", "/clients/a/bind/"):
        response = await http.post(path)
        assert response.status_code == 404
        assert error(response) == f"Not Found: POST {path}"


async def test_a_stopping_instance_takes_no_calls_and_is_not_ready(groups):
    app = create_app(groups, SETTINGS, is_stopping=lambda: True)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        for response in (await http.post("/clients/a/bind"), await http.get("/ready")):
            assert response.status_code == 503
            assert "shutting down" in error(response)
        assert (await http.get("/health")).status_code == 200
    assert groups["default"].calls == []


@pytest.mark.parametrize("call", ["bind", "ready", "heartbeat", "unbind"])
@pytest.mark.parametrize("path", ["/groups/pulled/clients/pod-1/{}", "/clients/pod-1/{}"])
async def test_the_calls_of_push_groups_are_refused_for_a_pull_group_with_what_to_do_instead(
    http, groups, call, path
):
    body = {} if "groups" in path else {"group": "pulled"}
    response = await http.post(path.format(call), json=body)
    assert response.status_code == 409
    assert 'pulled is a pull group (mode = "pull")' in error(response)
    assert "Consumer(…, group='pulled')" in error(response)
    assert groups["pulled"].calls == []
