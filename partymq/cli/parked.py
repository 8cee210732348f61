"""`partymq parked`: keys that wait for somebody to release them."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from partymq.cli.brokers import (
    DEFAULT_URL,
    Group,
    Json,
    Url,
    letter_json,
    print_json,
    print_letter,
    print_table,
    say_missing,
    with_connection,
)

if TYPE_CHECKING:
    from partymq.amqp.connection import Connection
    from partymq.amqp.topology import QueueInfo
    from partymq.client.deadletters import DeadLetter, ParkedKey

app = typer.Typer(no_args_is_help=True, help="Keys whose messages wait since one of them failed for good.")

Key = Annotated[str, typer.Argument(metavar="KEY", help="As `list` shows it.")]
Wait = Annotated[float, typer.Option(min=0.0, help="Seconds to wait until they are handled.")]

_LOOK_AGAIN = 0.5


@app.command("list")
def show_all(group: Group, json: Json = False, url: Url = DEFAULT_URL) -> None:
    """List the parked keys."""
    from partymq.group.names import parked_queue

    queue, keys = with_connection(url, lambda connection: _parked(connection, group))
    told = [{name: value for name, value in asdict(key).items() if name != "raw"} for key in keys]
    if json:
        print_json(told)
        return
    if told:
        print_table(list(told[0]), [list(one.values()) for one in told])
    typer.echo(f"parked keys: {len(told)}")
    if queue is None:
        say_missing(group, parked_queue(group))


async def _parked(connection: "Connection", group: str) -> "tuple[QueueInfo | None, list[ParkedKey]]":
    """What the broker says of the queue, and its keys."""
    from partymq.amqp.queues import look_at
    from partymq.client.deadletters import parked_keys
    from partymq.group.names import parked_queue

    queue = await look_at(connection, parked_queue(group))
    return queue, await parked_keys(connection, group)


@app.command()
def show(group: Group, key: Key, json: Json = False, url: Url = DEFAULT_URL) -> None:
    """Show the parked messages of a key, in order: headers, the traceback of the one that failed, bodies."""
    letters = with_connection(url, lambda connection: _messages(connection, group, key))
    if json:
        print_json([letter_json(letter) for letter in letters])
        return
    for letter in letters:
        typer.echo(f"message {letter.place} of {len(letters)}")
        print_letter(letter)
        typer.echo()


@app.command()
def skip(group: Group, key: Key, wait: Wait = 30.0, url: Url = DEFAULT_URL) -> None:
    """Make a dead letter of a key's first parked message, and release the key."""
    left = with_connection(url, lambda connection: _skip(connection, group, key, wait))
    typer.echo(f"the first message of {key} is a dead letter")
    _say_left(left)


async def _messages(connection: "Connection", group: str, key: str) -> "list[DeadLetter]":
    from partymq.client.deadletters import parked_messages

    letters = await parked_messages(connection, group, key)
    if not letters:
        raise _not_parked(group, [key])
    return letters


async def _skip(connection: "Connection", group: str, key: str, wait: float) -> list[str]:
    """The key, while it is still parked."""
    from partymq.client.deadletters import pass_over
    from partymq.client.failure import KEY_HEADER
    from partymq.client.parking import header

    first = (await _messages(connection, group, key))[0]
    await pass_over(connection, group, first)
    return await _ask(connection, group, {key: header(first.raw, KEY_HEADER) or b""}, wait)


@app.command()
def release(
    group: Group,
    key: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="As `list` shows them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All parked keys.")] = False,
    wait: Wait = 30.0,
    url: Url = DEFAULT_URL,
) -> None:
    """Have a running member handle what is parked of a key, in order, and let the key go on."""
    from partymq.errors import ConfigError

    if bool(key) == everything:
        raise ConfigError("say which keys to release, or --all")
    left = with_connection(url, lambda connection: _release(connection, group, key, wait))
    _say_left(left)


async def _release(connection: "Connection", group: str, keys: list[str] | None, wait: float) -> list[str]:
    """The keys that are still parked."""
    from partymq.client.deadletters import parked_keys

    parked = {one.key: one.raw for one in await parked_keys(connection, group)}
    wanted = keys if keys is not None else list(parked)
    unknown = [key for key in wanted if key not in parked]
    if unknown:
        raise _not_parked(group, unknown)
    return await _ask(connection, group, {key: parked[key] for key in wanted}, wait)


async def _ask(connection: "Connection", group: str, wanted: dict[str, bytes], wait: float) -> list[str]:
    """Asks for the release of keys, and waits for it; those that are still parked."""
    import asyncio

    from partymq.client.deadletters import parked_keys
    from partymq.client.parking import ask_for_release

    for raw in wanted.values():
        await ask_for_release(connection, group, raw)
    left = list(wanted)
    clock = asyncio.get_running_loop().time
    deadline = clock() + wait
    while left and clock() < deadline:
        await asyncio.sleep(_LOOK_AGAIN)
        parked = {one.key for one in await parked_keys(connection, group)}
        for key in left:
            if key not in parked:
                typer.echo(f"{key} is released")
        left = [key for key in left if key in parked]
    return left if wait else []


def _not_parked(group: str, keys: list[str]) -> Exception:
    from partymq.errors import ConfigError

    return ConfigError(f"group {group}: not parked: {', '.join(keys)}")


def _say_left(keys: list[str]) -> None:
    from partymq.errors import GroupError

    if keys:
        raise GroupError(
            f"still parked: {', '.join(keys)}: does their handler fail again, or is no member running?"
        )
