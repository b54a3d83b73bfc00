"""Prometheus' families of samples, made from plain counts; needs the extra ``metrics``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from recsys_plugin.observability.statistics import Histogram

__all__ = ["counter", "gauge", "histograms", "keyed"]

_Value = TypeVar("_Value")
#: The values of labels, and what they have.
_Values = Iterable[tuple[tuple[str, ...], _Value]]


def keyed(values: Mapping[Any, _Value]) -> Iterator[tuple[tuple[str, ...], _Value]]:
    """Values of one label."""
    return (((str(key),), value) for key, value in values.items())


def counter(name: str, text: str, labels: list[str], values: _Values[float]) -> Any:
    """What only grows."""
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values:
        family.add_metric(list(key), value)
    return family


def gauge(name: str, text: str, labels: list[str], values: _Values[float]) -> Any:
    """What goes up and down."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values:
        family.add_metric(list(key), value)
    return family


def histograms(name: str, text: str, labels: list[str], values: _Values[Histogram]) -> Any:
    """How values are spread."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, histogram in values:
        cumulated, buckets = 0, []
        for end, count in zip((*histogram.buckets, float("inf")), histogram.counts, strict=True):
            cumulated += count
            buckets.append(("+Inf" if end == float("inf") else repr(end), cumulated))
        family.add_metric(list(key), buckets, histogram.total)
    return family
