"""What the rooms below are told of a group's settings."""

from partymq.config.pull import PullGroupSettings
from partymq.config.settings import BrokerSettings, GroupSettings
from partymq.group.key import KeyRule
from partymq.group.layout import GroupLayout
from partymq.group.membership import Timing
from partymq.group.names import dead_letter_queue, own_exchange
from partymq.router import RouterSettings


def timing(settings: GroupSettings) -> Timing:
    """When the coordinator's patience ends."""
    return Timing(
        expires_after=settings.heartbeat.expires_after,
        pending_expires_after=settings.heartbeat.pending_expires_after,
        consumer_grace=settings.consumer_grace,
    )


def router_settings(broker: BrokerSettings, settings: GroupSettings) -> RouterSettings:
    """What the router of a group is told."""
    return RouterSettings(
        group=settings.name,
        source_queue=settings.source_queue,
        exchange=settings.exchange,
        dead_letter_exchange=own_exchange(settings.name),
        dead_letter_queue=dead_letter_queue(settings.name),
        partitions=settings.partitions,
        key=settings.key_rule,
        prefetch=settings.prefetch,
        hold_messages=settings.hold_messages,
        hold_bytes=settings.hold_bytes,
        window=settings.window,
        max_hold=broker.max_hold,
    )


def ingress_settings(
    broker: BrokerSettings, settings: PullGroupSettings, layout: GroupLayout
) -> RouterSettings:
    """What the router that fills a pull group is told. A partition's lane is named by its routing key."""
    return RouterSettings(
        group=settings.name,
        source_queue=settings.source_queue,
        exchange=settings.exchange,
        dead_letter_exchange=own_exchange(settings.name),
        dead_letter_queue=dead_letter_queue(settings.name),
        partitions=layout.partitions,
        key=KeyRule(layout.key.source, layout.key.name, settings.key.missing),
        prefetch=settings.source_prefetch,
        routing_key=lambda name: name,
        lane="partition",
        window=0.0,
        max_hold=broker.max_hold,
    )
