"""Declaration of a process's metrics: each once, with its help text, in a registry that is not the global one.

What a process counts anyway is read when it is scraped; what is observed on a busy path goes into a ``DurationHistogram``,
which costs a fraction of a microsecond per observation.
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
    """Name, kind, help text and labels of a metric, from which the metric reference is generated.

    ``name`` is the one that queries use, except that a histogram's series have suffixes (_bucket, _count, _sum).
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]


class MetricRegistry:
    """The metrics of one process.

    Attributes:
        prometheus: prometheus_client's registry, which /metrics shows.
        declared: every metric, in the order of declaration.
    """

    def __init__(self) -> None:
        self.prometheus = CollectorRegistry()
        self.declared: list[Declaration] = []

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """Declares a counter; ``name`` ends in _total."""
        self._declare(name, "counter", text, labels)
        return Counter(name, text, labels, registry=self.prometheus)

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        """Declares a number that is set and may fall."""
        self._declare(name, "gauge", text, labels)
        return Gauge(name, text, labels, registry=self.prometheus)

    def histogram(self, name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
        """Declares a distribution; ``buckets`` are upper bounds, ascending."""
        self._declare(name, "histogram", text, labels)
        return Histogram(name, text, labels, buckets=buckets, registry=self.prometheus)

    def durations(self, name: str, text: str, buckets: Sequence[float]) -> DurationHistogram:
        """Declares a distribution of seconds that one thread observes very often; ``buckets`` are upper bounds, ascending."""
        self._declare(name, "histogram", text, ())
        durations = DurationHistogram(name, text, buckets)
        self.prometheus.register(durations)
        return durations

    def read(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Declares a number that is kept elsewhere: each scrape calls ``read``, on any thread.

        It is a counter if ``name`` ends in _total, otherwise a gauge.
        """
        self.read_all(name, text, (), lambda: {(): read()})

    def read_all(self, name: str, text: str, labels: Sequence[str], read: Callable[[], Readings]) -> None:
        """Declares a labelled metric that is kept elsewhere: each scrape calls ``read``, on any thread.

        Args:
            name: a counter if it ends in _total, otherwise a gauge.
            text: help text.
            labels: label names.
            read: returns label values -> number; a new mapping, because the numbers may change while it is read.
        """
        self._declare(name, "counter" if name.endswith("_total") else "gauge", text, labels)
        self.prometheus.register(_Read(name, text, labels, read))

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
        """Records one duration. Call it on one thread only."""
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
