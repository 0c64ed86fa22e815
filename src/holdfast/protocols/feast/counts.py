"""What the feature server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from holdfast.serving.metrics import Hot


class Counts(Collector):
    """Requests by route and status with their times, and rows read and pushed. One thread writes."""

    def __init__(self) -> None:
        self.requests = Hot()
        self._refused: dict[str, int] = {}
        self.read = 0
        self.pushed = 0
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def collect(self) -> Iterable[Metric]:
        # of a replica's hot counters, those of requests; the others are about predictions
        yield from (m for m in self.requests.collect() if m.name.startswith("holdfast_request"))
        read = CounterMetricFamily("holdfast_feature_rows_read", "Entity rows answered")
        read.add_metric([], self.read)
        pushed = CounterMetricFamily("holdfast_feature_rows_pushed", "Event rows taken in")
        pushed.add_metric([], self.pushed)
        refused = CounterMetricFamily("holdfast_refused", "Refused requests by code", labels=["code"])
        for code, n in list(self._refused.items()):
            refused.add_metric([code], n)
        yield from (read, pushed, refused)

    def refuse(self, code: str) -> None:
        """A request that got an error of this number."""
        self._refused[code] = self._refused.get(code, 0) + 1

    def render(self) -> bytes:
        """All of it as Prometheus reads it."""
        return bytes(generate_latest(self._registry))
