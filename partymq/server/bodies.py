"""Bodies of requests: bounded in size and time, optional, lenient about what they are called.

Existing clients send none, or whatever their HTTP library sends (`curl -d ''` calls nothing a form). So a
body counts where it is JSON, whatever its content type says; anything that neither looks like a JSON object
nor claims to be JSON is ignored, as it always was.
"""

import asyncio
from typing import Final

import msgspec
from starlette.requests import Request

from partymq.errors import BodyTooLarge, BodyTooSlow, InvalidBody

_TIMEOUT: Final = 10.0
_DRAIN_BYTES: Final = 4 * 1024 * 1024
_DRAIN_SECONDS: Final = 2.0


class CallBody(msgspec.Struct, frozen=True):
    """What a call may carry. Unknown members are ignored."""

    queue: str | None = None
    group: str | None = None


_DECODER = msgspec.json.Decoder(CallBody)
NOTHING = CallBody()


async def read_call(request: Request, limit: int) -> CallBody:
    """The body of a member's call.

    Raises:
        BodyTooLarge, BodyTooSlow, InvalidBody
        ClientDisconnect: the client went away.
    """
    return parse_call(await read_body(request, limit), request.headers.get("content-type", ""))


async def read_body(request: Request, limit: int) -> bytes:
    """The body, at most `limit` bytes, however it is sent.

    Of a larger one some is still read and dropped before BodyTooLarge is raised, because most clients look
    for the answer only when they have sent everything.
    """
    declared = request.headers.get("content-length", "")
    too_large = declared.isascii() and declared.isdigit() and int(declared) > limit
    if too_large and request.headers.get("expect", "").lower() == "100-continue":
        raise BodyTooLarge
    body = bytearray()
    try:
        async with asyncio.timeout(_TIMEOUT) as deadline:
            dropped = 0
            async for chunk in request.stream():
                if not too_large and len(body) + len(chunk) > limit:
                    too_large = True
                if not too_large:
                    body += chunk
                    continue
                if not dropped:
                    deadline.reschedule(asyncio.get_running_loop().time() + _DRAIN_SECONDS)
                dropped += len(chunk)
                if dropped > _DRAIN_BYTES:
                    break
    except TimeoutError:
        if not too_large:
            raise BodyTooSlow from None
    if too_large:
        raise BodyTooLarge
    return bytes(body)


def parse_call(body: bytes, content_type: str) -> CallBody:
    """What a body says. Raises InvalidBody."""
    text = body.strip()
    if not text or text == b"null":
        return NOTHING
    if not text.startswith(b"{") and "json" not in content_type.lower():
        return NOTHING
    try:
        call = _DECODER.decode(text)
    except msgspec.ValidationError as error:
        raise InvalidBody(f"the body is not as it should be: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidBody(f"the body is not valid JSON: {error}") from None
    if call.queue is not None and not 1 <= len(call.queue.encode()) <= 255:
        raise InvalidBody("queue: allowed are names of 1 to 255 bytes")
    return call
