"""A member of group `g` that says what it begins to handle, until it is killed: `stopped_member.py URL`."""

import logging
import sys

from partymq import Consumer, Message

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    consumer = Consumer(sys.argv[1], group="g", name="child", session_timeout=1.5, coordinator="server")

    @consumer.handler
    async def handle(message: Message) -> None:
        print("begins", message.body.decode(), flush=True)

    consumer.run()
