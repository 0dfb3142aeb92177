"""Measures of the service for Prometheus. Labels hold routes, states and reasons, never names or identifiers."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class Measures:
    """Counters of one server.

    Attributes:
        requests: by route and status.
        seconds: of a stage: upload, read, wait (in the queue), write (of a batch), request.
        waiting: reports in the queue.
        batch: reports written together.
        refusals: by reason.
        reloads: of the model, by result.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("llava_rad_requests", "Requests", ("route", "status"), registry=self.registry)
        self.seconds = Histogram(
            "llava_rad_seconds", "Seconds of a stage", ("stage",), registry=self.registry, buckets=_SECONDS
        )
        self.waiting = Gauge("llava_rad_waiting", "Reports in the queue", registry=self.registry)
        self.batch = Histogram(
            "llava_rad_batch_size", "Reports together", registry=self.registry, buckets=(1, 2, 4, 8, 16, 32, 64)
        )
        self.refusals = Counter("llava_rad_refusals", "Refusals", ("reason",), registry=self.registry)
        self.reloads = Counter("llava_rad_reloads", "Reloads of the model", ("result",), registry=self.registry)

    def text(self) -> bytes:
        """Return all values in Prometheus' text format."""
        return generate_latest(self.registry)
