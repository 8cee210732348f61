"""`partymq group`: create, describe and delete pull groups."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from partymq.cli.brokers import DEFAULT_URL, Group, Json, Url, print_json, print_table, with_connection

if TYPE_CHECKING:
    from partymq.amqp.connection import Connection
    from partymq.amqp.topology import QueueInfo

app = typer.Typer(no_args_is_help=True, help="Create, describe, resize and delete pull groups.")


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
    prefetch: Annotated[
        int | None,
        typer.Option(min=1, help="Messages that a member has and has not acknowledged, at most; 4000."),
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Declare a group's queues and exchanges; nothing where it is there with these settings."""
    from partymq.coordinator.pull_topology import agree
    from partymq.group.allowed import check_group
    from partymq.group.layout import key_rule

    check_group(group)
    wish: dict[str, Any] = {"partitions": partitions, "queue_type": queue_type, "ingress": ingress}
    wish |= {"key": key_rule(key) if key is not None else None, "prefetch": prefetch}
    wish = {name: value for name, value in wish.items() if value is not None}
    layout = with_connection(url, lambda connection: agree(connection, group, wish, meant=True))
    told = ", ".join(f"{name} {value}" for name, value in layout.describe().items())
    typer.echo(f"group {group}: {told}")


@app.command()
def describe(group: Group, json: Json = False, url: Url = DEFAULT_URL) -> None:
    """Show a group's settings, its members, and what waits in its partitions."""
    from partymq.cli.coordination import lines, member_rows

    told = with_connection(url, lambda connection: _describe(connection, group))
    if json:
        print_json(told)
        return
    coordination = told["coordination"]
    shown = {name: value for name, value in told.items() if name not in ("queues", "coordination")}
    for name, value in (*shown.items(), *lines(coordination)):
        typer.echo(f"{name:13} {value}")
    if coordination["members"]:
        typer.echo()
        print_table(["member", "state", "partitions", "old partitions", "heard"], member_rows(coordination))
    typer.echo()
    columns = ["partition", "ready", "consumers", "owner", "token", "queue"]
    print_table(columns, [list(queue.values()) for queue in told["queues"]])


@app.command()
def resize(
    group: Group,
    partitions: Annotated[int | None, typer.Option(min=1, help="The new number of partitions.")] = None,
    prefetch: Annotated[
        int | None,
        typer.Option(min=1, help="Messages that a member has and has not acknowledged, at most."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Until all that was in the old partitions is handled.")] = True,
    url: Url = DEFAULT_URL,
) -> None:
    """Give a group another number of partitions, or another prefetch, while it is at work.

    Its messages go to new queues; the order of each key is kept.
    """
    if partitions is None and prefetch is None:
        raise typer.BadParameter("say what is to change: --partitions, --prefetch, or both")
    with_connection(url, lambda connection: _resize(connection, group, partitions, prefetch, wait))


async def _resize(
    connection: "Connection", group: str, partitions: int | None, prefetch: int | None, wait: bool
) -> None:
    import asyncio

    from partymq.coordinator.layout_store import read_layout
    from partymq.coordinator.pull_topology import resize

    present = await _layout(connection, group)
    layout = await resize(connection, group, partitions or present.partitions, prefetch)
    typer.echo(f"group {group}: publishers use {layout.partitions} partitions from now on")
    said = ""
    while (before := layout.before()) is not None:
        left, consumers = await _left(connection, group, before)
        text = (
            f"{left} messages ready in the {before.partitions} old partitions, {consumers} of them consumed"
        )
        if not wait:
            typer.echo(f"{text}; members go on with it (`partymq group describe {group}`)")
            return
        if text != said:
            typer.echo(text)
            said = text
        await asyncio.sleep(0.5)
        layout = await read_layout(connection, group) or layout
    typer.echo(f"group {group}: {layout.partitions} partitions; nothing is left of the old ones")


async def _left(connection: "Connection", group: str, before: Any) -> tuple[int, int]:
    """What is ready in the partitions of a layout, and how many have a consumer."""
    states = [await _state(connection, before.queue(group, number)) for number in range(before.partitions)]
    return sum(state.messages for state in states), sum(state.consumers for state in states)


async def _state(connection: "Connection", queue: str) -> "QueueInfo":
    """What is in a queue; nothing where it is gone."""
    from partymq.amqp.queues import look_at
    from partymq.amqp.topology import QueueInfo

    return await look_at(connection, queue) or QueueInfo(queue, 0, 0)


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
    from partymq.cli.coordination import ask_coordinator, owners, summary
    from partymq.client.deadletters import count
    from partymq.group.names import dead_letter_queue, parked_queue

    layout = await _layout(connection, group)
    said = await ask_coordinator(connection, group)
    queues = []
    for one in (layout.before(), layout):
        if one is None:
            continue
        owned = owners(said, one.layout)
        for partition in range(one.partitions):
            name = one.queue(group, partition)
            state = await _state(connection, name)
            owner, token = owned.get(partition, (None, None))
            queues.append(
                {
                    "partition": partition,
                    "ready": state.messages,
                    "consumers": state.consumers,
                    "owner": owner,
                    "fencing_token": token,
                    "queue": name,
                }
            )
    return {
        "group": group,
        **layout.describe(),
        "ready": sum(queue["ready"] for queue in queues),
        "dead_letters": await count(connection, dead_letter_queue(group)),
        "parked": await count(connection, parked_queue(group)),
        "coordination": summary(said),
        "queues": queues,
    }


async def _delete(connection: "Connection", group: str, force: bool) -> int:
    from partymq.coordinator.pull_removal import delete

    return await delete(connection, group, await _layout(connection, group), if_unused=not force)


async def _layout(connection: "Connection", group: str) -> Any:
    from partymq.coordinator.layout_store import read_layout
    from partymq.errors import UnknownGroup

    layout = await read_layout(connection, group)
    if layout is None:
        raise UnknownGroup(f"no pull group {group!r} on this broker: `partymq group create {group}` makes it")
    return layout
