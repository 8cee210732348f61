#!/usr/bin/env python3
"""Publishes flights to a pull group with the library: all of PartyMQ that it knows is `Publisher`.

Input, rate and notes are those of publisher.py; the key of a flight is its aircraft. Exit status 0 when all
are confirmed.
"""

import argparse
import asyncio
import csv
import os
import struct
import sys
import time
from typing import Any

from partymq import Publisher

TICK_SECONDS = 0.01
MOST_UNCONFIRMED = 1000
NOTE = struct.Struct("<Iq")


class Flights:
    def __init__(self, options: argparse.Namespace) -> None:
        self.rate: float = options.rate
        with open(options.flights, newline="", encoding="ascii") as lines:
            self.flights = list(csv.reader(lines))
        self.notes = os.open(options.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.sent: list[asyncio.Task[None]] = []
        self.confirmed_up_to = 0
        self.noted = -1

    async def publish(self, publisher: Publisher) -> None:
        began = time.monotonic()
        while self.confirmed_up_to < len(self.flights):
            due = min(len(self.flights), int((time.monotonic() - began) * self.rate) + 1)
            while len(self.sent) < due and len(self.sent) - self.confirmed_up_to < MOST_UNCONFIRMED:
                body = self.body(len(self.sent))
                # Tasks begin in the order in which they are made, and so the flights are sent.
                self.sent.append(asyncio.create_task(publisher.publish(body, key=body["aircraft"])))
            await asyncio.sleep(TICK_SECONDS)
            while self.confirmed_up_to < len(self.sent) and self.sent[self.confirmed_up_to].done():
                self.sent[self.confirmed_up_to].result()  # raises where it was not confirmed
                self.confirmed_up_to += 1
            self.note()

    def body(self, number: int) -> dict[str, Any]:
        aircraft, departure, line, origin, dest, delay = self.flights[number]
        return {
            "number": number,
            "aircraft": aircraft,
            "flight": line,
            "departure": departure,
            "origin": origin,
            "dest": dest,
            "delay": int(delay) if delay else None,
        }

    def note(self) -> None:
        if self.confirmed_up_to != self.noted:
            os.write(self.notes, NOTE.pack(self.confirmed_up_to, time.monotonic_ns()))
            self.noted = self.confirmed_up_to


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="publish flights to a pull group at a steady rate")
    parser.add_argument("--amqp", required=True, help="URL of the broker")
    parser.add_argument("--group", required=True)
    parser.add_argument("--flights", required=True, help="file with a line for each flight")
    parser.add_argument("--notes", default=os.devnull, help="file for the notes on what is confirmed")
    parser.add_argument("--rate", type=float, required=True, help="messages per second")
    return parser.parse_args(arguments)


async def main(options: argparse.Namespace) -> None:
    async with Publisher(options.amqp, group=options.group) as publisher:
        await Flights(options).publish(publisher)


if __name__ == "__main__":
    asyncio.run(main(parse(sys.argv[1:])))
