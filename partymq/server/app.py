"""The HTTP application: routes to what the groups do. `docs/http-api.md` describes it for its users."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from partymq import __version__
from partymq.config import PullGroupSettings, Settings
from partymq.errors import BrokerError, GroupError, InvalidBody, NoCoordinator, UnknownGroup, WrongMode
from partymq.group.names import DEFAULT_GROUP, member_key
from partymq.group.wire import Bind, Heartbeat, MemberCall, Ready, Status, Unbind
from partymq.server import answers, schema
from partymq.server.bodies import CallBody, read_call
from partymq.server.face import GroupFace
from partymq.server.hostnames import EncodedPath, decoded, hostname_of
from partymq.server.metrics import Metrics

_GRACE = 1.0
"""Seconds that a group gets beyond `call_timeout` to say itself that nobody answered."""

MakeCall = Callable[[str, CallBody], MemberCall]


def create_app(
    groups: Mapping[str, GroupFace],
    settings: Settings,
    *,
    metrics: Metrics | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """The application for these groups (one for each of the settings'); starts and ends nothing itself.

    Args:
        metrics: what `/metrics` shows; without it there is no such page.
        is_stopping: once true, members' calls are answered 503 and `/ready` says so.
    """
    app = FastAPI(
        title="PartyMQ",
        version=__version__,
        description=schema.DESCRIPTION,
        openapi_tags=schema.TAGS,
        redirect_slashes=False,
    )
    app.add_middleware(EncodedPath)
    answers.install(app, settings.http.body_limit)
    app.include_router(_Calls(groups, settings, is_stopping).router())
    app.include_router(_views(groups, settings, is_stopping))
    if metrics is not None:
        app.include_router(_metrics_page(metrics))
    return app


class _Calls:
    """The four calls of a member, under both forms of path."""

    def __init__(
        self, groups: Mapping[str, GroupFace], settings: Settings, is_stopping: Callable[[], bool]
    ) -> None:
        self._groups = groups
        self._settings = settings
        self._is_stopping = is_stopping

    def router(self) -> APIRouter:
        router = APIRouter(tags=["members"])
        calls: tuple[tuple[str, MakeCall], ...] = (
            ("bind", lambda hostname, _: Bind(hostname)),
            ("ready", lambda hostname, body: Ready(hostname, body.queue)),
            ("unbind", lambda hostname, _: Unbind(hostname)),
            ("heartbeat", lambda hostname, _: Heartbeat(hostname)),
        )
        for verb, make in calls:
            for prefix in ("", "/groups/{group}"):
                # `:path`: an empty hostname or a bare slash in it gets an answer that says what is wrong
                router.add_api_route(
                    f"{prefix}/clients/{{hostname:path}}/{verb}",
                    self._endpoint(verb, make),
                    methods=["POST"],
                    **schema.of_call(verb, in_group=bool(prefix)),
                )
        return router

    def _endpoint(self, verb: str, make: MakeCall) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            body = await read_call(request, self._settings.http.body_limit)
            group = self._group(request.path_params.get("group"), body.group)
            exchange = self._exchange(group.name)
            hostname = hostname_of(request.path_params["hostname"])
            if self._is_stopping():
                raise NoCoordinator("this instance is shutting down")
            status = await self._submit(group, make(hostname, body))
            if verb == "unbind" and status is Status.UNKNOWN_MEMBER:
                status = Status.OK  # it wanted not to be a member, and is none
            if error := answers.refusal(status, hostname):
                raise error
            if verb == "bind":
                return JSONResponse({"routingKey": member_key(hostname), "exchange": exchange})
            return JSONResponse({})

        return endpoint

    def _exchange(self, group: str) -> str:
        """What members of a push group bind to. Raises WrongMode for a pull group."""
        settings = self._settings.groups[group]
        if isinstance(settings, PullGroupSettings):
            raise WrongMode(
                f'group {group} is a pull group (mode = "pull"): its members join by themselves, with the'
                f" Python library: `Consumer(…, group={group!r})`, run by `partymq worker`; these calls"
                " are for push groups"
            )
        return settings.exchange

    def _group(self, in_path: str | None, in_body: str | None) -> GroupFace:
        named = None if in_path is None else _decoded_group(in_path)
        if named is not None and in_body is not None and named != in_body:
            raise InvalidBody(f"the path says group {named}, the body says {in_body}")
        chosen = named if named is not None else in_body
        return _find(self._groups, DEFAULT_GROUP if chosen is None else chosen)

    async def _submit(self, group: GroupFace, call: MemberCall) -> Status:
        try:
            async with asyncio.timeout(self._settings.call_timeout + _GRACE):
                return await group.submit(call)
        except TimeoutError:
            raise NoCoordinator(f"group {group.name}: the coordinator did not answer in time") from None
        except GroupError as error:
            if status := answers.STATUS_OF.get(type(error)):
                return status
            raise


def _views(groups: Mapping[str, GroupFace], settings: Settings, is_stopping: Callable[[], bool]) -> APIRouter:
    """What can be looked at."""
    router = APIRouter()

    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    async def ready() -> Response:
        reasons = {name: reason for name, group in groups.items() if (reason := group.unready())}
        if is_stopping():
            return answers.failure(503, "this instance is shutting down")
        if reasons:
            return answers.failure(503, "; ".join(f"group {name}: {why}" for name, why in reasons.items()))
        return JSONResponse({"status": "ready"})

    def basics(group: GroupFace, reason: str | None) -> dict[str, Any]:
        mode = settings.groups[group.name].mode
        return {"group": group.name, "mode": mode, "routing": reason is None, "reason": reason}

    async def described(group: GroupFace) -> dict[str, Any]:
        try:
            async with asyncio.timeout(settings.call_timeout + _GRACE):
                description = await group.describe()
        except TimeoutError:
            raise NoCoordinator(f"group {group.name}: the coordinator did not answer in time") from None
        reason = group.unready()
        return {**basics(group, reason), **description}

    async def described_or_why_not(group: GroupFace) -> dict[str, Any]:
        try:
            return await described(group)
        except (GroupError, BrokerError) as error:
            return basics(group, group.unready() or str(error))

    async def all_groups() -> Response:
        found = await asyncio.gather(*(described_or_why_not(group) for group in groups.values()))
        return JSONResponse({"groups": found})

    async def one_group(request: Request) -> Response:
        return JSONResponse(await described(_find(groups, _decoded_group(request.path_params["group"]))))

    router.add_api_route("/health", health, methods=["GET"], **schema.HEALTH)
    router.add_api_route("/ready", ready, methods=["GET"], **schema.READY)
    router.add_api_route("/health", health, methods=["HEAD"], include_in_schema=False)
    router.add_api_route("/ready", ready, methods=["HEAD"], include_in_schema=False)
    router.add_api_route("/groups", all_groups, methods=["GET"], **schema.GROUPS)
    router.add_api_route("/groups/{group}", one_group, methods=["GET"], **schema.GROUP)
    return router


def _metrics_page(metrics: Metrics) -> APIRouter:
    router = APIRouter()

    async def page(request: Request) -> Response:
        content, content_type = metrics.render(request.headers.get("accept", ""))
        return Response(content, headers={"Content-Type": content_type})

    router.add_api_route("/metrics", page, methods=["GET"], **schema.METRICS)
    return router


def _decoded_group(segment: str) -> str:
    try:
        return decoded(segment)
    except ValueError:
        raise UnknownGroup("the group's name is not UTF-8 text, percent-encoded") from None


def _find(groups: Mapping[str, GroupFace], name: str) -> GroupFace:
    group = groups.get(name)
    if group is None:
        raise UnknownGroup(f"there is no group {name!r}; configured are {', '.join(groups)}")
    return group
