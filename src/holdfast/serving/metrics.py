"""What a replica counts, for Prometheus. Label children are looked up once, not per request."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SAMPLE = re.compile(rb"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (.*)$")


class Hot(Collector):
    """What every request counts, as plain numbers; they become metrics when somebody asks. One thread writes."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, int], int] = {}
        self._buckets: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        self._rows: dict[tuple[int, str], int] = {}
        self.sampled_out = 0

    def request(self, route: str, status: int, seconds: float) -> None:
        """One answered request."""
        key = (route, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        buckets = self._buckets.get(route)
        if buckets is None:
            buckets = self._buckets[route] = [0] * (len(_BUCKETS) + 1)
            self._sums[route] = 0.0
        buckets[bisect_left(_BUCKETS, seconds)] += 1
        self._sums[route] += seconds

    def rows(self, version: int, arm: str, n: int) -> None:
        """Rows answered by a version."""
        key = (version, arm)
        self._rows[key] = self._rows.get(key, 0) + n

    def collect(self) -> Iterable[Metric]:
        requests = CounterMetricFamily("holdfast_requests", "Requests by route and status", labels=["route", "status"])
        for (route, status), n in list(self._requests.items()):
            requests.add_metric([route, str(status)], n)
        latency = HistogramMetricFamily(
            "holdfast_request_seconds", "Time from a whole request to its answer", labels=["route"]
        )
        for route, buckets in list(self._buckets.items()):
            bounds = [*(str(b) for b in _BUCKETS), "+Inf"]
            latency.add_metric([route], list(zip(bounds, accumulate(buckets), strict=True)), self._sums[route])
        rows = CounterMetricFamily("holdfast_predictions", "Answered rows", labels=["version", "arm"])
        for (version, arm), n in list(self._rows.items()):
            rows.add_metric([str(version), arm], n)
        out = CounterMetricFamily("holdfast_sampled_out", "Answered rows the prediction log's sample leaves out")
        out.add_metric([], self.sampled_out)
        return [requests, latency, rows, out]


class Metrics:
    """The metrics of one replica."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.hot = Hot()
        registry.register(self.hot)
        self.failures = Counter(
            "holdfast_model_failures", "Rows a version failed on", ["version", "arm", "code"], registry=registry
        )
        self.refused = Counter("holdfast_refused", "Refused requests by code", ["code"], registry=registry)
        self.batch = Histogram(
            "holdfast_batch_rows",
            "Rows per model call",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 1024),
            registry=registry,
        )
        self.shadow_dropped = Counter(
            "holdfast_shadow_dropped", "Rows not copied to the shadow: its queue was full", registry=registry
        )
        self.unlogged = Counter("holdfast_unlogged", "Rows answered with logged: false", registry=registry)
        self.log_lost = Gauge("holdfast_log_lost_rows", "Rows the prediction log gave up", registry=registry)
        self.log_healthy = Gauge("holdfast_log_healthy", "1 while the prediction log can be written", registry=registry)
        self.log_pending = Gauge("holdfast_log_pending_rows", "Rows waiting for the log writer", registry=registry)
        self.pending = Gauge("holdfast_pending_requests", "Requests being answered", registry=registry)
        self.weight = Gauge(
            "holdfast_release_weight", "Percent of traffic by version and arm", ["version", "arm"], registry=registry
        )
        self.sequence = Gauge("holdfast_release_sequence", "Sequence of the release in force", registry=registry)
        self.ready = Gauge("holdfast_ready", "1 while the replica can answer", registry=registry)
        self.load_failures = Counter(
            "holdfast_version_load_failures", "Versions that could not be loaded", ["version"], registry=registry
        )
        self.range_notices = Counter(
            "holdfast_out_of_range", "Input values beyond the range seen in training", ["field"], registry=registry
        )
        self.memory = Gauge(
            "holdfast_replica_memory_bytes", "Memory held, as measured against the limit", registry=registry
        )
        self.fresh = Gauge(
            "holdfast_feature_fresh_until_seconds",
            "Unix time up to which a view the champion reads has been materialized",
            ["view"],
            registry=registry,
        )
        self.labels = Counter("holdfast_labels", "Labels taken in", registry=registry)
        ProcessCollector(registry=self.registry)

    def render(self) -> bytes:
        return bytes(generate_latest(self.registry))


def merge(parts: dict[str, bytes]) -> bytes:
    """Several replicas' texts as one, each sample with its ``replica`` label, each family described once."""
    heads: dict[bytes, list[bytes]] = {}
    samples: dict[bytes, list[bytes]] = {}
    for replica, text in parts.items():
        label = b'replica="' + replica.encode() + b'"'
        family = b""
        for line in text.splitlines():
            if line.startswith(b"# "):
                words = line.split(b" ", 3)
                family = words[2]
                known = heads.setdefault(family, [])
                if line not in known and len(known) < 2:
                    known.append(line)
                continue
            match = _SAMPLE.match(line)
            if match is None:
                continue
            labels = label if not match[2] else label + b"," + match[2]
            samples.setdefault(family, []).append(match[1] + b"{" + labels + b"} " + match[3])
    return b"".join(b"\n".join([*heads[f], *samples.get(f, [])]) + b"\n" for f in heads)
