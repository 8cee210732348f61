"""From the function that somebody wrote to what the consumer calls: async or in threads, with a decoded body
where a second parameter asks for one.

The body is decoded by the annotation of that parameter: into a dataclass, a msgspec Struct, a pydantic model,
or anything else that msgspec knows (`dict[str, int]`, a union …); `bytes` and `str` as they are; without an
annotation into whatever is in it. MessagePack where the message's content type says so, JSON otherwise.
"""

import asyncio
import contextvars
import inspect
import typing
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from partymq.client.message import Message
from partymq.errors import ConfigError, ConnectionLost, Undecodable
from partymq.group.key import PropertyKey

Handle = Callable[..., Any]
"""`handle(message)` or `handle(message, body)`, async or not."""

_MSGPACK: Final = frozenset({b"application/msgpack", b"application/x-msgpack", b"application/vnd.msgpack"})
_CONTENT_TYPE = PropertyKey("content_type").find
_Decode = Callable[[Message], Any]


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler, ready to be called.

    Attributes:
        call: raises what the function raises, and Undecodable.
        in_threads: it runs in a thread, so cancelling has no effect on it.
    """

    call: Callable[[Message], Awaitable[Any]]
    in_threads: bool


def is_async(function: Handle) -> bool:
    """Whether it is an async function, or an object whose call is one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )


def is_generator(function: Handle) -> bool:
    """Whether it has a `yield`: a call would run nothing of it."""
    called = getattr(function, "__call__", None)  # noqa: B004
    return any(
        inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one) for one in (function, called)
    )


def make_handler(function: Handle, threads: Executor | None) -> Handler:
    """The handler for a function; `threads` is where it runs if it is not async.

    Raises ConfigError where the function can't be a handler, naming what is wrong.
    """
    if isinstance(function, type):
        raise ConfigError(f"handler {_name(function)} is a class: allowed are functions, and objects of it")
    if is_generator(function):
        raise ConfigError(f"handler {_name(function)} has a `yield`, so a call would run nothing of it")
    decode = _body_decoder(function)
    if is_async(function):
        if decode is None:
            return Handler(function, in_threads=False)

        async def call(message: Message) -> None:
            await function(message, decode(message))

        return Handler(call, in_threads=False)

    assert threads is not None

    def plain(message: Message) -> None:
        if message.lost.is_set():  # while it waited for a thread
            raise ConnectionLost("the partition was lost before its message was begun")
        try:
            result = function(message) if decode is None else function(message, decode(message))
        except StopIteration as error:
            # A future does not take it: nobody would learn that the function has ended.
            raise RuntimeError(f"{_name(function)} raised StopIteration") from error
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError(f"{_name(function)} is a plain function but returns a coroutine: make it async")
        if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
            what = type(result).__name__
            raise TypeError(
                f"{_name(function)} returns {what}, which nobody would run: make it an async function"
            )

    async def call_in_thread(message: Message) -> None:
        context = contextvars.copy_context()
        await asyncio.get_running_loop().run_in_executor(threads, context.run, plain, message)

    return Handler(call_in_thread, in_threads=True)


def _body_decoder(function: Handle) -> _Decode | None:
    """How the body is decoded for the second parameter; None where there is none."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise ConfigError(f"handler {_name(function)}: its parameters can't be seen: {error}") from error
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    anything = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    needed = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if not (positional or anything) or len(needed) > 2 or any(p.kind is p.KEYWORD_ONLY for p in needed):
        raise ConfigError(
            f"handler {_name(function)}: allowed are handle(message) and handle(message, body: SomeType)"
        )
    # A second parameter with a default is the function's own business.
    if len(positional) < 2 or positional[1].default is not inspect.Parameter.empty:
        return None
    return decoder_for(_annotation(function, positional[1]), _name(function))


def decoder_for(annotation: Any, name: str = "?") -> _Decode:
    """How a message's body becomes that type. The function raises Undecodable; this one ConfigError where
    the type can't be decoded into."""
    if annotation is bytes:
        return _as_bytes
    if annotation is str:
        return _as_text
    try:
        return _by_content_type(*_decoders(annotation))
    except (TypeError, NameError) as error:
        raise ConfigError(
            f"handler {name}: a body can't be decoded into {annotation!r}: {error}; allowed are dataclasses,"
            " msgspec Structs, pydantic models, and types made of builtins"
        ) from error


def _annotation(function: Handle, parameter: inspect.Parameter) -> Any:
    if parameter.annotation is parameter.empty:
        return Any
    owner = function
    while hasattr(owner, "func"):
        owner = owner.func
    if not inspect.isroutine(owner):
        owner = getattr(owner, "__call__")  # noqa: B004, B009
    try:
        return typing.get_type_hints(owner, include_extras=True).get(parameter.name, Any)
    except NameError as error:
        raise ConfigError(
            f"handler {_name(function)}: the annotation of {parameter.name!r} can't be resolved: {error};"
            " the type has to be defined at the top of a module"
        ) from error


def _decoders(annotation: Any) -> tuple[Callable[[bytes], Any], Callable[[bytes], Any]]:
    """From JSON, from MessagePack."""
    from_json = getattr(annotation, "model_validate_json", None)
    if callable(from_json):  # A pydantic model; pydantic itself is not needed here.
        return from_json, lambda body: annotation.model_validate(msgspec.msgpack.decode(body))
    return msgspec.json.Decoder(annotation).decode, msgspec.msgpack.Decoder(annotation).decode


def _by_content_type(from_json: Callable[[bytes], Any], from_msgpack: Callable[[bytes], Any]) -> _Decode:
    def decode(message: Message) -> Any:
        raw = message.raw
        kind = _CONTENT_TYPE(raw.data, raw.header_at, len(raw.data), b"")
        packed = kind is not None and kind.partition(b";")[0].strip().lower() in _MSGPACK
        try:
            return from_msgpack(message.body) if packed else from_json(message.body)
        # ValueError: also what msgspec and pydantic raise.
        except (ValueError, TypeError, RecursionError, msgspec.MsgspecError) as error:
            what = "MessagePack" if packed else "JSON"
            raise Undecodable(f"the body is not {what} of the handler's type: {error}") from error

    return decode


def _as_bytes(message: Message) -> bytes:
    return message.body


def _as_text(message: Message) -> str:
    try:
        return message.body.decode()
    except UnicodeDecodeError as error:
        raise Undecodable(f"the body is not text in UTF-8: {error}") from error


def _name(function: Handle) -> str:
    return str(getattr(function, "__qualname__", None) or repr(function))
