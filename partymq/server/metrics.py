"""Prometheus metrics: plain numbers of the groups, read when somebody scrapes."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from partymq import __version__
from partymq.group.state import MemberState
from partymq.server.face import Durations, GroupFace, Statistics

_COUNTERS: tuple[tuple[str, str, Callable[[Statistics], int]], ...] = (
    (
        "partymq_messages_routed",
        "Messages published to members, leftovers included.",
        lambda s: s.routed_messages,
    ),
    ("partymq_bytes_routed", "Bytes of the messages routed.", lambda s: s.routed_bytes),
    ("partymq_holds", "Messages that had to be held.", lambda s: s.holds),
    ("partymq_hold_exhaustions", "How often the hold budget was used up.", lambda s: s.hold_exhaustions),
    ("partymq_returns", "Messages returned by the broker as unroutable.", lambda s: s.returns),
    (
        "partymq_reconnects",
        "How often a connection to the broker was made again.",
        lambda s: s.reconnects,
    ),
    (
        "partymq_keyless_messages",
        "Messages without a usable key that were routed nevertheless.",
        lambda s: s.router.spread,
    ),
    ("partymq_fetched_messages", "Messages of leftovers fetched back.", lambda s: s.router.fetched),
    (
        "partymq_gave_way_messages",
        "Messages sent beyond a member's window, or to a paused member, lest others starve.",
        lambda s: s.router.gave_way,
    ),
    ("partymq_nacks", "Messages that the broker refused.", lambda s: s.router.nacks),
    ("partymq_sessions", "Sessions of the router begun.", lambda s: s.router.sessions),
    (
        "partymq_session_failures",
        "Sessions of the router that ended because something went wrong.",
        lambda s: s.router.session_failures,
    ),
)
_GAUGES: tuple[tuple[str, str, Callable[[Statistics], int]], ...] = (
    ("partymq_held_messages", "Messages held now.", lambda s: s.held_messages),
    ("partymq_held_bytes", "Bytes held now.", lambda s: s.held_bytes),
    ("partymq_coordinator", "1 where this instance coordinates the group.", lambda s: int(s.coordinates)),
    ("partymq_epoch", "Number of the coordinator's term.", lambda s: s.epoch),
    ("partymq_generation", "Number of the assignment.", lambda s: s.generation),
)
_HISTOGRAMS: tuple[tuple[str, str, Callable[[Statistics], Durations]], ...] = (
    ("partymq_confirm_latency_seconds", "From publishing to the confirm.", lambda s: s.confirm_latency),
    ("partymq_rebalance_duration_seconds", "How long rebalances took.", lambda s: s.rebalances),
)


class Metrics:
    """All metrics of one process, in a registry of their own."""

    def __init__(self, groups: Mapping[str, GroupFace], loop_lag: Durations | None = None) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Groups(groups, loop_lag))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type, in the form that the `Accept` header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Groups(Collector):
    def __init__(self, groups: Mapping[str, GroupFace], loop_lag: Durations | None) -> None:
        self._groups = groups
        self._loop_lag = loop_lag

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("partymq", "This program.", {"version": __version__})
        if self._loop_lag is not None:
            lag = HistogramMetricFamily(
                "partymq_event_loop_lag_seconds", "How late the event loop is.", labels=()
            )
            _add(lag, [], self._loop_lag)
            yield lag
        read = {name: group.statistics() for name, group in self._groups.items()}
        for name, text, value in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=("group",))
            for group, numbers in read.items():
                counter.add_metric([group], value(numbers))
            yield counter
        for name, text, value in _GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=("group",))
            for group, numbers in read.items():
                gauge.add_metric([group], value(numbers))
            yield gauge
        for name, text, durations in _HISTOGRAMS:
            histogram = HistogramMetricFamily(name, text, labels=("group",))
            for group, numbers in read.items():
                _add(histogram, [group], durations(numbers))
            yield histogram
        yield from self._labelled(read)

    @staticmethod
    def _labelled(read: Mapping[str, Statistics]) -> Iterator[Metric]:
        rejects = CounterMetricFamily(
            "partymq_rejects", "Messages sent to the dead-letter queue.", labels=("group", "reason")
        )
        members = GaugeMetricFamily("partymq_members", "Members by state.", labels=("group", "state"))
        lag = GaugeMetricFamily(
            "partymq_partition_lag_messages",
            "Messages of a partition known not to be processed yet.",
            labels=("group", "partition"),
        )
        for group, numbers in read.items():
            for reason, count in numbers.rejects.items():
                rejects.add_metric([group, reason], count)
            if numbers.coordinates:
                for state in MemberState:
                    members.add_metric([group, state.value], numbers.members.get(state.value, 0))
            for partition, count in numbers.lag.items():
                lag.add_metric([group, str(partition)], count)
        yield from (rejects, members, lag)


def _add(histogram: HistogramMetricFamily, labels: list[str], durations: Durations) -> None:
    buckets: list[tuple[str, float]] = []
    count = 0
    for bound, more in zip(durations.bounds, durations.counts, strict=False):
        count += more
        buckets.append((repr(float(bound)), count))
    buckets.append(("+Inf", count + durations.counts[-1]))
    histogram.add_metric(labels, buckets, durations.total)
