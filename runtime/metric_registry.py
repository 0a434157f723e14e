"""Declaring metrics: each once, with its help text, in a registry of its own.

What a process counts anyway is read when it is scraped; what is observed on a busy path goes into ``Durations``, which costs
a fraction of a microsecond.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

disable_created_metrics()  # a second series for every counter, which nobody reads

Kind = Literal["counter", "gauge", "histogram"]
Readings = Mapping[tuple[str, ...], float]


@dataclass(frozen=True)
class Declaration:
    """What the reference says of a metric. ``name`` is the one that queries use, but for a histogram's suffixes."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]


class MetricRegistry:
    """The metrics of one process.

    Attributes:
        registry: what /metrics shows.
        declared: every metric, in the order of declaration.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.declared: list[Declaration] = []

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """A counter; ``name`` ends in _total."""
        self._declare(name, "counter", text, labels)
        return Counter(name, text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        """A number that is set."""
        self._declare(name, "gauge", text, labels)
        return Gauge(name, text, labels, registry=self.registry)

    def histogram(self, name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
        """A distribution; ``buckets``: upper bounds."""
        self._declare(name, "histogram", text, labels)
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def durations(self, name: str, text: str, buckets: Sequence[float]) -> DurationHistogram:
        """A distribution that is observed very often, by one thread."""
        self._declare(name, "histogram", text, ())
        durations = DurationHistogram(name, text, buckets)
        self.registry.register(durations)
        return durations

    def read(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A number that is kept elsewhere, a counter if ``name`` ends in _total: each scrape calls ``read``, on a thread."""
        self.read_all(name, text, (), lambda: {(): read()})

    def read_all(self, name: str, text: str, labels: Sequence[str], read: Callable[[], Readings]) -> None:
        """The same for several: label values -> number. What is read may change meanwhile; ``read`` copies it first."""
        self._declare(name, "counter" if name.endswith("_total") else "gauge", text, labels)
        self.registry.register(_Read(name, text, labels, read))

    def _declare(self, name: str, kind: Kind, text: str, labels: Sequence[str]) -> None:
        assert name.endswith("_total") == (kind == "counter"), name
        self.declared.append(Declaration(name, kind, text, tuple(labels)))


class DurationHistogram(Collector):
    """A histogram of seconds whose observation takes no lock. One thread observes; a scrape may read between two updates."""

    def __init__(self, name: str, text: str, buckets: Sequence[float]) -> None:
        self._name = name
        self._text = text
        self._bounds = list(buckets)
        self._names = [*(str(float(bound)) for bound in buckets), "+Inf"]
        self._counts = [0] * len(self._names)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """One more."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text)
        family.add_metric([], list(zip(self._names, accumulate(self._counts), strict=True)), self._sum)
        yield family


class _Read(Collector):
    def __init__(self, name: str, text: str, labels: Sequence[str], read: Callable[[], Readings]) -> None:
        self._name = name
        self._text = text
        self._labels = list(labels)
        self._read = read

    def describe(self) -> Iterable[Metric]:
        # Without it registering would read, before there is anything to read.
        kind = CounterMetricFamily if self._name.endswith("_total") else GaugeMetricFamily
        yield kind(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterable[Metric]:
        for family in self.describe():
            for values, number in self._read().items():
                family.add_metric(values, number)  # pyright: ignore[reportAttributeAccessIssue] - both kinds have it
            yield family
