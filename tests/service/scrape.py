"""What a /metrics page says: (name, labels) -> value."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """One page.

    Args:
        address: host:port of the endpoint.
    """

    def __init__(self, address: str) -> None:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
            families = list(text_string_to_metric_families(reply.read().decode()))
        self.samples = [sample for family in families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        """The one sample of that name with exactly these labels; None when there is none."""
        return next((one.value for one in self.samples if one.name == name and one.labels == labels), None)

    def names(self) -> Iterator[str]:
        """Names of all samples."""
        return (sample.name for sample in self.samples)
