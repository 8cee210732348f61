"""The OpenAPI description: texts, examples, schemas."""

from typing import Any

DESCRIPTION = """\
Consumer groups for RabbitMQ. A member of a group is one consumer process, named by its hostname:

1. `POST /clients/{hostname}/bind` answers with an exchange and a routing key.
2. The client declares its queue and binds it to that exchange with that routing key.
3. `POST /clients/{hostname}/ready`: from now on it gets partitions.
4. `POST /clients/{hostname}/heartbeat`, again and again; `POST /clients/{hostname}/unbind` to leave.

Hostnames are any text of 1 to 255 bytes, percent-encoded in the path (`/` as `%2F`). Calls without a group
are those of the group `default`. A call answered 503 may be repeated after `Retry-After` seconds. Every error
is `{"error": "…"}`.
"""

TAGS = [
    {"name": "members", "description": "The calls of a member."},
    {"name": "groups", "description": "What is going on."},
    {"name": "process", "description": "For whoever runs this process."},
]

_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "What is wrong and what to do."}},
}


def _json(description: str, schema: dict[str, Any], example: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": schema, "example": example}}
    return {"description": description, "content": content}


def _error(description: str, example: str) -> dict[str, Any]:
    return _json(description, _ERROR_SCHEMA, {"error": example})


_EMPTY = _json("Done.", {"type": "object"}, {})

_BOUND = _json(
    "Bind your queue to this exchange with this routing key, then say ready.",
    {
        "type": "object",
        "required": ["routingKey", "exchange"],
        "properties": {
            "routingKey": {
                "type": "string",
                "description": "`partymq.partition-<hostname>`; where that would be longer than 255 bytes, "
                "a shortened form of it.",
            },
            "exchange": {"type": "string", "description": "The group's exchange."},
        },
    },
    {"routingKey": "partymq.partition-pod-1", "exchange": "partymq.ex.write"},
)

_BUSY = _error("No coordinator, or the broker is away: repeat it.", "the coordinator did not answer in time")
_BUSY["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}

_PULL = _error(
    "The group is a pull group.",
    'group orders is a pull group (mode = "pull"): its members join by themselves, with the Python library',
)

_COMMON = {
    404: _error("No such group.", "there is no group 'orders'; configured are default"),
    408: _error("The body did not come in time.", "the body did not come in time"),
    413: _error("The body is too large.", "the body is too large; allowed are 65536 bytes"),
    422: _error(
        "The hostname or the body is not valid.", "the hostname is empty; allowed are 1 to 255 bytes"
    ),
    503: _BUSY,
}

_CALLS: dict[str, tuple[str, str, dict[int, Any]]] = {
    "bind": (
        "Announce a member",
        "A member that binds again (a process restarted under the same name) is a new incarnation of it and "
        "has to say ready again. A client that never says ready is forgotten.",
        {
            200: _BOUND,
            409: _error(
                "It is bound already and has not said ready; or the group is a pull group.",
                "pod-1 is bound already and has not said ready: say ready, or bind again when it has expired",
            ),
        },
    ),
    "ready": (
        "Receive from now on",
        "The client's queue is declared, bound, and consumed. The body may name the queue.",
        {
            200: _EMPTY,
            409: _error(
                "It was not bound, or is ready already; or the group is a pull group.",
                "pod-1 is not bound: bind first, then say ready",
            ),
        },
    ),
    "unbind": (
        "Leave",
        "Its partitions go to others once it has finished what it has. May be repeated.",
        {200: _EMPTY, 409: _PULL},
    ),
    "heartbeat": (
        "Say that it is alive",
        "To be sent several times within `heartbeat.expires_after`, also between bind and ready.",
        {
            200: _EMPTY,
            409: _PULL,
            404: _error(
                "It is no member (any more), or there is no such group.",
                "pod-1 is not a member (any more): bind again",
            ),
        },
    ),
}

_HOSTNAME = {
    "name": "hostname",
    "in": "path",
    "required": True,
    "description": "The member's name: any text of 1 to 255 bytes, percent-encoded.",
    "schema": {"type": "string", "minLength": 1},
    "example": "pod-1",
}
_GROUP_NAME = {
    "name": "group",
    "in": "path",
    "required": True,
    "description": "The group's name, percent-encoded.",
    "schema": {"type": "string"},
    "example": "default",
}


def of_call(verb: str, *, in_group: bool) -> dict[str, Any]:
    """The arguments for the route of a member's call."""
    summary, description, responses = _CALLS[verb]
    properties = {"group": {"type": "string", "description": "The group, where the path does not say it."}}
    example = {"group": "default"}
    if verb == "ready":
        properties["queue"] = {"type": "string", "description": "The member's queue, up to 255 bytes."}
        example = {"queue": "pod-1.q"}
    body = {
        "required": False,
        "description": "May be absent, and so may every member of it.",
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": properties},
                "example": example,
            }
        },
    }
    return {
        "summary": summary,
        "description": description,
        "operation_id": f"{verb}_in_group" if in_group else verb,
        "responses": {**_COMMON, **responses},
        "openapi_extra": {
            "parameters": [_GROUP_NAME, _HOSTNAME] if in_group else [_HOSTNAME],
            "requestBody": body,
        },
    }


HEALTH: dict[str, Any] = {
    "tags": ["process"],
    "summary": "Whether the process lives",
    "operation_id": "health",
    "responses": {200: _json("It does.", {"type": "object"}, {"status": "ok"})},
}

READY: dict[str, Any] = {
    "tags": ["process"],
    "summary": "Whether it can route",
    "operation_id": "readiness",
    "responses": {
        200: _json("Every group can.", {"type": "object"}, {"status": "ready"}),
        503: _error("A group cannot; the reason.", "group default: the broker is away: connection refused"),
    },
}

_GROUP_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "group": {"type": "string"},
        "mode": {"type": "string", "enum": ["push", "pull"]},
        "routing": {"type": "boolean", "description": "Whether it can route now."},
        "reason": {"type": ["string", "null"], "description": "Why not."},
        "epoch": {"type": "integer", "description": "Number of the coordinator's term."},
        "generation": {"type": "integer", "description": "Number of the assignment; grows with each change."},
        "members": {"type": "array", "items": {"type": "object"}},
        "partitions": {"type": "array", "items": {"type": "object"}},
    },
}

GROUPS: dict[str, Any] = {
    "tags": ["groups"],
    "summary": "All groups",
    "description": "Each as `/groups/{group}` shows it; one that cannot be asked now with its `reason` only.",
    "operation_id": "groups",
    "responses": {
        200: _json(
            "The groups.",
            {"type": "object", "properties": {"groups": {"type": "array", "items": _GROUP_SCHEMA}}},
            {"groups": [{"group": "default", "mode": "push", "routing": True, "reason": None}]},
        )
    },
}

GROUP: dict[str, Any] = {
    "tags": ["groups"],
    "summary": "One group",
    "description": "Members, partitions, generation, epoch, which instance coordinates, rates; of a pull "
    "group its settings in the broker, and how far a resize is.",
    "operation_id": "group",
    "openapi_extra": {"parameters": [_GROUP_NAME]},
    "responses": {
        200: _json(
            "The group.", _GROUP_SCHEMA, {"group": "default", "mode": "push", "routing": True, "reason": None}
        ),
        404: _COMMON[404],
        503: _BUSY,
    },
}

METRICS: dict[str, Any] = {
    "tags": ["process"],
    "summary": "Metrics for Prometheus",
    "operation_id": "metrics",
    "responses": {200: {"description": "Text exposition format, or OpenMetrics where that is accepted."}},
}
