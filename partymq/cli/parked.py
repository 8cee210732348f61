"""`partymq parked`: keys that wait for somebody to release them."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from partymq.cli.brokers import (
    DEFAULT_URL,
    Group,
    Json,
    Url,
    print_json,
    print_table,
    say_missing,
    with_connection,
)

if TYPE_CHECKING:
    from partymq.amqp.connection import Connection
    from partymq.amqp.topology import QueueInfo
    from partymq.client.deadletters import ParkedKey

app = typer.Typer(no_args_is_help=True, help="Keys whose messages wait since one of them failed for good.")

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
def release(
    group: Group,
    key: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="As `list` shows them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All parked keys.")] = False,
    wait: Annotated[float, typer.Option(min=0.0, help="Seconds to wait until they are handled.")] = 30.0,
    url: Url = DEFAULT_URL,
) -> None:
    """Have a running member handle what is parked of a key, in order, and let the key go on."""
    from partymq.errors import ConfigError, GroupError

    if bool(key) == everything:
        raise ConfigError("say which keys to release, or --all")
    left = with_connection(url, lambda connection: _release(connection, group, key, wait))
    if left:
        raise GroupError(
            f"still parked: {', '.join(left)}: does their handler fail again, or is no member running?"
        )


async def _release(connection: "Connection", group: str, keys: list[str] | None, wait: float) -> list[str]:
    """The keys that are still parked."""
    import asyncio

    from partymq.client.deadletters import parked_keys
    from partymq.client.parking import ask_for_release
    from partymq.errors import ConfigError

    parked = {one.key: one.raw for one in await parked_keys(connection, group)}
    wanted = keys if keys is not None else list(parked)
    unknown = [key for key in wanted if key not in parked]
    if unknown:
        raise ConfigError(f"group {group}: not parked: {', '.join(unknown)}")
    for key in wanted:
        await ask_for_release(connection, group, parked[key])
    left = wanted
    clock = asyncio.get_running_loop().time
    deadline = clock() + wait
    while left and clock() < deadline:
        await asyncio.sleep(_LOOK_AGAIN)
        parked = {one.key: one.raw for one in await parked_keys(connection, group)}
        for key in left:
            if key not in parked:
                typer.echo(f"{key} is released")
        left = [key for key in left if key in parked]
    return left if wait else []
