"""What commands on a group need: where the broker is, and a connection for as long as the command runs."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from partymq.amqp.connection import Connection
    from partymq.client.deadletters import DeadLetter

_ResultT = TypeVar("_ResultT")

Url = Annotated[
    str, typer.Option("--url", envvar="PARTYMQ_RABBIT_CS", metavar="URL", help="The broker's AMQP URL.")
]
DEFAULT_URL = "amqp://localhost"
Group = Annotated[str, typer.Argument(metavar="GROUP", help="The group's name.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


def with_connection(url: str, work: "Callable[[Connection], Awaitable[_ResultT]]") -> _ResultT:
    """Runs `work` with a connection. Raises what it raises, and ConfigError, LoginRefused, ConnectionLost."""
    import asyncio

    from partymq.amqp.connection import connect
    from partymq.amqp.url import BrokerUrl

    async def run() -> _ResultT:
        connection = await connect(BrokerUrl.parse(url), name="partymq command")
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


def print_letter(letter: "DeadLetter") -> None:
    """A message that was put away, for people: our headers, its own, its body."""
    from partymq.client.deadletters import OURS

    headers = letter.headers
    for name in (*OURS, *(name for name in headers if name not in OURS)):
        if name in headers:
            typer.echo(f"{name}: {headers[name]}")
    typer.echo(f"\n{body_text(letter)}")


def letter_json(letter: "DeadLetter") -> dict[str, Any]:
    """The same for machines."""
    return {**letter.describe(), "headers": letter.headers, "body": body_text(letter)}


def body_text(letter: "DeadLetter") -> str:
    """Its body as text; what is none of it as `\\xff`."""
    return letter.body.decode(errors="backslashreplace")


def say_missing(group: str, queue: str) -> None:
    """A line on standard error about a queue that is not there: the group's name may be a wrong one."""
    typer.echo(f"there is no queue {queue}: is {group} the group's name?", err=True)


def print_json(value: object) -> None:
    """Indented, for people and for jq."""
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(columns: list[str], rows: list[list[object]]) -> None:
    """Plain columns; nothing is wrapped when the output goes into a file."""
    texts = [columns, *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[at]) for row in texts) for at in range(len(columns))]
    for row in texts:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    text = "-" if value is None else " ".join(str(value).split())
    return text if len(text) <= 80 else text[:79] + "…"
