"""Fills group `g` from the queue `orders` until it is killed: `python ingress_process.py URL`."""

import asyncio
import sys

from partymq.amqp.url import BrokerUrl
from partymq.config.pull import PullGroupSettings
from partymq.config.settings import BrokerSettings
from partymq.coordinator.ingress import Ingress

if __name__ == "__main__":
    broker = BrokerSettings(BrokerUrl.parse(sys.argv[1]), None)
    settings = PullGroupSettings("g", source_queue="orders", source_prefetch=200)
    asyncio.run(Ingress(broker, settings, instance="child").run())
