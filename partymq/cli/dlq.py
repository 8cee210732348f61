"""`partymq dlq`: the dead letters of a group."""

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
    from partymq.client.deadletters import DeadLetter

app = typer.Typer(
    no_args_is_help=True, help="Messages that were given up: look at them, replay them, drop them."
)

_COLUMNS = ["place", "key", "partition", "reason", "error", "attempts", "replayed", "bytes"]
Key = Annotated[str | None, typer.Option("--key", help="Only those of this key.")]


@app.command("list")
def show_all(
    group: Group,
    limit: Annotated[int, typer.Option(min=1, max=65_535, help="So many of the oldest.")] = 20,
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List the oldest dead letters; none of them is taken away."""
    from partymq.group.names import dead_letter_queue

    queue, letters = with_connection(url, lambda connection: _oldest(connection, group, limit))
    told = [letter.describe() for letter in letters]
    if json:
        print_json(told)
        return
    if told:
        print_table(_COLUMNS, [[one[column] for column in _COLUMNS] for one in told])
    total = queue.messages if queue is not None else 0
    typer.echo(f"{len(told)} of {max(total, len(told))} dead letters")
    if queue is None:
        say_missing(group, dead_letter_queue(group))


async def _oldest(
    connection: "Connection", group: str, limit: int
) -> "tuple[QueueInfo | None, list[DeadLetter]]":
    """What the broker says of the queue, and its oldest messages."""
    from partymq.amqp.queues import look_at
    from partymq.client.deadletters import dead_letters
    from partymq.group.names import dead_letter_queue

    queue = await look_at(connection, dead_letter_queue(group))
    return queue, await dead_letters(connection, group, limit)


@app.command()
def show(
    group: Group,
    place: Annotated[int, typer.Argument(min=1, max=65_535, help="As `list` numbers them.")],
    json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Show one dead letter: its headers, the traceback, its body."""
    from partymq.client.deadletters import dead_letters
    from partymq.errors import ConfigError

    letters = with_connection(url, lambda connection: dead_letters(connection, group, place))
    if len(letters) < place:
        raise ConfigError(f"group {group} has {len(letters)} dead letters, not {place}")
    letter = letters[place - 1]
    if json:
        print_json(letter_json(letter))
    else:
        print_letter(letter)


@app.command()
def replay(
    group: Group,
    key: Key = None,
    place: Annotated[
        list[int] | None, typer.Option("--place", help="Only this one; may be repeated.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Put dead letters back into their partitions, oldest first, behind all that is there."""
    from partymq.client.deadletters import replay as put_back

    done = with_connection(url, lambda connection: put_back(connection, group, key=key, places=place))
    typer.echo(f"{done} dead letters are in their partitions again")


@app.command()
def purge(
    group: Group,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Drop all dead letters of a group."""
    from partymq.client.deadletters import purge as drop

    if not yes:
        typer.confirm(f"Drop all dead letters of group {group}?", abort=True)
    typer.echo(f"{with_connection(url, lambda connection: drop(connection, group))} dead letters are dropped")
