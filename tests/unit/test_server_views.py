"""What can be looked at: health, readiness, groups, metrics, the OpenAPI description."""

from collections.abc import AsyncIterator

import httpx
import pytest

from partymq.config import GroupSettings, PullGroupSettings, Settings
from partymq.errors import ConnectionLost, NoCoordinator
from partymq.server.app import create_app
from partymq.server.looplag import LoopLag
from partymq.server.metrics import Metrics
from tests.unit.fake_group import FakeGroup

SETTINGS = Settings(
    groups={"default": GroupSettings(), "orders": PullGroupSettings("orders")},
)


@pytest.fixture
def groups() -> dict[str, FakeGroup]:
    return {name: FakeGroup(name) for name in SETTINGS.groups}


@pytest.fixture
async def http(groups: dict[str, FakeGroup]) -> AsyncIterator[httpx.AsyncClient]:
    lag = LoopLag()
    lag.add(0.003)
    app = create_app(groups, SETTINGS, metrics=Metrics(groups, lag))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def test_health_is_ok_whatever_the_groups_say(http, groups):
    groups["default"].reason = "the broker is away"
    response = await http.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert (await http.head("/health")).status_code == 200


async def test_ready_says_which_group_cannot_route_and_why(http, groups):
    response = await http.get("/ready")
    assert (response.status_code, response.json()) == (200, {"status": "ready"})
    groups["orders"].reason = "source queue orders is missing"
    response = await http.get("/ready")
    assert response.status_code == 503
    assert response.json() == {"error": "group orders: source queue orders is missing"}


async def test_a_group_is_shown_as_it_describes_itself(http, groups):
    groups["orders"].members["pod-1"] = "ready"
    assert (await http.get("/groups/orders")).json() == {
        "group": "orders",
        "mode": "pull",
        "routing": True,
        "reason": None,
        "epoch": 1,
        "generation": 2,
        "members": [{"hostname": "pod-1"}],
    }


async def test_all_groups_are_shown_also_where_one_cannot_be_asked(http, groups):
    groups["orders"].failing = ConnectionLost("cut")
    groups["orders"].reason = "the broker is away"
    response = await http.get("/groups")
    assert response.status_code == 200
    shown = response.json()["groups"]
    assert shown[0]["generation"] == 2
    assert shown[1] == {
        "group": "orders",
        "mode": "pull",
        "routing": False,
        "reason": "the broker is away",
    }


async def test_a_group_that_cannot_be_asked_is_to_be_asked_again(http, groups):
    groups["orders"].failing = NoCoordinator("nobody answered")
    response = await http.get("/groups/orders")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")


async def test_an_unknown_group_is_answered_with_the_known_ones(http):
    response = await http.get("/groups/none")
    assert response.status_code == 404
    assert response.json() == {"error": "there is no group 'none'; configured are default, orders"}


async def test_metrics_are_the_groups_numbers(http):
    response = await http.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    lines = response.text.splitlines()
    for line in (
        'partymq_messages_routed_total{group="default"} 12.0',
        'partymq_bytes_routed_total{group="orders"} 3400.0',
        'partymq_held_messages{group="default"} 5.0',
        'partymq_held_bytes{group="default"} 500.0',
        'partymq_holds_total{group="default"} 7.0',
        'partymq_hold_exhaustions_total{group="default"} 1.0',
        'partymq_returns_total{group="default"} 2.0',
        'partymq_rejects_total{group="default",reason="absent"} 4.0',
        'partymq_reconnects_total{group="default"} 3.0',
        'partymq_members{group="default",state="ready"} 2.0',
        'partymq_members{group="default",state="lost"} 0.0',
        'partymq_sessions_total{group="default"} 11.0',
        'partymq_keyless_messages_total{group="default"} 13.0',
        'partymq_partition_lag_messages{group="default",partition="0"} 9.0',
        'partymq_coordinator{group="default"} 1.0',
        'partymq_epoch{group="default"} 6.0',
        'partymq_generation{group="default"} 8.0',
        'partymq_confirm_latency_seconds_bucket{group="default",le="0.001"} 1.0',
        'partymq_confirm_latency_seconds_bucket{group="default",le="0.01"} 3.0',
        'partymq_confirm_latency_seconds_bucket{group="default",le="+Inf"} 6.0',
        'partymq_confirm_latency_seconds_count{group="default"} 6.0',
        'partymq_confirm_latency_seconds_sum{group="default"} 1.5',
        'partymq_rebalance_duration_seconds_count{group="default"} 6.0',
        'partymq_event_loop_lag_seconds_bucket{le="0.0025"} 0.0',
        'partymq_event_loop_lag_seconds_bucket{le="0.005"} 1.0',
    ):
        assert line in lines
    assert any(line.startswith("process_cpu_seconds_total") for line in lines)


async def test_metrics_come_as_openmetrics_where_that_is_asked_for(http):
    response = await http.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


async def test_the_description_names_every_call_with_its_answers(http):
    description = (await http.get("/openapi.json")).json()
    paths = description["paths"]
    for prefix in ("", "/groups/{group}"):
        for verb in ("bind", "ready", "unbind", "heartbeat"):
            call = paths[f"{prefix}/clients/{{hostname}}/{verb}"]["post"]
            assert {"200", "404", "409", "413", "422", "503"} <= set(call["responses"])
            names = [parameter["name"] for parameter in call["parameters"]]
            assert names == (["group", "hostname"] if prefix else ["hostname"])
            assert call["requestBody"]["required"] is False
    bound = paths["/clients/{hostname}/bind"]["post"]["responses"]["200"]["content"]["application/json"]
    assert bound["example"] == {"routingKey": "partymq.partition-pod-1", "exchange": "partymq.ex.write"}
    assert {"/health", "/ready", "/groups", "/groups/{group}", "/metrics"} <= set(paths)
    operations = [call["operationId"] for path in paths.values() for call in path.values()]
    assert len(set(operations)) == len(operations)
