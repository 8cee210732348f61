"""From outcomes and errors to HTTP answers: always JSON, an error always `{"error": "…"}`."""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from partymq.errors import (
    AlreadyPending,
    AlreadyReady,
    BodyTooLarge,
    BodyTooSlow,
    BrokerError,
    GroupError,
    GroupFull,
    InvalidBody,
    InvalidHostname,
    NoCoordinator,
    NotBound,
    UnknownGroup,
    UnknownMember,
    WrongMode,
)
from partymq.group.wire import Status
from partymq.log import get_logger

RETRY_AFTER = {"Retry-After": "1"}
"""Seconds after which a call that found no coordinator may be repeated."""

_CODES: dict[type[GroupError], int] = {
    AlreadyPending: 409,
    NotBound: 409,
    AlreadyReady: 409,
    WrongMode: 409,
    UnknownMember: 404,
    UnknownGroup: 404,
    InvalidHostname: 422,
    GroupFull: 503,
    NoCoordinator: 503,
}

_log = get_logger(__name__)


def refusal(status: Status, hostname: str) -> GroupError | None:
    """The error for a call's outcome, worded for whoever made the call; None where it went well."""
    match status:
        case Status.OK:
            return None
        case Status.ALREADY_PENDING:
            return AlreadyPending(
                f"{hostname} is bound already and has not said ready: say ready, "
                "or bind again when that bind has expired"
            )
        case Status.NOT_BOUND:
            return NotBound(f"{hostname} is not bound: bind first, then say ready")
        case Status.ALREADY_READY:
            return AlreadyReady(f"{hostname} is ready already")
        case Status.UNKNOWN_MEMBER:
            return UnknownMember(f"{hostname} is not a member (any more): bind again")
        case Status.GROUP_FULL:
            return GroupFull("the group has as many members as it can have: try again when one has left")


STATUS_OF: Mapping[type[GroupError], Status] = {
    AlreadyPending: Status.ALREADY_PENDING,
    NotBound: Status.NOT_BOUND,
    AlreadyReady: Status.ALREADY_READY,
    UnknownMember: Status.UNKNOWN_MEMBER,
    GroupFull: Status.GROUP_FULL,
}


def failure(code: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An answer that says what went wrong."""
    return JSONResponse({"error": text}, code, headers)


def install(app: FastAPI, body_limit: int) -> None:
    """Makes every error of the app, FastAPI's own included, an answer in our form."""

    async def group_error(_: Request, error: Exception) -> Response:
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), 500)
        return failure(code, str(error), RETRY_AFTER if code == 503 else None)

    async def broker_error(_: Request, error: Exception) -> Response:
        return failure(503, f"the broker is away: {error}", RETRY_AFTER)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        phrase = HTTPStatus(error.status_code).phrase
        text = (
            f"{error.detail}: {request.method} {request.url.path}" if error.detail == phrase else error.detail
        )
        return failure(error.status_code, text, error.headers)

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        reasons = ("/".join(map(str, each["loc"])) + ": " + str(each["msg"]) for each in error.errors())
        return failure(422, "; ".join(reasons))

    async def too_large(_: Request, __: Exception) -> Response:
        return failure(413, f"the body is too large; allowed are {body_limit} bytes", {"Connection": "close"})

    async def too_slow(_: Request, __: Exception) -> Response:
        return failure(408, "the body did not come in time", {"Connection": "close"})

    async def bad_body(_: Request, error: Exception) -> Response:
        return failure(422, str(error))

    async def gone(_: Request, __: Exception) -> Response:
        return failure(400, "the client went away before it had sent everything", {"Connection": "close"})

    async def unexpected(request: Request, error: Exception) -> Response:
        _log.error("request_failed", method=request.method, path=request.url.path, exc_info=error)
        return failure(500, "internal error; the log says more")

    app.add_exception_handler(GroupError, group_error)
    app.add_exception_handler(BrokerError, broker_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(BodyTooLarge, too_large)
    app.add_exception_handler(BodyTooSlow, too_slow)
    app.add_exception_handler(InvalidBody, bad_body)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, unexpected)
