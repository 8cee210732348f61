"""`partymq group`: create, describe and delete pull groups."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from partymq.cli.brokers import DEFAULT_URL, Group, Json, Url, print_json, print_table, with_connection

if TYPE_CHECKING:
    from partymq.amqp.connection import Connection

app = typer.Typer(no_args_is_help=True, help="Create, describe and delete pull groups.")


@app.command()
def create(
    group: Group,
    partitions: Annotated[int | None, typer.Option(min=1, help="Number of partitions; 64.")] = None,
    queue_type: Annotated[str | None, typer.Option(help="quorum (default) or classic.")] = None,
    ingress: Annotated[str | None, typer.Option(help="publisher (default), hash-exchange or router.")] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Where the key is: header:NAME (default header:partitionKey), routing_key …"),
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Declare a group's queues and exchanges; nothing where it is there with these settings."""
    from partymq.client.topology import agree
    from partymq.group.layout import key_rule

    wish: dict[str, Any] = {"partitions": partitions, "queue_type": queue_type, "ingress": ingress}
    wish["key"] = key_rule(key) if key is not None else None
    wish = {name: value for name, value in wish.items() if value is not None}
    layout = with_connection(url, lambda connection: agree(connection, group, wish))
    told = ", ".join(f"{name} {value}" for name, value in layout.describe().items())
    typer.echo(f"group {group}: {told}")


@app.command()
def describe(group: Group, json: Json = False, url: Url = DEFAULT_URL) -> None:
    """Show a group's settings, and what waits in its partitions."""
    told = with_connection(url, lambda connection: _describe(connection, group))
    if json:
        print_json(told)
        return
    for name, value in told.items():
        if name != "queues":
            typer.echo(f"{name:13} {value}")
    rows = [list(queue.values()) for queue in told["queues"]]
    print_table(["partition", "ready", "consumers", "queue"], rows)


@app.command()
def delete(
    group: Group,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also while it has members.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Delete a group with all its messages, dead letters and parked ones too."""
    if not yes:
        typer.confirm(f"Delete group {group} with all its messages?", abort=True)
    messages = with_connection(url, lambda connection: _delete(connection, group, force))
    typer.echo(f"group {group} is deleted, with {messages} messages")


async def _describe(connection: "Connection", group: str) -> dict[str, Any]:
    from partymq.client.deadletters import count
    from partymq.group.names import dead_letter_queue, parked_queue

    layout = await _layout(connection, group)
    channel = await connection.open_channel()
    queues = []
    for partition in range(layout.partitions):
        name = layout.queue(group, partition)
        state = await channel.declare_queue(name, passive=True)
        queues.append(
            {"partition": partition, "ready": state.messages, "consumers": state.consumers, "queue": name}
        )
    return {
        "group": group,
        **layout.describe(),
        "ready": sum(queue["ready"] for queue in queues if isinstance(queue["ready"], int)),
        "dead_letters": await count(connection, dead_letter_queue(group)),
        "parked": await count(connection, parked_queue(group)),
        "queues": queues,
    }


async def _delete(connection: "Connection", group: str, force: bool) -> int:
    from partymq.client.topology import delete

    return await delete(connection, group, await _layout(connection, group), if_unused=not force)


async def _layout(connection: "Connection", group: str) -> Any:
    from partymq.client.topology import read_layout
    from partymq.errors import UnknownGroup

    layout = await read_layout(connection, group)
    if layout is None:
        raise UnknownGroup(f"no pull group {group!r} on this broker: `partymq group create {group}` makes it")
    return layout
